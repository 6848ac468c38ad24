"""A whole training iteration, trick by trick, beside torch-mimicry's own.

``mimicry``: SNGAN-32 at torch-mimicry's widths, with its bilinear doubling and rectified shortcuts, hinge loss, batch
64, five discriminator updates and one generator update; its own ``train_step`` against the same networks here.
``demo``: the stacked digits' 16×16 networks, one update of each player and the drawing of its data, against a loop as
one writes it first. Every way takes turns with the others in one process; each line has one trick more than the one
above it. The lines named poise are its own functions, "memory kept" as ``poise train`` runs them on a CPU; the first
way is given that as well, for comparison.

    python benchmarks/training_step.py [--turns 5] [--networks mimicry demo] [--width 32] [--compile]

Needs torch-mimicry importable for ``mimicry``. Writes ``benchmarks/results/training_step.csv`` and ``.png``.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any

import torch
from timing import RESULTS, interleaved, write_csv
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.flop_counter import FlopCounterMode

import poise
from poise.data.digits import StackedDigits
from poise.layers import ConvTranspose2d
from poise.losses import LOSSES
from poise.sampling import to_float
from poise.training import Recipe
from poise.training.hardware import kept_memory
from poise.training.step import Players, discriminator_gradients, generator_gradients
from poise.training.update import discriminator_update, generator_update

BATCH, LATENT = 64, 128
AIMS = {"mimicry": {"fp32: 1.7": 1.7, "bf16: 3.3": 3.3}, "demo": {"2": 2.0}}
TRICKS = (
    "whole-batch data",
    "poise's norm",
    "fused optimizer",
    "graph-free fakes",
    "frozen D in the G step",
    "one D pass",
    "channels last",
    "fused resampling",
    "bias apart",
    "rectifiers in place",
    "bf16",
)


@dataclass
class Setting:
    """Networks, loss and data of one comparison.

    Attributes:
        make: makes (G, D) without norms. loss: name of the loss. norm: of the discriminator. betas, lr: Adam's.
        n_dis: discriminator updates per generator update. data: what is drawn from, or None for one fixed batch.
        tricks: those that can make a difference here.
    """

    name: str
    make: Callable[[], tuple[Any, Any]]
    loss: str
    norm: str
    lr: float
    betas: tuple[float, float]
    n_dis: int
    resolution: int
    data: StackedDigits | None = None
    tricks: tuple[str, ...] = TRICKS
    fixed: Tensor = field(init=False)

    def __post_init__(self) -> None:
        shape = (BATCH, 3, self.resolution, self.resolution)
        self.fixed = torch.randint(0, 256, shape, dtype=torch.uint8)

    def networks(self) -> tuple[Any, Any]:
        torch.manual_seed(0)
        return self.make()

    def adam(self, network: nn.Module, fused: bool) -> torch.optim.Adam:
        return torch.optim.Adam(network.parameters(), self.lr, self.betas, fused=fused)


def with_tricks(setting: Setting, tricks: tuple[str, ...]) -> Callable[[], None]:
    """One iteration of a loop that knows these tricks and no others."""
    g, d = setting.networks()
    if "poise's norm" in tricks:
        poise.normalize(d, setting.norm)
    else:
        for layer in list(d.modules()):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                spectral_norm(layer)
    if "fused resampling" not in tricks:  # a convolution that is listened to is called as it is
        for name, layer in [*g.named_modules(), *d.named_modules()]:
            if name.endswith(("conv1", "conv2")):
                layer.register_forward_hook(lambda *_: None)
    if "bias apart" not in tricks:
        for layer in g.modules():
            if type(layer) is ConvTranspose2d:
                layer.__class__ = nn.ConvTranspose2d  # type: ignore[assignment]
    if "rectifiers in place" in {*setting.tricks} - {*tricks}:  # what a layer made in its own way is not written over
        for layer in [*g.modules(), *d.modules()]:
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
                layer.forward = layer.forward  # type: ignore[method-assign]
    layout = torch.channels_last if "channels last" in tricks else torch.contiguous_format
    g, d = g.to(memory_format=layout), d.to(memory_format=layout)
    fused = "fused optimizer" in tricks
    g_adam, d_adam, loss = setting.adam(g, fused), setting.adam(d, fused), LOSSES[setting.loss]
    planes = None if setting.data is None else setting.data.planes
    drawn = 0

    def real() -> Tensor:
        nonlocal drawn
        drawn += BATCH
        if planes is None or setting.data is None:
            return to_float(setting.fixed)
        if "whole-batch data" in tricks:
            return to_float(setting.data.batch(drawn, BATCH)[0])
        return to_float(torch.stack([planes[torch.randint(len(planes), (3,))] for _ in range(BATCH)]))

    def judged(x: Tensor) -> Tensor:
        return d(x.contiguous(memory_format=layout)).float()

    def fakes() -> Tensor:
        with torch.set_grad_enabled("graph-free fakes" not in tricks):
            return g(torch.randn(BATCH, LATENT)).detach().float()

    def d_step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled="bf16" in tricks):
            if "one D pass" in tricks:
                real_logits, fake_logits = judged(torch.cat([real(), fakes()])).chunk(2)
            else:
                real_logits, fake_logits = judged(real()), judged(fakes())
            total = loss.discriminator(real_logits, fake_logits)
        d_adam.zero_grad()
        total.backward()
        d_adam.step()
        total.item()

    def g_step() -> None:
        frozen = "frozen D in the G step" in tricks
        d.requires_grad_(not frozen)
        with torch.autocast("cpu", torch.bfloat16, enabled="bf16" in tricks):
            total = loss.generator(judged(g(torch.randn(BATCH, LATENT))))
        g_adam.zero_grad()
        total.backward()
        g_adam.step()
        d.requires_grad_(True)
        total.item()

    def iteration() -> None:
        for _ in range(setting.n_dis):
            d_step()
        g_step()

    return iteration


def poises_own(setting: Setting, precision: str, compiled: bool = False) -> Callable[[], None]:
    """One iteration as ``poise train`` does it."""
    g, d = setting.networks()
    poise.normalize(d, setting.norm)
    g, d = g.to(memory_format=torch.channels_last), d.to(memory_format=torch.channels_last)
    players = Players(
        g,
        d,
        setting.adam(g, True),
        setting.adam(d, True),
        LOSSES[setting.loss],
        torch.device("cpu"),
        precision,
        compiled=compiled,
    )
    recipe, done = Recipe(batch_size=BATCH), 0

    def fixed() -> None:
        for _ in range(setting.n_dis):
            discriminator_gradients(players, setting.fixed, torch.randn(BATCH, LATENT))
            players.d_optimizer.step()
        generator_gradients(players, torch.randn(BATCH, LATENT))
        players.g_optimizer.step()

    def drawn() -> None:
        nonlocal done
        assert setting.data is not None
        discriminator_update(players, setting.data, recipe, done)
        generator_update(players, setting.data, recipe, done)
        done += 1

    return fixed if setting.data is None else drawn


def mimicrys_own(setting: Setting) -> Callable[[], None]:
    """One iteration by torch-mimicry's own networks and their ``train_step`` methods."""
    # Its networks need none of these, of which one imports TensorFlow and another a torch of long ago.
    for room in ("metrics", "training", "datasets"):
        sys.modules.setdefault(f"torch_mimicry.{room}", ModuleType(room))
    from torch_mimicry.nets.sngan.sngan_32 import SNGANDiscriminator32, SNGANGenerator32  # type: ignore[import-not-found]

    class Log:
        def add_metric(self, *args: Any, **kwargs: Any) -> None:
            """Nothing: what its trainer does with them is not measured."""

    torch.manual_seed(0)
    g, d = SNGANGenerator32(), SNGANDiscriminator32()
    g_adam, d_adam = setting.adam(g, False), setting.adam(d, False)
    batch = (to_float(setting.fixed), None)

    def iteration() -> None:
        for _ in range(setting.n_dis):
            d.train_step(batch, g, d_adam, Log(), device="cpu")
        g.train_step(batch, d, g_adam, Log(), device="cpu")

    return iteration


