"""Claims of Lin, Sekar & Fanti 2021 (arXiv 2009.02773) on samples: strict SN, scales, both directions, learned γ.

Claims 3, 4 and 5.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from poise.studies.claim import Arms, Claim, Judgement
from poise.studies.claims import drawing
from poise.studies.claims.costs import ESTIMATED
from poise.studies.claims.judging import (
    Part,
    by_seed,
    chosen_without,
    compared,
    distance_name,
    distances,
    paired,
    rows_of,
    score_name,
    sided,
    together,
    usual,
)
from poise.studies.claims.settings import (
    BSN_CELEBA,
    BSN_CIFAR,
    BSN_STL,
    FEW,
    MINI,
    RATES,
    SEEDS,
    SMALL,
    Scale,
    cnn,
    each,
    scaled,
)
from poise.studies.trial import Outcome, Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STRICT = "SN strict"
MENDED = (1.75, 3.0)
MENDED_PAPER = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.4, 2.8, 3.2, 4.0)


def _strict(scale: Scale, factors: tuple[float, ...]) -> list[Trial]:
    def strict(factor: float, seed: int) -> Trial:
        arm = STRICT if factor == 1 else f"{STRICT} s={factor:g}"
        return scaled(scale, False, factor, "B", seed, arm, operator="conv")

    factors = tuple(dict.fromkeys((1.0, *factors)))
    return each(
        SEEDS,
        lambda seed: cnn(scale, "SN", "B", seed, measures=("gradient-history",)),
        *(partial(strict, factor) for factor in factors),
    )


def judge_strict(arms: Arms) -> Judgement:
    """Strict SN's FD is above reshaped SN's, and the best of its scales, chosen by the other seeds, brings it down."""
    scales = {arm: distances(arms, arm) for arm in arms if arm.startswith(f"{STRICT} s=")}
    parts = [
        sided("ln FD, strict less reshaped SN", compared(arms, STRICT, "SN"), False),
        sided("ln FD, strict with a scale less without", paired(chosen_without(scales), distances(arms, STRICT)), True),
    ]
    told = "The scale is chosen for each seed by the others"
    return together(parts, rows_of(arms, usual(arms)), told)


def draw_strict(arms: Arms, figure: Figure) -> None:
    """FD and class score of each arm."""
    left, right = figure.subplots(1, 2)
    groups = {arm.replace("SN strict", "strict"): {"": outcomes} for arm, outcomes in arms.items()}
    drawing.bars(left, groups, distance_name(arms), "FD", log=True)
    drawing.bars(right, groups, score_name(arms), "IS", log=False)
    drawing.finished(figure, arms, "SN of the reshaped weight, and of the convolution itself")


STRICT_SN = Claim(
    3,
    "strict-sn",
    "Normalizing by the convolution's true operator norm trains worse out of the box than by the reshaped weight's; a "
    "scale mends it",
    "Lin et al. 2021, section on strict implementations",
    "strict SN makes the variance too small and the gradient vanish; scaled up it trains as SN does",
    {
        "mini": lambda: _strict(MINI, MENDED),
        "small": lambda: _strict(SMALL, MENDED),
        "paper": lambda: _strict(BSN_CIFAR, MENDED_PAPER),
    },
    judge_strict,
    draw_strict,
    110.0,
    ESTIMATED,
)

PUBLISHED = (0.7, 0.8, 0.9, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2, 2.4, 2.6, 2.8, 3.0, 3.2, 3.4, 3.6, 3.8, 4.0)
"""the authors' 19 scales on CIFAR-10"""
PUBLISHED_SHORT = PUBLISHED[:7]
"""on STL-10 and CelebA"""
STL, CELEBA = "STL-10", "CelebA"
"""data sets beside CIFAR-10, before the names of their arms"""
MINI_SCALES = (0.7, 1.0, 1.4, 2.0, 4.0)


def _bssn(scale: Scale, factors: tuple[float, ...], by_rates: range, prefix: str = "") -> list[Trial]:
    """Scales by all seeds; rates, which are pooled, by some."""
    makers = [
        partial(_sweep, scale, prefix, bidirectional, factor) for bidirectional in (False, True) for factor in factors
    ]
    of_rates = [partial(_rates, scale, prefix, method, rates) for rates in RATES for method in ("SN", "BSN")]
    return [*each(SEEDS, *makers), *each(by_rates, *of_rates)]


def _sweep(scale: Scale, prefix: str, bidirectional: bool, factor: float, seed: int) -> Trial:
    arm = f"{prefix}{'BSSN' if bidirectional else 'SSN'} s={factor:g}"
    return scaled(scale, bidirectional, factor, "B", seed, arm)


def _rates(scale: Scale, prefix: str, method: str, rates: str, seed: int) -> Trial:
    return cnn(scale, method, RATES[rates], seed, f"{prefix}{method} ({rates})")


def _published() -> list[Trial]:
    return [
        *_bssn(BSN_CIFAR, PUBLISHED, SEEDS),
        *_bssn(BSN_STL, PUBLISHED_SHORT, SEEDS, f"{STL}, "),
        *_bssn(BSN_CELEBA, PUBLISHED_SHORT, SEEDS, f"{CELEBA}, "),
    ]


def _by_data(arms: Arms) -> dict[str, dict[str, list[Outcome]]]:
    """Arms by data set, "" for the first, under their names without it: what is compared is of one data set."""
    found: dict[str, dict[str, list[Outcome]]] = {}
    for arm, outcomes in arms.items():
        before, _, rest = arm.partition(", ")
        name, own = (before, rest) if before in (STL, CELEBA) else ("", arm)
        found.setdefault(name, {})[own] = outcomes
    return found


