"""Claims of Brock, Donahue & Simonyan 2019 (arXiv 1809.11096) on collapse, and on what scores see.

Claims 15 and 16.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from poise.studies.claim import Arms, Claim, Judgement
from poise.studies.claims import drawing
from poise.studies.claims.biggan import HINGE
from poise.studies.claims.costs import ESTIMATED
from poise.studies.claims.judging import by_seed, checked, figure_of, paired, rows_of, sided, together
from poise.studies.claims.settings import FEW, MINI, SEEDS, SMALL, Scale, Setting, each
from poise.studies.measures.histories import LEAST
from poise.studies.trial import Outcome, Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COUNTER: dict[str, dict[str, Any]] = {
    "base": {},
    "σ₀ clamped": {"g_norm.name": "sigma-clamp", "g_norm.ratio": 1.2},
    "R1, γ = 1": {"penalties": [{"name": "r1", "gamma": 1.0}]},
    "R1, γ = 10": {"penalties": [{"name": "r1", "gamma": 10.0}]},
}
FAST = Setting(1e-3, 4e-3, 0.0, 0.999, 2)
"""the paper's ratio of rates, twenty times as fast, that a collapse may come within the budget"""


def _collapse(scale: Scale, arm: str, seed: int) -> Trial:
    setting = FAST.changes(scale)
    cadence = {"log_every": max(1, setting["steps"] // 40), "evaluate_every": setting["steps"] // 5}
    changes = {**scale.changes, **setting, **HINGE, **cadence, **COUNTER[arm]}
    return Trial(arm, scale.recipe, changes, seed, measures=("sigma-history",))


def _collapses(scale: Scale, seeds: range) -> list[Trial]:
    return each(seeds, *(partial(_collapse, scale, arm) for arm in COUNTER))


def _published(arm: str, seed: int) -> Trial:
    changes: dict[str, Any] = {"accumulate": 32, "evaluate_every": 5_000, "log_every": 250, "best_by": "none"}
    changes |= {"g_penalties": [], **COUNTER[arm]}
    return Trial(arm, "biggan-imagenet128", changes, seed, measures=("sigma-history",))


def judge_collapse(arms: Arms) -> Judgement:
    """Of base runs that collapse, two at least: σ₀ grows in G, and jumps at the collapse, in G and in D.

    Clamping: later, but collapse still; R1 with γ = 10: none, and fewer modes at best, fewer than with γ = 1.
    Where fewer than two base runs collapse all but R1's price is not decided.
    """
    base = arms.get("base", [])
    fallen = [one for one in base if _fell(one)]
    enough = len(fallen) >= 2

    def of(arm: str, figure: str) -> dict[int, float]:
        return by_seed(arms, arm, f"sigma-history/{figure}", largest_is_worst=False)

    def least(figure: str) -> float:
        return min((one.figures.get(f"sigma-history/{figure}", 1.0) for one in fallen), default=1.0)

    growth, jumps = least("g_growth"), (least("g_jump"), least("d_jump"))
    clamped = [_collapse_of(one) for one in arms.get("σ₀ clamped", [])]
    delay = paired(_when(arms, "σ₀ clamped"), _when(arms, "base"))
    strong = [_fell(one) for one in arms.get("R1, γ = 10", [])]
    best = {arm: of(arm, "best") for arm in COUNTER}
    parts = [
        checked(
            f"{len(fallen)} of {len(base)} base runs collapse; in each, σ₀ of some layer of G grows at least "
            f"{growth:.3g} times (2 is growth), and at the collapse, over its usual steps, {jumps[0]:.3g} times in G "
            f"and {jumps[1]:.3g} in D (3 is a jump)",
            (growth >= 2 and min(jumps) >= 3) if enough else None,
        ),
        sided("share of the run by which clamping delays the collapse (never counts as 2)", delay, False)
        if enough
        else checked("clamping delays the collapse", None),
        checked(
            f"{sum(when < 2 for when in clamped)} of {len(clamped)} clamped runs collapse still, so it is no cure",
            any(when < 2 for when in clamped) if enough and clamped else None,
        ),
        checked(
            f"{sum(strong)} of {len(strong)} runs with R1, γ = 10, collapse",
            not any(strong) if enough and strong else None,
        ),
        sided("most modes, R1 γ = 10 less base", paired(best["R1, γ = 10"], best["base"]), True),
        sided("most modes, R1 γ = 10 less γ = 1", paired(best["R1, γ = 10"], best["R1, γ = 1"]), True),
    ]
    figures = {"collapse": "collapse at, of the run (2: never)", "best": "most modes", "g_growth": "growth of σ₀, G"}
    figures |= {"d_growth": "growth of σ₀, D", "g_jump": "jump, G", "d_jump": "jump, D"}
    rows = rows_of(arms, {f"sigma-history/{name}": title for name, title in figures.items()})
    told = f"A collapse is a judgement with less than half the most modes before, at least {LEAST:g}, or a failed run"
    return together(parts, rows, told)


def _collapse_of(one: Outcome) -> float:
    """When a run collapsed, as a share of it; 2 for never, and the end for one that failed unmeasured."""
    return one.figures.get("sigma-history/collapse", 2.0 if one.status == "finished" else 1.0)


def _fell(one: Outcome) -> bool:
    return _collapse_of(one) < 2 or one.status == "failed"


def _when(arms: Arms, arm: str) -> dict[int, float]:
    return {one.trial.seed: _collapse_of(one) for one in arms.get(arm, [])}


def draw_collapse(arms: Arms, figure: Figure) -> None:
    """σ₀ of G and of D, the largest over layers relative to the start, and modes, through training."""
    upper = figure.subplots(3, 1, sharex=True)
    for axes, name, label in zip(upper, ("sigma/G", "sigma/D", "modes"), ("σ₀, G", "σ₀, D", "modes"), strict=True):
        drawing.curves(axes, arms, name, "", label, log=name != "modes")
    upper[-1].set_xlabel("generator updates")
    drawing.finished(figure, arms, "σ₀ over its first value, the largest of all layers", drawing.THIN)
    for axes in upper[1:]:
        if axes.get_legend() is not None:
            axes.get_legend().remove()


COLLAPSE = Claim(
    15,
    "collapse",
    "σ₀ in G grows and explodes at collapse, D's jumps there; clamping delays it and does not cure; R1 cures at a "
    "price, higher with a larger γ",
    "Brock et al. 2019, §4 and appendix F",
    "some layers' σ₀ in G grow through training and explode at collapse, D's are noisy and jump at collapse only; "
    "clamping or regularizing σ₀ does not prevent it; R1 at γ = 10 stabilizes and costs 45% of IS",
    {
        "mini": lambda: _collapses(MINI, SEEDS),
        "small": lambda: _collapses(SMALL, SEEDS),
        "paper": lambda: each(FEW, *(partial(_published, arm) for arm in COUNTER)),
    },
    judge_collapse,
    draw_collapse,
    47000.0,
    ESTIMATED,
)


def _one_per_class(resolution: int) -> list[Trial]:
    changes = {"data.resolution": resolution, "model.resolution": resolution}
    return [Trial("stacked digits", "stacked-digits", changes, seed, work="one-per-class") for seed in SEEDS]


CLASSES = 1000


def judge_one_per_class(arms: Arms) -> Judgement:
    """IS of one image per class is at least that of real images, and within 5% of all classes; its FD is far higher."""
    outcomes = [one for of in arms.values() for one in of]

    def logs(name: str) -> dict[int, float]:
        return by_seed({"": outcomes}, "", name, log=True)

    scores = [value for one in outcomes if (value := figure_of(one, "is_one")) is not None]
    parts = [
        checked(
            f"least IS of one image per class {min(scores, default=0):.4g} (at least 95% of {CLASSES} is maximal)",
            min(scores) >= 0.95 * CLASSES if scores else None,
        ),
        sided("ln IS, one image per class less real images", paired(logs("is_one"), logs("is_real")), False),
        sided("ln FD, one image per class less real images", paired(logs("fd_one"), logs("fd_real")), False),
    ]
    figures = {
        "is_one": "IS, one per class",
        "is_real": "IS, real",
        "fd_one": "FD, one per class",
        "fd_real": "FD, real",
    }
    return together(parts, rows_of(arms, figures))


def draw_one_per_class(arms: Arms, figure: Figure) -> None:
    """IS and FD of one image per class beside those of real images."""
    left, right = figure.subplots(1, 2)
    outcomes = [one for of in arms.values() for one in of]
    for axes, kind, label in ((left, "is", "IS"), (right, "fd", "FD")):
        for place, (name, title) in enumerate((("one", "one image per class"), ("real", "real images"))):
            found = drawing.values_of(outcomes, f"{kind}_{name}")
            drawing.bar(axes, place, found, label=title)
        axes.set(ylabel=label, xticks=[])
    drawing.finished(figure, arms, "2,000 images: one of each class, over and over, or real ones", drawing.DOTS)


ONE_PER_CLASS = Claim(
    16,
    "one-per-class",
    "One perfect image per class has the highest IS, and not the best FID",
    "Brock et al. 2019, §3.1",
    "IS rewards quality and not variety within a class; FID asks for both",
    {"mini": lambda: _one_per_class(16), "small": lambda: _one_per_class(32), "paper": lambda: _one_per_class(32)},
    judge_one_per_class,
    draw_one_per_class,
    0.05,
    ESTIMATED,
)

CLAIMS = (COLLAPSE, ONE_PER_CLASS)