def matrix_peak(dtype: torch.dtype, side: int = 2048) -> float:
    """FLOP/s of a square matrix product, the best of twenty."""
    a, b = torch.randn(2, side, side).to(dtype)
    best = float("inf")
    for _ in range(20):
        started = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def flops(iteration: Callable[[], None]) -> int:
    """Floating-point operations of one iteration's products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        iteration()
    return counter.get_total_flops()


def mimicry() -> Setting:
    def make() -> tuple[Any, Any]:
        return poise.models.create("sngan", resolution=32, upsample="bilinear", rectified_shortcuts=True)

    others = ("whole-batch data", "bias apart", "rectifiers in place")  # no such data, layers
    tricks = tuple(trick for trick in TRICKS if trick not in others)
    return Setting("mimicry", make, "hinge", "sn", 2e-4, (0.0, 0.9), 5, 32, tricks=tricks)


def demo(width: int) -> Setting:
    def make() -> tuple[Any, Any]:
        return poise.models.create("sngan-cnn", resolution=16, width=width)

    tricks = tuple(trick for trick in TRICKS if trick != "fused resampling")  # these networks have no such blocks
    return Setting("demo", make, "non-saturating", "bssn", 1e-3, (0.0, 0.999), 1, 16, StackedDigits(), tricks)


def measured(setting: Setting, turns: int, compiled: bool, peaks: dict[str, float]) -> list[dict[str, Any]]:
    """A row for each way: medians of its time, and how far that is from the processor's peak."""
    first = "torch-mimicry" if setting.name == "mimicry" else "plain loop"
    ways = {first: mimicrys_own(setting) if setting.name == "mimicry" else with_tricks(setting, ())}
    if setting.name == "mimicry":
        ways["plain loop"] = with_tricks(setting, ())
    ways |= {f"+ {trick}": with_tricks(setting, setting.tricks[: i + 1]) for i, trick in enumerate(setting.tricks)}
    ways |= {f"poise {precision}": poises_own(setting, precision) for precision in ("fp32", "bf16")}
    if compiled:
        ways["poise bf16, compiled"] = poises_own(setting, "bf16", compiled=True)
    kept = {f"{way}, memory kept": way for way in ways if way in (first, "poise fp32", "poise bf16")}
    counted = {way: flops(iteration) for way, iteration in ways.items() if "compiled" not in way}
    counted |= {way: counted["poise bf16"] for way in ways if "compiled" in way}
    keeping = partial(kept_memory, torch.device("cpu"))
    counted |= {way: counted[plain] for way, plain in kept.items()}
    ways |= {way: ways[plain] for way, plain in kept.items()}
    # Counting was a turn, too.
    medians = interleaved(ways, turns, warm_up=1, around=dict.fromkeys(kept, keeping))
    rows = []
    for way, seconds in medians.items():
        precision = "bf16" if "bf16" in way else "fp32"
        rate = counted[way] / seconds
        row = {
            "networks": setting.name,
            "way": way,
            "seconds": f"{seconds:.4f}",
            "times_faster": f"{medians[first] / seconds:.2f}",
            "images_per_second": f"{setting.n_dis * BATCH / seconds:.0f}",
            "gigaflop": f"{counted[way] / 1e9:.1f}",
            "gigaflop_per_second": f"{rate / 1e9:.0f}",
            "share_of_matrix_peak": f"{rate / peaks[precision]:.2f}",
        }
        print("  ".join(row.values()), flush=True)
        rows.append(row)
    return rows


