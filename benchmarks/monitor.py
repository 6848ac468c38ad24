"""What the monitor costs: a training step with and without it, at its default cadence.

SNGAN-32 (hinge, SN, batch 64, five discriminator updates and one of the generator) as ``poise train`` computes it, and
the stacked digits' 16×16 pair with one update of each. Both loops draw the same fixed batch; one is also observed at
every step with all that the monitor takes. They take turns in one process, a cadence's worth of steps at a time, so
that each turn holds one full measurement of every probe; medians.

    python benchmarks/monitor.py [--turns 5] [--networks sngan-32 digits]

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
from poise.monitor import CADENCE
from poise.sampling import to_float
from poise.training.step import Players, discriminator_gradients, generator_gradients

BATCH, LATENT = 64, 128
STEPS = max(CADENCE.values())
"""of a turn: every probe's cadence divides it"""


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


def loop(setting: Setting, watched: bool, steps: int) -> Callable[[], None]:
    """So many steps of training, observed or not."""
    torch.manual_seed(0)
    networks: tuple[Any, Any] = poise.models.create(setting.model, **setting.options)
    generator, discriminator = networks
    poise.normalize(discriminator, setting.norm)
    adams = [torch.optim.Adam(one.parameters(), 2e-4, (0.0, 0.9), fused=True) for one in (generator, discriminator)]
    players = Players(generator, discriminator, *adams, LOSSES[setting.loss], torch.device("cpu"), "fp32")
    size = setting.options["resolution"]
    real = torch.randint(0, 256, (BATCH, 3, size, size), dtype=torch.uint8)
    monitor = poise.Monitor(generator=generator, discriminator=discriminator)
    done = 0

    def run() -> None:
        nonlocal done
        for _ in range(steps):
            done += 1
            for _ in range(setting.n_dis):
                signals = discriminator_gradients(players, real, torch.randn(BATCH, LATENT))
                players.d_optimizer.step()
            signals |= generator_gradients(players, torch.randn(BATCH, LATENT))
            players.g_optimizer.step()
            if watched:
                shown: dict[str, Any] = {}
                if any(every and done % every == 0 for every in CADENCE.values()):
                    with torch.no_grad():  # a loop of one's own has them at hand; this one has to make them
                        fake = players.generate(torch.randn(BATCH, LATENT)).float()
                        images = to_float(real)
                        logits = players.judge(torch.cat([images, fake])).float().split(BATCH)
                    shown = {"real": images, "fake": fake, "real_logits": logits[0], "fake_logits": logits[1]}
                monitor.observe(done, **signals, **shown)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=STEPS, help="of a turn; fewer do not hold every probe")
    parser.add_argument("--networks", nargs="+", choices=tuple(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--threads", type=int, help="of torch (default: its own)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    rows = []
    for name in options.networks:
        setting = SETTINGS[name]
        ways = {"without": loop(setting, False, options.steps), "with monitor": loop(setting, True, options.steps)}
        medians = interleaved(ways, options.turns)
        for way, seconds in medians.items():
            cost = 100 * (seconds / medians["without"] - 1)
            row = {
                "networks": name,
                "way": way,
                "seconds_a_step": f"{seconds / options.steps:.5f}",
                "cost_percent": f"{cost:.2f}",
                "turns": options.turns,
                "steps_a_turn": options.steps,
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
