"""Seconds of precision, recall, density and coverage against the prdc package, which StudioGAN uses too.

Features are 10,000 real and 10,000 generated, float32, of EfficientNet-Lite0's and InceptionV3's width; k is 5 and the
balls are open, as in prdc. Run it on an otherwise idle machine:

    python benchmarks/precision_recall.py [--samples 10000] [--rounds 3]

Writes ``benchmarks/results/precision_recall.csv`` and ``.png``.
"""

from __future__ import annotations

import argparse
import io
from contextlib import redirect_stdout

import torch
from prdc import compute_prdc
from timing import bar_plot, interleaved, write_csv
from torch import Tensor

from poise.metrics.neighbours import neighbour_scores

K = 5
WANTED = 3.0
FIGURES = ("precision", "recall", "density", "coverage")


def features(n: int, dim: int, seed: int, shift: float) -> Tensor:
    """As a network's: correlated, in some 50 directions for the most part, and never below 0."""
    mixing = torch.randn(50, dim, generator=torch.Generator().manual_seed(9))
    random = torch.Generator().manual_seed(seed)
    inner = torch.randn(n, 50, generator=random) @ mixing / 50**0.5
    return (inner + 0.3 * torch.randn(n, dim, generator=random) + shift).relu()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=int, default=10_000, help="features of each kind (default: 10,000)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (default: 3)")
    arguments = parser.parse_args()
    rows = []
    for dim in (1280, 2048):
        real = features(arguments.samples, dim, 0, 0.0)
        generated = features(arguments.samples, dim, 1, 0.03)
        found: dict[str, dict[str, float]] = {}

        def by_poise(generated: Tensor = generated, real: Tensor = real, found: dict = found) -> None:
            scores = neighbour_scores(generated, real, K, strict=True)
            found["poise"] = {name: getattr(scores, name) for name in FIGURES}

        def by_prdc(generated: Tensor = generated, real: Tensor = real, found: dict = found) -> None:
            with redirect_stdout(io.StringIO()):
                found["prdc"] = compute_prdc(real.numpy(), generated.numpy(), K)

        seconds = interleaved({"prdc": by_prdc, "poise": by_poise}, arguments.rounds)
        for way in seconds:
            figures = {name: round(float(found[way][name]), 6) for name in FIGURES}
            timed = {"seconds": round(seconds[way], 3), "speedup": round(seconds["prdc"] / seconds[way], 3)}
            rows.append({"way": way, "dim": dim, "samples": arguments.samples, **timed, **figures})
            print(*rows[-1].values(), "MISSED" if way == "poise" and timed["speedup"] < WANTED else "")
    write_csv(rows, "precision_recall.csv")
    limits = {f"{WANTED:g} ×": WANTED}
    bar_plot(rows, "precision_recall.png", group="dim", value="speedup", label="prdc's seconds over", limits=limits)


if __name__ == "__main__":
    main()