def plot(rows: list[dict[str, Any]]) -> None:
    """Each way's speed beside the first one's, a panel for each pair of networks."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(row["networks"] for row in rows))
    figure, panels = plt.subplots(1, len(names), figsize=(6 * len(names), 5), layout="constrained", squeeze=False)
    for panel, name in zip(panels[0], names, strict=True):
        found = [row for row in rows if row["networks"] == name]
        bars = panel.barh([row["way"] for row in found], [float(row["times_faster"]) for row in found])
        panel.bar_label(bars, fmt="%.2f", fontsize=8)
        for text, aim in AIMS[name].items():
            panel.axvline(aim, color="grey", ls="--", lw=1)
            panel.text(aim, -0.9, text, fontsize=7, color="grey", ha="center")
        panel.invert_yaxis()
        panel.set(title=name, xlabel=f"times faster than {found[0]['way']}")
    figure.savefig(RESULTS / "training_step.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--networks", nargs="+", choices=("mimicry", "demo"), default=["mimicry", "demo"])
    parser.add_argument("--width", type=int, default=32, help="of the demo networks")
    parser.add_argument("--compile", action="store_true", help="also through torch.compile, which takes minutes")
    options = parser.parse_args()
    peaks = {"fp32": matrix_peak(torch.float32), "bf16": matrix_peak(torch.bfloat16)}
    print({name: f"{peak / 1e9:.0f} GFLOP/s" for name, peak in peaks.items()})
    path = RESULTS / "training_step.csv"
    rows: list[dict[str, Any]] = []
    if path.exists():  # networks that are not measured now keep their rows
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["networks"] not in options.networks]
    for name in options.networks:
        setting = mimicry() if name == "mimicry" else demo(options.width)
        turns = options.turns if name == "mimicry" else 10 * options.turns
        rows += measured(setting, turns, options.compile, peaks)
    write_csv(rows, "training_step.csv")
    plot(rows)


if __name__ == "__main__":
    main()
