"""What the monitor costs: a training step with and without it, at the cadence of ``poise train``.

SNGAN-32 (hinge, SN, batch 64, five discriminator updates and one of the generator) and the stacked digits' 16×16 pair
with one update of each, as ``poise train`` computes them. Both loops draw the same fixed batch; one is also observed
every tenth step with all that the monitor takes: what the discriminator's last update saw. They take turns in one
process, as many steps at a time as hold one full measurement of every probe; medians.

    python benchmarks/monitor.py [--turns 3] [--every 10] [--networks sngan-32 digits]

Writes ``benchmarks/results/monitor.csv`` and ``.png``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from timing import bar_plot, interleaved, write_csv

import poise
from poise.losses import LOSSES
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


SETTINGS = {
    "sngan-32": Setting("sngan", {"resolution": 32}, "hinge", "sn", 5),
    "digits": Setting("sngan-cnn", {"resolution": 16, "width": 32}, "non-saturating", "bssn", 1),
}


def loop(setting: Setting, watched: bool, steps: int, every: int) -> Callable[[], None]:
    """So many steps of training, observed every so many of them or not at all."""
    torch.manual_seed(0)
    networks: tuple[Any, Any] = poise.models.create(setting.model, **setting.options)
    generator, discriminator = networks
    poise.normalize(discriminator, setting.norm)
    g_adam, d_adam = (torch.optim.Adam(one.parameters(), 2e-4, (0.0, 0.9), fused=True) for one in networks)
    players = Players(generator, discriminator, g_adam, d_adam, LOSSES[setting.loss], torch.device("cpu"), "fp32")
    size = setting.options["resolution"]
    real = torch.randint(0, 256, (BATCH, 3, size, size), dtype=torch.uint8)
    monitor = poise.Monitor(generator=generator, discriminator=discriminator, every=cadence(every))
    done = 0

    def run() -> None:
        nonlocal done
        for _ in range(steps):
            done += 1
            is_observed = watched and done % every == 0
            for update in range(setting.n_dis):
                players.is_watched = is_observed and update == setting.n_dis - 1
                signals = discriminator_gradients(players, real, torch.randn(BATCH, LATENT))
                players.d_optimizer.step()
            signals |= generator_gradients(players, torch.randn(BATCH, LATENT))
            players.g_optimizer.step()
            if is_observed:
                monitor.observe(done, None, **players.seen, **signals)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--every", type=int, default=Recipe().monitor_every, help="steps between observations")
    parser.add_argument("--steps", type=int, help="of a turn (default: as hold every probe)")
    parser.add_argument("--networks", nargs="+", choices=tuple(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--threads", type=int, help="of torch (default: its own)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    rows = []
    steps = options.steps or max(cadence(options.every).values())
    for name in options.networks:
        setting = SETTINGS[name]
        ways = {way: loop(setting, way != "without", steps, options.every) for way in ("without", "with monitor")}
        medians = interleaved(ways, options.turns)
        for way, seconds in medians.items():
            cost = 100 * (seconds / medians["without"] - 1)
            row = {
                "networks": name,
                "way": way,
                "seconds_a_step": f"{seconds / steps:.5f}",
                "cost_percent": f"{cost:.2f}",
                "turns": options.turns,
                "steps_a_turn": steps,
                "observed_every": options.every,
            }
            print("  ".join(map(str, row.values())), flush=True)
            rows.append(row)
    write_csv(rows, "monitor.csv")
    bar_plot(
        [row for row in rows if row["way"] != "without"],
        "monitor.png",
        group="networks",
        value="cost_percent",
        label="added time of a training step (%)",
        limits={"3 %": 3.0},
    )


if __name__ == "__main__":
    main()
