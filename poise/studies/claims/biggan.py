"""Claims of Brock, Donahue & Simonyan 2019 (arXiv 1809.11096) on what makes large GANs better.

Claims 12 and 13; truncation, collapse and what scores see have files of their own.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

from poise.studies.claim import Arms, Claim, Judgement
from poise.studies.claims import drawing
from poise.studies.claims.costs import ESTIMATED
from poise.studies.claims.judging import (
    checked,
    compared,
    distance_name,
    distances,
    figure_of,
    rows_of,
    sided,
    slopes,
    together,
    usual,
)
from poise.studies.claims.settings import FEW, MINI, SEEDS, SMALL, Scale, Setting, each
from poise.studies.trial import Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCHES = (1, 2, 4, 8)
RATES = Setting(5e-5, 2e-4, 0.0, 0.999, 2)
"""the paper's Adam"""
HINGE = {"d_norm.name": "sn", "loss": "hinge"}


def _batch(scale: Scale, base: int, factor: int, wide: bool, seed: int) -> Trial:
    width = scale.changes["model.width"]
    changes = {**scale.changes, **RATES.changes(scale), **HINGE, "batch_size": base * factor}
    changes["model.width"] = width * 3 // 2 if wide else width
    return Trial(f"batch ×{factor}{', width +50%' if wide else ''}", scale.recipe, changes, seed)


def _batches(scale: Scale, base: int, seeds: range) -> list[Trial]:
    makers = [partial(_batch, scale, base, factor, False) for factor in BATCHES]
    return each(seeds, *makers, partial(_batch, scale, base, BATCHES[-1], True))


TABLE = {  # batch, width, shared, skip-z, orthogonal regularization: rows of the paper's table 1
    "batch 256": (256, 64, False, False, False),
    "batch 512": (512, 64, False, False, False),
    "batch 1024": (1024, 64, False, False, False),
    "batch 2048": (2048, 64, False, False, False),
    "width 96": (2048, 96, False, False, False),
    "shared": (2048, 96, True, False, False),
    "skip-z": (2048, 96, True, True, False),
    "orthogonal": (2048, 96, True, True, True),
}


