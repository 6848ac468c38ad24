"""Time to give one discriminator step its normalized weights: two forwards' worth of them, and the backward pass.

Only the normalization runs: the weights are asked for twice, and one gradient for each comes back from a node that
stands for the network. Compared are ``poise.normalize``, torch's parametrization, torch's older hook, and
torch-mimicry's layers if that package can be found (``pip install --no-deps torch-mimicry``).

    python benchmarks/normalized_weights.py [--quick]

Writes ``benchmarks/results/normalized_weights.csv`` and ``.png``.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from networks import SNGAN32, biggan128_layers, normalized_layers
from timing import bar_plot, interleaved, write_csv
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm

import poise

Weights = Callable[[], list[Tensor]]


class Network(torch.autograd.Function):
    """Stands for the network: takes all weights, and hands back gradients that are there already."""

    @staticmethod
    def forward(ctx: Any, gradients: list[Tensor], *weights: Tensor) -> Tensor:
        ctx.gradients = gradients
        return weights[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Any, ...]:
        return None, *ctx.gradients


def with_poise(layers: nn.ModuleList, norm: str) -> Weights:
    poise.normalize(layers, norm)
    return lambda: [layer.weight for layer in layers]  # type: ignore[misc]


def with_parametrization(layers: nn.ModuleList) -> Weights:
    for layer in layers:
        parametrizations.spectral_norm(layer)
    return lambda: [layer.weight for layer in layers]  # type: ignore[misc]


def with_hook(layers: nn.ModuleList) -> Weights:
    for layer in layers:
        spectral_norm(layer)

    def weights() -> list[Tensor]:
        for layer in layers:
            for hook in layer._forward_pre_hooks.values():
                hook(layer, ())
        return [layer.weight for layer in layers]  # type: ignore[misc]

    return weights


def with_mimicry(layers: nn.ModuleList) -> Weights | None:
    found = importlib.util.find_spec("torch_mimicry")
    if found is None or not found.submodule_search_locations:
        return None
    file = Path(found.submodule_search_locations[0]) / "modules" / "spectral_norm.py"  # its front door needs far more
    spec = importlib.util.spec_from_file_location("mimicry_spectral_norm", file)
    assert spec is not None
    assert spec.loader is not None
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    twins = []
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            twin = theirs.SNConv2d(layer.in_channels, layer.out_channels, layer.kernel_size)
        elif isinstance(layer, nn.Linear):
            twin = theirs.SNLinear(layer.in_features, layer.out_features)
        else:
            assert isinstance(layer, nn.Embedding)
            twin = theirs.SNEmbedding(layer.num_embeddings, layer.embedding_dim)
        twin.weight = layer.weight
        twins.append(twin)
    return lambda: [twin.sn_weights() for twin in twins]


def one_step(layers: nn.ModuleList, weights: Weights) -> Callable[[], None]:
    """One discriminator step's share: a changed weight, two forwards, one backward."""
    trained = [parameter for parameter in layers.parameters() if parameter.ndim > 1]
    gradients = [torch.randn_like(weight) for weight in weights()] * 2

    def step() -> None:
        for parameter in trained:
            parameter.grad = None
            torch.autograd.graph.increment_version(parameter)  # what an optimizer's step does besides its arithmetic
        real, fake = weights(), weights()
        Network.apply(gradients, *real, *fake).backward()

    return step


WAYS: dict[str, Callable[[nn.ModuleList], Weights | None]] = {
    "torch parametrization": with_parametrization,
    "torch hook": with_hook,
    "torch-mimicry": with_mimicry,
    "poise sn": lambda layers: with_poise(layers, "sn"),
    "poise bssn": lambda layers: with_poise(layers, "bssn"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer turns, without BigGAN")
    quick = parser.parse_args().quick
    torch.manual_seed(0)
    networks = {
        "SNGAN-32, width 32": (nn.ModuleList(normalized_layers(SNGAN32(32))), 100 if quick else 600),
        "SNGAN-32, width 128": (nn.ModuleList(normalized_layers(SNGAN32(128))), 50 if quick else 300),
    }
    if not quick:
        networks["BigGAN-128, width 96"] = (biggan128_layers(), 9)
    rows = []
    for name, (layers, turns) in networks.items():
        contenders = {}
        for way, normalize in WAYS.items():
            own = copy.deepcopy(layers)
            weights = normalize(own)
            if weights is None:
                print(f"{way}: not installed, left out")
            else:
                contenders[way] = one_step(own, weights)
        medians = interleaved(contenders, turns)
        for way, seconds in medians.items():
            ratio = seconds / medians["torch parametrization"]
            rows.append({"network": name, "way": way, "milliseconds": f"{seconds * 1e3:.3f}", "ratio": f"{ratio:.3f}"})
            print(f"{name:22} {way:22} {seconds * 1e3:9.3f} ms  {ratio:.3f} × torch's parametrization", flush=True)
    write_csv(rows, "normalized_weights.csv")
    bar_plot(
        rows,
        "normalized_weights.png",
        group="network",
        value="ratio",
        label=f"time of a step's normalized weights,\n× torch's parametrization ({torch.get_num_threads()} threads)",
        limits={"sn: 0.33": 0.33, "bssn: 0.6": 0.6},
    )


if __name__ == "__main__":
    main()
