"""What the monitor costs: the time of its observations over that of the training steps they are spread over.

SNGAN-32 (hinge, SN, batch 64, five discriminator updates and one of the generator) and the stacked digits' 16×16 pair
with one update of each, as ``poise train`` computes them, shown all that the monitor takes: what the discriminator's
last update saw. A cycle of probes holds each of them at its cadence, at least once; every observation of it is timed
after a training step of its own, which leaves the caches as training does. The steps between, where nothing is
observed, are not run but counted at the median's time. Cadences: that of ``poise train``, and ``poise.Monitor``'s own.

    python benchmarks/monitor.py [--turns 3] [--networks sngan-32 digits]

Writes ``benchmarks/results/monitor.csv`` and ``.png``.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from timing import bar_plot, write_csv

import poise
from poise.losses import LOSSES
from poise.monitor import CADENCE
from poise.training import Recipe
from poise.training.sitting import cadence
from poise.training.step import Players, discriminator_gradients, generator_gradients

BATCH, LATENT = 64, 128


@dataclass(frozen=True)
class Setting:
    """One pair and how it is trained."""

    model: str
    options: dict[str, Any]
    loss: str
    norm: str
    n_dis: int
    precision: str


SETTINGS = {
    "sngan-32": Setting("sngan", {"resolution": 32}, "hinge", "sn", 5, "bf16"),
    "digits": Setting("sngan-cnn", {"resolution": 16, "width": 32}, "non-saturating", "bssn", 1, "bf16"),
}


class Training:
    """A pair in training on one fixed batch, and the monitors that look at it."""

    def __init__(self, setting: Setting, cadences: dict[str, dict[str, int]]) -> None:
        torch.manual_seed(0)
        networks: tuple[Any, Any] = poise.models.create(setting.model, **setting.options)
        generator, discriminator = (one.to(memory_format=torch.channels_last) for one in networks)
        poise.normalize(discriminator, setting.norm)
        g_adam, d_adam = (torch.optim.Adam(one.parameters(), 2e-4, (0.0, 0.9), fused=True) for one in networks)
        cpu, loss = torch.device("cpu"), LOSSES[setting.loss]
        self.players = Players(generator, discriminator, g_adam, d_adam, loss, cpu, setting.precision)
        size = setting.options["resolution"]
        self.n_dis, self.real = setting.n_dis, torch.randint(0, 256, (BATCH, 3, size, size), dtype=torch.uint8)
        self.monitors = {
            name: poise.Monitor(generator=generator, discriminator=discriminator, every=every)
            for name, every in cadences.items()
        }
        self.signals: dict[str, torch.Tensor] = {}

    def step(self) -> float:
        """One training step, watched. Returns its seconds."""
        started, players = time.perf_counter(), self.players
        for update in range(self.n_dis):
            players.is_watched = update == self.n_dis - 1
            self.signals = discriminator_gradients(players, self.real, torch.randn(BATCH, LATENT))
            players.d_optimizer.step()
        self.signals |= generator_gradients(players, torch.randn(BATCH, LATENT))
        players.g_optimizer.step()
        return time.perf_counter() - started

    def observation(self, name: str, step: int) -> float:
        """One observation, of the probes that are due at this step. Returns its seconds."""
        started = time.perf_counter()
        self.monitors[name].observe(step, None, **self.players.seen, **self.signals)
        return time.perf_counter() - started


def cycle(cadences: dict[str, int]) -> tuple[int, list[int]]:
    """Steps of a cycle of probes, and those of them that are observed."""
    every = min(cadences.values())
    length = math.lcm(*cadences.values())
    return length, list(range(every, length + 1, every))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3, help="cycles of each cadence; the first is not counted")
    parser.add_argument("--networks", nargs="+", choices=tuple(SETTINGS), default=list(SETTINGS))
    options = parser.parse_args()
    cadences = {"poise train": cadence(Recipe().monitor_every), "poise.Monitor": dict(CADENCE)}
    rows = []
    for network in options.networks:
        training = Training(SETTINGS[network], cadences)
        spent: dict[str, dict[int, list[float]]] = {name: {} for name in cadences}
        steps = []
        for turn in range(options.turns + 1):
            for name, probes in cadences.items():
                length, observed = cycle(probes)
                for step in observed:
                    seconds = training.step()
                    taken = training.observation(name, turn * length + step)
                    if turn:
                        steps.append(seconds)
                        spent[name].setdefault(step, []).append(taken)
        for name, probes in cadences.items():
            length, observed = cycle(probes)
            of_cycle = sum(median(spent[name][step]) for step in observed)
            row = {
                "networks": network,
                "cadence": name,
                "precision": SETTINGS[network].precision,
                "seconds_a_step": f"{median(steps):.5f}",
                "seconds_a_cycle_of_observations": f"{of_cycle:.5f}",
                "steps_a_cycle": length,
                "cost_percent": f"{100 * of_cycle / (length * median(steps)):.2f}",
                "turns": options.turns,
            }
            print("  ".join(map(str, row.values())), flush=True)
            rows.append(row)
    write_csv(rows, "monitor.csv")
    bar_plot(
        [{**row, "way": row["cadence"]} for row in rows],
        "monitor.png",
        group="networks",
        value="cost_percent",
        label="added time of a training step (%)",
        limits={"3 %": 3.0},
    )


if __name__ == "__main__":
    main()
