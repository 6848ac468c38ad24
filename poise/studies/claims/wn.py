"""Claims of Xiang & Li 2017 (arXiv 1704.03971): reconstruction under weight norm, and a 21-layer residual GAN.

Claims 10 and 11.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

from poise.studies.claim import Arms, Claim, Judgement
from poise.studies.claims import drawing
from poise.studies.claims.costs import ESTIMATED
from poise.studies.claims.judging import (
    by_seed,
    checked,
    distance_name,
    figure_of,
    paired,
    rows_of,
    sided,
    together,
    usual,
)
from poise.studies.claims.settings import FEW, MINI, SEEDS, SMALL, Scale, each
from poise.studies.trial import Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NORMS = {
    "WN": {"model.layer_norm": "weight"},
    "BN": {"model.layer_norm": "batch", "model.activation": "prelu"},
    "vanilla": {"model.layer_norm": "none", "model.activation": "prelu"},
}
"""of both networks; with "weight" the activation is the paper's own"""


def _rmsprop(rate: float) -> dict[str, Any]:
    return {
        f"{player}_optimizer.{key}": value
        for player in "gd"
        for key, value in (("name", "RMSprop"), ("lr", rate), ("options", {"alpha": 0.9}))
    }


def _dcgan(scale: Scale, name: str, rate: float, steps: int, seed: int) -> Trial:
    resolution = scale.changes["model.resolution"]
    of_model = {"model.name": "dcgan", "model.resolution": resolution, "model.width": scale.changes["model.width"]}
    changes = {
        **scale.changes,
        **of_model,
        **NORMS[name],
        **_rmsprop(rate),
        "batch_size": 32,
        "steps": steps,
        "keep_every": steps // 8,
    }
    return Trial(name, scale.recipe, changes, seed, measures=("reconstruction",))


def _published_dcgan(recipe: str, name: str, rate: float, seed: int) -> Trial:
    changes = {**NORMS[name], **_rmsprop(rate), "keep_every": 5_000, "best_by": "none"}
    return Trial(f"{recipe.split('-')[1]}, {name}, {rate:g}", recipe, changes, seed, measures=("reconstruction-2000",))


def _reconstruction(scale: Scale, rate: float, steps: int) -> list[Trial]:
    return each(SEEDS, *(partial(_dcgan, scale, name, rate, steps) for name in NORMS))


def _published() -> list[Trial]:
    makers = [
        partial(_published_dcgan, recipe, name, rate)
        for recipe in ("wngan-celeba160", "wngan-lsun160")
        for name in NORMS
        for rate in (2e-5, 5e-5, 1e-4)
    ]
    return each(range(1), *makers)


def judge_reconstruction(arms: Arms) -> Judgement:
    """WN's final error is below BN's and vanilla's, and it wanders less late in training than BN's does.

    That BN is fast at first is told, not judged: the paper shows it in curves, without a number.
    """
    measure = (
        "reconstruction-2000" if any("/" in name and "-2000" in name for name in _names(arms)) else "reconstruction"
    )
    found = {name: _pooled(arms, name, measure) for name in NORMS}
    parts = [
        sided("ln final error, WN less BN", paired(found["WN"]["final"], found["BN"]["final"]), True),
        sided("ln final error, WN less vanilla", paired(found["WN"]["final"], found["vanilla"]["final"]), True),
        sided("wandering late in training, WN less BN", paired(found["WN"]["wander"], found["BN"]["wander"]), True),
    ]
    first = sided("", paired(found["BN"]["first"], found["WN"]["first"]), True)
    told = f"At the first checkpoint, ln error of BN less WN is{first.words}: that BN is fast at first {first.verdict}"
    figures = {f"{measure}/{name}": title for name, title in _TITLES.items()}
    return together(parts, rows_of(arms, figures), told)


_TITLES = {"first": "error at first ↓", "last": "at last ↓", "final": "long search ↓", "wander": "wandering ↓"}


def _names(arms: Arms) -> set[str]:
    return {name for of in arms.values() for one in of for name in one.figures}


def _pooled(arms: Arms, norm: str, measure: str) -> dict[str, dict[int, float]]:
    """Figures by (arm of that norm, seed) as one numbering, so that data sets and rates are pairs too."""
    chosen = [arm for arm in arms if norm in arm.split(", ")]
    pooled: dict[str, dict[int, float]] = {}
    for figure in ("final", "first", "wander"):
        pooled[figure] = {
            place * 1000 + seed: value
            for place, arm in enumerate(chosen)
            for seed, value in by_seed(arms, arm, f"{measure}/{figure}", log=figure != "wander").items()
        }
    return pooled


