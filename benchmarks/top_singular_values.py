"""Top-3 singular values of every layer while a discriminator trains: ``SpectrumTracker``, one warm round a call.

Each network takes Adam steps (2e-4, β 0 and 0.9, hinge loss on random images), ten for BigGAN and thirty for others.
After each the tracker is called, and all weights are decomposed by torch, values only (the quickest it has), and with
vectors where that takes no minutes. Times are medians. Errors are those after ten calls, the worst of any layer's
three values, relative to float64.

    python benchmarks/top_singular_values.py [--quick]

Writes ``benchmarks/results/top_singular_values.csv`` and ``.png``.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from networks import SNGAN32, biggan128_layers
from timing import bar_plot, write_csv
from torch import Tensor, nn

from poise.models import create
from poise.spectra import SpectrumTracker

CALLS, CALLS_LARGE = 30, 10
JUDGED = 10  # calls after which the error is taken
LARGE = 2**23  # entries of a weight: networks with a larger one are decomposed twice only, and without vectors


class BigGANTrunk(nn.Module):
    """BigGAN-128's layers, trained as a stack of residual blocks on one small resolution: real gradients in seconds."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.layers = biggan128_layers(width)

    def forward(self, x: Tensor) -> Tensor:
        layers = iter(self.layers)
        for block in range(6):
            h = x
            for layer in (next(layers), next(layers)):
                assert isinstance(layer, nn.Conv2d)
                h = F.conv2d(F.relu(h), layer.weight, layer.bias, padding=1)
            x = h + (next(layers)(x) if block < 5 else x)
            if block == 0:
                theta, phi, g, o = self.layers[-6:-2]
                match = (theta(x).flatten(2).mT @ phi(x).flatten(2)).softmax(-1)
                x = x + o((g(x).flatten(2) @ match.mT).unflatten(2, x.shape[2:]))
        linear, embedding = self.layers[-2:]
        pooled = F.relu(x).sum((2, 3))
        labels = torch.arange(len(x)) % 1000
        return linear(pooled).squeeze(1) + (embedding(labels) * pooled).sum(1)


def trained(network: nn.Module, size: int, batch: int) -> Callable[[], None]:
    """One step of Adam on images that are noise, smooth or not."""
    optimizer = torch.optim.Adam(network.parameters(), 2e-4, betas=(0.0, 0.9))

    def step() -> None:
        real = F.interpolate(torch.randn(batch, 3, 4, 4), (size, size), mode="bilinear").tanh()
        fake = torch.randn(batch, 3, size, size).tanh()
        loss = F.relu(1 - network(real)).mean() + F.relu(1 + network(fake)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def matrices(network: nn.Module) -> dict[str, Tensor]:
    weights = {name: layer.weight for name, layer in network.named_modules() if "weight" in layer._parameters}
    return {name: weight.detach().flatten(1) for name, weight in weights.items() if isinstance(weight, Tensor)}


def worst_error(found: dict[str, Tensor], network: nn.Module) -> float:
    """Of any of the three values of any layer, relative; the true ones are from WWᵀ in float64."""
    errors = []
    for name, matrix in matrices(network).items():
        narrow = matrix.double() if len(matrix) <= matrix.shape[1] else matrix.double().t()
        true = torch.linalg.eigvalsh(narrow @ narrow.t()).flip(0)[: len(found[name])].sqrt()
        errors.append(float(((found[name] - true) / true).abs().max()))
    return max(errors)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def measure(name: str, network: nn.Module, size: int, batch: int) -> list[dict[str, Any]]:
    """Rows for the tracker's first call and its later ones, and for each of torch's decompositions."""
    step, tracker = trained(network, size, batch), SpectrumTracker(network)
    large = max(matrix.numel() for matrix in matrices(network).values()) > LARGE
    rivals: dict[str, Callable[[], object]] = {
        "torch.linalg.svdvals": lambda: [torch.linalg.svdvals(matrix) for matrix in matrices(network).values()],
        "torch.linalg.svd": lambda: [torch.linalg.svd(m, full_matrices=False) for m in matrices(network).values()],
    }
    if large:
        del rivals["torch.linalg.svd"]
    first, _ = timed(tracker)
    error = math.nan
    calls = CALLS_LARGE if large else CALLS
    times: dict[str, list[float]] = {"tracker": [], **{way: [] for way in rivals}}
    for call in range(calls):
        step()
        taken, found = timed(tracker)
        times["tracker"].append(taken)
        for way, work in rivals.items():
            if not large or call in (0, calls - 1):
                times[way].append(timed(work)[0])
        if call + 1 == JUDGED:
            error = worst_error(found, network)
    medians = {"tracker, first call": first, **{way: statistics.median(values) for way, values in times.items()}}
    rows = []
    for way, taken in medians.items():
        ratio = taken / medians["torch.linalg.svdvals"]
        row = {"network": name, "layers": len(tracker.layers), "way": way, "milliseconds": f"{taken * 1e3:.3f}"}
        rows.append(row | {"ratio": f"{ratio:.4f}", "worst_error": f"{error:.1e}" if way == "tracker" else ""})
        print(f"{name:24} {way:22} {taken * 1e3:10.2f} ms  {ratio:.4f} × svdvals", flush=True)
    print(f"{name:24} worst relative error after {JUDGED} calls: {error:.1e}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="without BigGAN, which takes minutes")
    quick = parser.parse_args().quick
    torch.manual_seed(0)
    networks: dict[str, tuple[nn.Module, int, int]] = {
        "sngan-cnn, width 64": (create("sngan-cnn")[1], 32, 16),
        "SNGAN-32, width 32": (SNGAN32(32), 32, 16),
        "SNGAN-32, width 128": (SNGAN32(128), 32, 8),
    }
    if not quick:
        networks["BigGAN-128, width 96"] = (BigGANTrunk(), 8, 2)
    for network, _, _ in networks.values():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding):
                nn.init.xavier_uniform_(layer.weight)
    rows = [row for name, (network, size, batch) in networks.items() for row in measure(name, network, size, batch)]
    write_csv(rows, "top_singular_values.csv")
    bar_plot(
        rows,
        "top_singular_values.png",
        group="network",
        value="ratio",
        label="time for the largest singular values of all layers,\n× torch.linalg.svdvals",
        limits={"1/20": 0.05},
    )


if __name__ == "__main__":
    main()
