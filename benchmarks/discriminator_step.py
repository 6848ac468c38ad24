"""What normalization adds to a whole discriminator step: SNGAN-32, width 128, batch 64, hinge loss, Adam.

The same step runs without normalization, with ``sn`` and with ``bssn``, taking turns.

    python benchmarks/discriminator_step.py [--turns 15]

Writes ``benchmarks/results/discriminator_step.csv`` and ``.png``.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from networks import SNGAN32
from timing import bar_plot, interleaved, write_csv
from torch import nn

import poise

BATCH = 64


def one_step(network: nn.Module) -> Callable[[], None]:
    optimizer = torch.optim.Adam(network.parameters(), 2e-4, (0.0, 0.9), fused=True)
    real, fake = torch.randn(BATCH, 3, 32, 32), torch.randn(BATCH, 3, 32, 32)

    def step() -> None:
        optimizer.zero_grad()
        loss = F.relu(1 - network(real)).mean() + F.relu(1 + network(fake)).mean()
        loss.backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--width", type=int, default=128)
    options = parser.parse_args()
    torch.manual_seed(0)
    network = SNGAN32(options.width)
    contenders = {norm: one_step(poise.normalize(copy.deepcopy(network), norm)) for norm in ("none", "sn", "bssn")}
    medians = interleaved(contenders, options.turns)
    rows = []
    for norm, seconds in medians.items():
        added = 100 * (seconds / medians["none"] - 1)
        rows.append({"way": norm, "width": options.width, "seconds": f"{seconds:.4f}", "added_percent": f"{added:.2f}"})
        print(f"{norm:5} {seconds:.4f} s a step, {added:+.2f}%")
    write_csv(rows, "discriminator_step.csv")
    bar_plot(
        rows,
        "discriminator_step.png",
        group="width",
        value="added_percent",
        label="added to a discriminator step (%)",
        limits={"sn: 3%": 3, "bssn: 5%": 5},
    )


if __name__ == "__main__":
    main()