def draw_reconstruction(arms: Arms, figure: Figure) -> None:
    """The running reconstruction error over updates, a line for each norm."""
    axes = figure.subplots()
    drawing.curves(axes, arms, "reconstruction", "generator updates", "reconstruction error, 50 steps", log=True)
    drawing.finished(figure, arms, "Error of held-out images made again", drawing.THIN)


RECONSTRUCTION = Claim(
    10,
    "wn-reconstruction",
    "With weight norm a GAN makes held-out images again with lower error than with batch norm or none, and more "
    "stably; batch norm is fast at first",
    "Xiang & Li 2017, §4, figures of running reconstruction loss and the table of final ones",
    "about 10% lower reconstruction loss than BN; BN fast first and unstable later; the vanilla GAN collapses on "
    "some sets",
    {
        "mini": lambda: _reconstruction(MINI, 1e-3, 320),
        "small": lambda: _reconstruction(SMALL, 2e-4, 8_000),
        "paper": _published,
    },
    judge_reconstruction,
    draw_reconstruction,
    36.0,
    ESTIMATED,
)

DEEP = {"WN": "weight", "none": "none"}


def _deep(scale: Scale, name: str, width: int, blocks: int, rate: float, steps: int, seed: int) -> Trial:
    changes = {
        **scale.changes,
        "data.resolution": 16,  # two levels: five blocks each make 21 layers
        "model.name": "wngan",
        "model.resolution": 16,
        "model.width": width,
        "model.blocks": blocks,
        "model.layer_norm": DEEP[name],
        **_rmsprop(rate),
        "steps": steps,
    }
    return Trial(name, scale.recipe, changes, seed, measures=("untrained",))


def _deep_published(name: str, seed: int) -> Trial:
    return Trial(
        name,
        "wngan-resnet21-celeba160",
        {"model.layer_norm": DEEP[name], "best_by": "none"},
        seed,
        measures=("untrained",),
    )


def judge_deep(arms: Arms) -> Judgement:
    """Every run with WN ends, at an FD below half its untrained generator's; one at it or above, or failed, fails."""
    outcomes, distance = arms.get("WN", []), distance_name(arms)
    ratios = []
    for one in outcomes:
        end, start = figure_of(one, distance), figure_of(one, f"untrained/{distance}")
        ratios.append(math.inf if end is None else math.nan if start is None else end / start)
    found: bool | None = None
    if ratios and max(ratios) < 0.5:
        found = True
    if any(ratio >= 1 for ratio in ratios):
        found = False
    listed = ", ".join(f"{ratio:.3g}" for ratio in ratios) or "none"
    parts = [checked(f"FD over that of the untrained generator, by seed, {listed} (below 0.5 is trained)", found)]
    other = compared_deep(arms)
    told = f"Without weight norm, ln FD less WN's is{other.words} (told, not judged)"
    return together(parts, rows_of(arms, {**usual(arms), f"untrained/{distance}": "FD untrained"}), told)


def compared_deep(arms: Arms) -> Any:
    """How the same net without weight norm fares, as a part of no consequence."""
    distance = distance_name(arms)
    values = paired(by_seed(arms, "none", distance, log=True), by_seed(arms, "WN", distance, log=True))
    return sided("", values, False)


def draw_deep(arms: Arms, figure: Figure) -> None:
    """FD before and after training."""
    axes = figure.subplots()
    distance = distance_name(arms)
    groups = {name: {"trained": of} for name, of in arms.items()}
    drawing.bars(axes, groups, distance, "FD", log=True)
    for index, of in enumerate(arms.values()):
        before = drawing.values_of(of, f"untrained/{distance}")
        axes.plot([index] * len(before), before, "k_", ms=20, label="untrained" if index == 0 else None)
    drawing.finished(figure, arms, "A residual GAN of 21 layers")


DEPTH = Claim(
    11,
    "wn-21-layers",
    "A residual GAN of 21 layers trains with weight norm",
    "Xiang & Li 2017, §4, the 21-layer ResNet on CelebA",
    "it trains stably and makes faces of 160×160",
    {
        "mini": lambda: each(SEEDS, *(partial(_deep, MINI, name, 8, 5, 4e-4, 300) for name in DEEP)),
        "small": lambda: each(FEW, *(partial(_deep, SMALL, name, 32, 5, 2e-4, 5_000) for name in DEEP)),
        "paper": lambda: each(range(1), *(partial(_deep_published, name) for name in DEEP)),
    },
    judge_deep,
    draw_deep,
    16.0,
    ESTIMATED,
)

CLAIMS = (RECONSTRUCTION, DEPTH)