def judge_bssn(arms: Arms) -> Judgement:
    """FD lower and IS higher: BSSN than SSN at each one's best scale, chosen by other seeds; BSN than SN, all rates.

    So on each data set. "At least as good" is read as better: equal methods leave it not decided.
    """
    parts = [part for name, own in _by_data(arms).items() for part in _compared(own, f"{name}, " if name else "")]
    told = "The scale is chosen for each seed by the others"
    return together(parts, rows_of(arms, usual(arms)), told)


def _compared(arms: Arms, data: str) -> list[Part]:
    """The parts of one data set, its name before each."""
    parts = []
    score = score_name(arms)
    for figure, title, lower in ((distance_name(arms), "ln FD", True), (score, "ln IS", False)):
        # The score's sign is turned so that the least is the best of either.
        found = {
            arm: {seed: v if lower else -v for seed, v in by_seed(arms, arm, figure, lower, log=True).items()}
            for arm in arms
        }
        sign = 1 if lower else -1
        sweeps = [
            chosen_without({arm: of for arm, of in found.items() if arm.startswith(f"{name} s=")})
            for name in ("BSSN", "SSN")
        ]
        best = [sign * one for one in paired(sweeps[0], sweeps[1])]
        pooled = [
            sign * one
            for rates in RATES
            for one in paired(found.get(f"BSN ({rates})", {}), found.get(f"SN ({rates})", {}))
        ]
        parts.append(sided(f"{data}{title}, BSSN less SSN, each at its best scale,", best, lower))
        parts.append(sided(f"{data}{title}, BSN less SN over {len(RATES)} settings,", pooled, lower))
    return parts


def draw_bssn(arms: Arms, figure: Figure) -> None:
    """FD over the scale, and over the rates, a row for each data set."""
    by_data = _by_data(arms)
    rows = figure.subplots(len(by_data), 2, squeeze=False)
    for (left, right), (data, own) in zip(rows, by_data.items(), strict=True):
        series = {
            name: {float(arm.partition("s=")[2]): of for arm, of in own.items() if arm.startswith(f"{name} s=")}
            for name in ("SSN", "BSSN")
        }
        label = f"FD, {data}" if data else "FD"
        drawing.lines(left, series, distance_name(own), "scale s", label)
        left.set_yscale("log")
        groups = {rates: {name: own.get(f"{name} ({rates})", []) for name in ("SN", "BSN")} for rates in RATES}
        drawing.bars(right, groups, distance_name(own), label, log=True)
    drawing.finished(figure, arms, "FD over the scale, and by rates in the paper's 1e-4", drawing.BOTH)


BSSN = Claim(
    4,
    "bssn",
    "BSSN gives better samples than SSN, and BSN than SN, over scales and rates",
    "Lin et al. 2021, section on BSSN, its tables and figures over scales",
    "BSSN beats SN in most settings on CIFAR-10, STL-10 and CelebA; ImageNet, best runs, IS / FID: BSSN 13.63 / 70.88, "
    "SN 13.04 / 69.12, but BSSN left at scale 1.0 2.07 / 242.51",
    {
        "mini": lambda: _bssn(MINI, MINI_SCALES, SEEDS),
        "small": lambda: _bssn(SMALL, MINI_SCALES, FEW),
        "paper": _published,
    },
    judge_bssn,
    draw_bssn,
    2600.0,
    ESTIMATED,
)

GAMMAS = {"SN": None, "SN, γ per layer": "per-layer", "SN, γ shared": "shared"}


def _gamma(scale: Scale) -> list[Trial]:
    def one(arm: str, gamma: str | None, seed: int) -> Trial:
        return cnn(scale, "SN", "B", seed, arm, changes={"d_norm.gamma": gamma} if gamma else None)

    return each(SEEDS, *(partial(one, arm, gamma) for arm, gamma in GAMMAS.items()))


def judge_gamma(arms: Arms) -> Judgement:
    """Both γ have a higher FD than none. Where one is lower the claim fails; equal ones leave it not decided."""
    parts = [sided(f"ln FD, {arm} less SN without", compared(arms, arm, "SN"), False) for arm in list(GAMMAS)[1:]]
    return together(parts, rows_of(arms, usual(arms)))


def draw_gamma(arms: Arms, figure: Figure) -> None:
    """FD and class score of each."""
    left, right = figure.subplots(1, 2)
    groups = {arm: {"": outcomes} for arm, outcomes in arms.items()}
    drawing.bars(left, groups, distance_name(arms), "FD", log=True)
    drawing.bars(right, groups, score_name(arms), "IS", log=False)
    drawing.finished(figure, arms, "A learned γ, one a layer or one for all")


GAMMA = Claim(
    5,
    "gamma",
    "A learned γ, one for each layer or one shared, gives no better samples than SN without",
    "Lin et al. 2021, appendix and the authors' code",
    "both variants are trained beside SN in the authors' code, there with a gradient penalty of 10 on top; which is "
    "better is our reading, no figure of theirs is quoted",
    {budget: partial(_gamma, scale) for budget, scale in (("mini", MINI), ("small", SMALL), ("paper", BSN_CIFAR))},
    judge_gamma,
    draw_gamma,
    30.0,
    ESTIMATED,
)

CLAIMS = (STRICT_SN, BSSN, GAMMA)
