"""Images per second and FID of poise against torch-fidelity and pytorch-fid: same network, weights, images and process.

All three extract InceptionV3's features with the same random weights from the same images and take the Fréchet distance
to the same reference. Weights are random since none may be at hand: what is timed and compared does not depend on them.
Run it on an otherwise idle machine:

    python benchmarks/evaluation.py [--images 200] [--rounds 3] [--device cpu]

Writes ``benchmarks/results/evaluation.csv`` and ``.png``.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from timing import bar_plot, interleaved, write_csv
from torch import Tensor, nn
from torch.utils.data import Dataset

from poise.metrics import Extractor, frechet_distance
from poise.metrics.extractors import inception_of
from poise.metrics.features import extract

RESOLUTION, BATCH = 32, 50
WANTED = {"fp32": (1.2, 1e-3), "bf16": (2.0, 5e-3)}
"""times torch-fidelity's images per second, and the largest relative difference of FID allowed"""


def random_inception() -> Any:
    """torch-fidelity's network with random weights whose activations neither vanish nor explode."""
    from torch_fidelity import feature_extractor_inceptionv3 as room

    kind = room.FeatureExtractorInceptionV3

    def no_weights(*_: Any, **__: Any) -> dict[str, Tensor]:
        return {}

    with (
        patch.object(room, "load_state_dict_from_url", no_weights),
        patch.object(kind, "load_state_dict", lambda *_: None),
    ):
        net = kind("inception-v3-compat", ["2048", "logits_unbiased"])
    torch.manual_seed(0)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0, 0.1)
    return net


class Images(Dataset[Tensor]):
    """Images for torch-fidelity and pytorch-fid, which ask for one at a time."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def textured(n: int, roughness: float, seed: int) -> Tensor:
    """Smooth random images with some noise, uint8 (n, 3, 32, 32)."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, 3, 4, 4, generator=random)
    smooth = nn.functional.interpolate(coarse, RESOLUTION, mode="bilinear")
    grain = roughness * torch.randn(n, 3, RESOLUTION, RESOLUTION, generator=random)
    return ((smooth + grain) * 50 + 128).clamp(0, 255).to(torch.uint8)


def by_poise(images: Tensor, extractor: Extractor) -> tuple[Tensor, Tensor]:
    found = extract([(images, None)], len(images), extractor)
    return found.mean, found.covariance


def by_torch_fidelity(images: Tensor, net: Any, device: str) -> tuple[Tensor, Tensor]:
    from torch_fidelity.metric_fid import fid_features_to_statistics
    from torch_fidelity.utils import get_featuresdict_from_dataset

    # In this process: to start workers for images that are in memory already would count against it.
    found = get_featuresdict_from_dataset(Images(images), net, BATCH, device == "cuda", True, False)
    statistics = fid_features_to_statistics(found["2048"])
    return torch.from_numpy(statistics["mu"]).double(), torch.from_numpy(statistics["sigma"])


def by_pytorch_fid(images: Tensor, net: Any, device: str) -> tuple[Tensor, Tensor]:
    """pytorch-fid's loop and statistics over the same network; its own reads files, which is not what is compared."""
    from pytorch_fid import fid_score

    class Wrapped(nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            return [net(x)[0][:, :, None, None]]

    with (
        patch.object(fid_score, "ImagePathDataset", lambda *_, **__: Images(images)),
        redirect_stderr(io.StringIO()),
    ):
        mean, covariance = fid_score.calculate_activation_statistics(
            list(range(len(images))), Wrapped(), BATCH, 2048, device, 0
        )
    return torch.from_numpy(np.asarray(mean)), torch.from_numpy(np.asarray(covariance))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=200, help="images judged (default: 200)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (default: 3)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    arguments = parser.parse_args()
    net = random_inception()
    ours = inception_of(net.state_dict())
    net = net.to(arguments.device)
    generated, real = textured(arguments.images, 0.3, 0), textured(arguments.images, 0.1, 1)
    ways: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
        "torch-fidelity": lambda images: by_torch_fidelity(images, net, arguments.device),
        "pytorch-fid": lambda images: by_pytorch_fid(images, net, arguments.device),
    }
    for precision in WANTED:
        made = ours.to(arguments.device, precision)
        ways[f"poise {precision}"] = lambda images, made=made: by_poise(images, made)  # type: ignore[misc]
    # Each way judges both sets by itself; the distance is poise's in all, which the tests compare with the peers'.
    fid = {name: frechet_distance(*way(generated), *way(real)) for name, way in ways.items()}
    with redirect_stdout(io.StringIO()):
        seconds = interleaved(
            {name: lambda way=way: way(generated) for name, way in ways.items()},  # type: ignore[misc]
            arguments.rounds,
        )
    rows = []
    for name in ways:
        rows.append(
            {
                "way": name,
                "device": arguments.device,
                "images": arguments.images,
                "images_per_second": round(arguments.images / seconds[name], 2),
                "speedup": round(seconds["torch-fidelity"] / seconds[name], 3),
                "fid": fid[name],
                "fid_difference": abs(fid[name] / fid["torch-fidelity"] - 1),
            }
        )
    write_csv(rows, "evaluation.csv")
    bar_plot(
        rows,
        "evaluation.png",
        group="device",
        value="speedup",
        label="images per second over torch-fidelity's",
        limits={f"{precision}: {limit} ×": limit for precision, (limit, _) in WANTED.items()},
    )
    for row in rows:
        precision = str(row["way"]).removeprefix("poise ")
        limit, tolerance = WANTED.get(precision, (0.0, 1.0))
        met = float(row["speedup"]) >= limit and float(row["fid_difference"]) <= tolerance
        print(*row.values(), "" if met else "MISSED")


if __name__ == "__main__":
    main()