def row(name: str, arm: str, seed: int, work: str = "train", measures: tuple[str, ...] = ()) -> Trial:
    """A row of table 1: the same numbers of latents and updates, but for what it names."""
    batch, width, shared, skip, orthogonal = TABLE[name]
    changes: dict[str, Any] = {
        "batch_size": batch,
        "model.width": width,
        "model.latent_dim": 120,
        "model.shared_embedding": shared,
        "model.skip_z": skip,
        "g_penalties": [{"name": "off-diagonal", "weight": 1e-4}] if orthogonal else [],
    }
    if work == "train":
        changes |= {"accumulate": batch // 64, "evaluation_samples": 50_000, "best_by": "none"}
    return Trial(arm, "biggan-imagenet128", changes, seed, work, measures)


def _published_batches() -> list[Trial]:
    factors = zip(BATCHES, list(TABLE)[:4], strict=True)
    makers = [partial(row, name, f"batch ×{factor}") for factor, name in factors]
    return each(FEW, *makers, partial(row, "width 96", "batch ×8, width +50%"))


def judge_batches(arms: Arms) -> Judgement:
    """FD falls with the batch at equal updates, and with the width at the largest; failures are told."""
    slope = slopes({math.log2(factor): distances(arms, f"batch ×{factor}") for factor in BATCHES})
    wide = f"batch ×{BATCHES[-1]}, width +50%"
    parts = [
        sided("slope of ln FD for each doubling of the batch", list(slope.values()), True),
        sided("ln FD, width +50% less without", compared(arms, wide, f"batch ×{BATCHES[-1]}"), True),
    ]
    failed = {arm: sum(one.status != "finished" for one in of) for arm, of in arms.items()}
    became = ", ".join(f"{count} of {arm}" for arm, count in failed.items() if count) or "none"
    told = f"Runs that became unstable and failed: {became}; whether larger batches do so sooner is told, not judged"
    return together(parts, rows_of(arms, usual(arms)), told)


def draw_batches(arms: Arms, figure: Figure) -> None:
    """FD over the batch, and of the wider net."""
    axes = figure.subplots()
    series = {"width": {float(factor): arms.get(f"batch ×{factor}", []) for factor in BATCHES}}
    series["width +50%"] = {float(BATCHES[-1]): arms.get(f"batch ×{BATCHES[-1]}, width +50%", [])}
    drawing.lines(axes, series, distance_name(arms), "batch, relative", "FD")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    drawing.finished(figure, arms, "Batch and width at equal numbers of updates", drawing.BAND)


BATCH = Claim(
    12,
    "batch-and-width",
    "Two, four and eight times the batch improve FD until training becomes unstable; width +50% improves it",
    "Brock et al. 2019, §3, table 1",
    "ImageNet 128, FID / IS: batch 256 18.65 / 52.52, 512 15.30 / 58.77, 1024 14.88 / 63.03, 2048 12.39 / 76.85; width "
    "96 9.54 / 92.98; larger batches collapse in fewer iterations",
    {
        "mini": lambda: _batches(MINI, 8, SEEDS),
        "small": lambda: _batches(SMALL, 32, SEEDS),
        "paper": _published_batches,
    },
    judge_batches,
    draw_batches,
    17000.0,
    ESTIMATED,
)

CONDITIONS = {
    "gains per class": {"model.shared_embedding": False, "model.skip_z": False},
    "shared": {"model.shared_embedding": True, "model.skip_z": False},
    "shared, skip-z": {"model.shared_embedding": True, "model.skip_z": True},
}
_ROWS = dict(zip(CONDITIONS, ("width 96", "shared", "skip-z"), strict=True))


def biggan(
    scale: Scale, arm: str, width: int, steps: int, classes: str, seed: int, measures: tuple[str, ...] = (), **more: Any
) -> Trial:
    """A run of BigGAN's networks on stacked digits of 32×32.

    Args:
        classes: "all" 1000 of them, or the "first" digit's 10.
    """
    setting = Setting(2e-4, 2e-4, 0.0, 0.999, 1).changes(scale)
    networks = {
        "data.resolution": 32,
        "data.labels": classes,
        "model.name": "biggan",
        "model.resolution": 32,
        "model.width": width,
        "model.latent_dim": 80,
        "model.embedding_dim": 32,
        "model.num_classes": 1000 if classes == "all" else 10,
        "g_norm.name": "sn",
    }
    given = {name.replace("__", "."): value for name, value in more.items()}
    changes = {**scale.changes, **setting, **HINGE, **networks, "steps": steps, **given}
    return Trial(arm, scale.recipe, changes, seed, measures=measures)


def _conditioned(scale: Scale, width: int, steps: int, seeds: range) -> list[Trial]:
    def one(arm: str, seed: int) -> Trial:
        options: dict[str, Any] = {name.replace(".", "__"): value for name, value in CONDITIONS[arm].items()}
        return biggan(scale, arm, width, steps, "all", seed, **options)

    counted = [row(name, f"{arm}, parameters", 0, "parameters") for arm, name in _ROWS.items()]
    return [*each(seeds, *(partial(one, arm) for arm in CONDITIONS)), *counted]


def _published_conditioned() -> list[Trial]:
    counted = [row(name, f"{arm}, parameters", 0, "parameters") for arm, name in _ROWS.items()]
    return [*each(FEW, *(partial(row, name, arm) for arm, name in _ROWS.items())), *counted]


def judge_conditioned(arms: Arms) -> Judgement:
    """Fewer parameters by count at the paper's size; a lower FD after equal numbers of updates."""
    counts = {}
    for arm in CONDITIONS:
        found = [figure_of(one, "both") for one in arms.get(f"{arm}, parameters", [])]
        counts[arm] = next((value for value in found if value is not None), math.nan)
    per_class, shared, skip = counts.values()
    known = not any(math.isnan(value) for value in counts.values())
    listed = ", ".join(f"{arm} {value:.1f} M" for arm, value in counts.items())
    parts = [
        checked(f"parameters of both networks at 128×128, width 96: {listed}", shared < per_class if known else None),
        sided("ln FD at equal updates, shared less gains per class", compared(arms, "shared", "gains per class"), True),
        sided("ln FD at equal updates, with skip-z less without", compared(arms, "shared, skip-z", "shared"), True),
    ]
    told = f"With skip-z the count is {skip:.1f} M at equal length of z"
    rows = rows_of(arms, usual(arms), CONDITIONS)
    for one in rows:
        one["parameters at 128×128, M"] = round(counts[one["arm"]], 1)
    return together(parts, rows, told)


def draw_conditioned(arms: Arms, figure: Figure) -> None:
    """Parameters, and FD at equal updates."""
    left, right = figure.subplots(1, 2)
    groups = {arm: {"": arms.get(f"{arm}, parameters", [])} for arm in CONDITIONS}
    drawing.bars(left, groups, "both", "parameters at 128×128, millions", log=False)
    trained = {arm: {"": arms.get(arm, [])} for arm in CONDITIONS}
    drawing.bars(right, trained, distance_name(arms), "FD after equal updates", log=True)
    for axes in (left, right):
        axes.tick_params(axis="x", labelsize="small")
    drawing.finished(figure, {arm: arms.get(arm, []) for arm in CONDITIONS}, "Shared embedding and skip-z")


CONDITIONED = Claim(
    13,
    "shared-embedding",
    "A class embedding shared by all gains has fewer parameters and trains faster; skip-z, a part of z for each "
    "block, helps",
    "Brock et al. 2019, §3 and table 1",
    "173.5 → 160.6 → 158.3 million parameters; shared embeddings train 37% faster, skip-z 18% faster and 4% better; "
    "FID / IS 9.54 / 92.98 → 9.18 / 94.94 → 8.73 / 98.76",
    {
        "mini": lambda: _conditioned(MINI, 4, 150, SEEDS),
        "small": lambda: _conditioned(SMALL, 32, 5_000, SEEDS),
        "paper": _published_conditioned,
    },
    judge_conditioned,
    draw_conditioned,
    28000.0,
    ESTIMATED,
)

CLAIMS = (BATCH, CONDITIONED)
