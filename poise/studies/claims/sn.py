"""Claims of Miyato et al. 2018 (arXiv 1802.05957): settings A to F, spectra, the cost of a step, feature maps.

Claims 6 to 9.
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
    compared,
    distance_name,
    distances,
    figure_of,
    paired,
    rows_of,
    score_name,
    short,
    sided,
    slopes,
    together,
    usual,
)
from poise.studies.claims.settings import CIFAR, FEW, METHODS, MINI, SEEDS, SETTINGS, SMALL, STL, Scale, cnn, each
from poise.studies.statistics import interval
from poise.studies.trial import Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COMPARED = ("clipping", "WGAN-GP", "BN", "LN", "WN", "orthonormal", "SN")
"""in the order of the paper's figure"""


def _settings(scale: Scale, costly: range, methods: tuple[str, ...] = COMPARED) -> list[Trial]:
    """All settings with all seeds, but those of five D updates, which cost most, with fewer where so wanted."""
    found = []
    for method in methods:
        for name, setting in SETTINGS.items():
            seeds = costly if setting.n_dis == 5 else SEEDS
            found += each(seeds, partial(_cell, scale, method, name, "spectra" if name == "C" else ""))
    return found


def _cell(scale: Scale, method: str, setting: str, measure: str, seed: int) -> Trial:
    return cnn(scale, method, setting, seed, f"{method}, {setting}", (measure,) if measure else ())


def judge_settings(arms: Arms) -> Judgement:
    """Over all settings and seeds SN's FD is below each other method's."""
    methods = [method for method in METHODS if f"{method}, B" in arms and method != "SN"]
    parts = []
    for method in methods:
        pooled = [one for setting in SETTINGS for one in compared(arms, f"SN, {setting}", f"{method}, {setting}")]
        parts.append(sided(f"ln FD over {len(SETTINGS)} settings, SN less {method}", pooled, True))
    return together(parts, _settings_table(arms, [*methods, "SN"]))


def _settings_table(arms: Arms, methods: list[str]) -> list[dict[str, Any]]:
    """A row for each method, a column for each setting: FD, and how many runs failed; as the paper's table."""
    distance, rows = distance_name(arms), []
    for method in methods:
        row: dict[str, Any] = {"method": method}
        for setting in SETTINGS:
            outcomes = arms.get(f"{method}, {setting}", [])
            found = drawing.values_of(outcomes, distance)
            failed = len(outcomes) - len(found)
            cell = short(interval(found)) if found else "–"
            row[f"FD, {setting}"] = cell + (f", {failed} failed" if failed else "")
        rows.append(row)
    return rows


def draw_settings(arms: Arms, figure: Figure) -> None:
    """Class score and FD by setting, a bar for each method."""
    upper, lower = figure.subplots(2, 1, sharex=True)
    methods = [method for method in METHODS if f"{method}, B" in arms]
    groups = {setting: {method: arms.get(f"{method}, {setting}", []) for method in methods} for setting in SETTINGS}
    drawing.bars(upper, groups, score_name(arms), "IS", log=False)
    drawing.bars(lower, groups, distance_name(arms), "FD", log=True)
    drawing.finished(figure, arms, "Settings A to F")
    if lower.get_legend() is not None:
        lower.get_legend().remove()
    upper.legend(fontsize="xx-small", ncols=len(methods), loc="lower left", bbox_to_anchor=(0, 1), frameon=False)


SETTINGS_A_F = Claim(
    6,
    "settings-a-f",
    "Over settings A to F of rates, momenta and n_dis SN stays good where clipping, WGAN-GP, batch, layer and weight "
    "norm, and orthonormal regularization fail",
    "Miyato et al. 2018, §4.1, figures 1 and 2, table 2",
    "CIFAR-10, IS / FID: clipping 6.41 / 42.6, GAN-GP 6.93 / 37.7, WGAN-GP 6.68 / 40.2, BN 6.27 / 56.3, LN 7.19 / "
    "33.9, WN 6.84 / 34.7, orthonormal 7.40 / 29.0, SN 7.42 / 29.3",
    {
        "mini": lambda: _settings(MINI, SEEDS),
        "small": lambda: _settings(SMALL, FEW, ("GAN-GP", *COMPARED)),
        "paper": lambda: _settings(CIFAR, SEEDS, ("GAN-GP", *COMPARED)),
    },
    judge_settings,
    draw_settings,
    340.0,
    ESTIMATED,
)

SPECTRA = ("clipping", "WN", "SN")


def _spectra(scale: Scale, seeds: range) -> list[Trial]:
    return each(seeds, *(partial(_spectrum, scale, method) for method in SPECTRA))


def _spectrum(scale: Scale, method: str, seed: int) -> Trial:
    return cnn(scale, method, "C", seed, measures=("spectra",))


def judge_spectra(arms: Arms) -> Judgement:
    """WN's hidden layers have more of their weight in the first direction than SN's, and fewer directions in use."""

    def of(arm: str, figure: str) -> dict[int, float]:
        return by_seed(arms, arm, f"spectra/{figure}", largest_is_worst=figure.startswith("first"))

    parts = [
        sided(
            "share of directions in use, SN less WN",
            paired(of("SN", "spread/hidden"), of("WN", "spread/hidden")),
            False,
        ),
        sided(
            "share of the first direction, SN less WN", paired(of("SN", "first/hidden"), of("WN", "first/hidden")), True
        ),
    ]
    figures = {"spectra/spread/hidden": "share of directions in use", "spectra/first/hidden": "σ₁² / Σσ²"}
    return together(parts, rows_of(arms, figures))


def draw_spectra(arms: Arms, figure: Figure) -> None:
    """Squared singular values over the largest, a panel for each layer, a line for each method."""
    names = sorted({name for of in arms.values() for one in of for name in one.curves if name.startswith("spectrum/")})
    names = names[:8]
    if not names:
        return
    columns = math.ceil(len(names) / 2)
    panels = figure.subplots(2, columns, squeeze=False).flatten()
    for axes, name in zip(panels, names, strict=False):
        drawing.curves(axes, arms, name, "i", "σᵢ² / σ₁²")
        axes.set_title(name.partition("/")[2], fontsize="x-small")
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    drawing.finished(figure, arms, "Squared singular values of D's weights in use, setting C", drawing.THIN)


SPECTRUM = Claim(
    7,
    "spectrum",
    "Weight norm concentrates a layer's spectrum on few directions, spectral norm spreads it",
    "Miyato et al. 2018, §3 and figure 3",
    "after training, WN's and clipping's singular values are concentrated on a few directions, SN's are broadly "
    "distributed",
    {
        "mini": lambda: _spectra(MINI, SEEDS),
        "small": lambda: _spectra(SMALL, SEEDS),
        "paper": lambda: _spectra(CIFAR, SEEDS),
    },
    judge_spectra,
    draw_spectra,
    7.4,
    ESTIMATED,
)

FEW_PERCENT, NEAR_DOUBLE = 1.10, 1.5


def _cost(scale: Scale, seeds: range, **changes: Any) -> list[Trial]:
    given = {"device": "auto", **{name.replace("__", "."): value for name, value in changes.items()}}
    return [Trial("standard CNN", scale.recipe, given, seed, work="step-cost") for seed in seeds]


def judge_cost(arms: Arms) -> Judgement:
    """SN's step takes at most 10% more than none's, WGAN-GP's at least half as much again, intervals and all."""
    outcomes = [one for of in arms.values() for one in of]
    parts = []
    for figure, words, limit, below in (
        ("sn_ratio", f"SN's step over none's (a few percent: at most {FEW_PERCENT})", FEW_PERCENT, True),
        ("wgan_gp_ratio", f"WGAN-GP's over none's (near double: at least {NEAR_DOUBLE})", NEAR_DOUBLE, False),
    ):
        found = [value for one in outcomes if (value := figure_of(one, figure)) is not None]
        part = sided("", [value - limit for value in found], below)
        reach = str(interval(found)) if found else "unknown"
        parts.append(type(part)(f"{words} {reach}", part.verdict))
    rows = [
        {
            "method": title,
            "seconds a step": short(interval(seconds)) if (seconds := drawing.values_of(outcomes, name)) else "–",
            "n": len(seconds),
        }
        for name, title in (("none", "none"), ("sn", "SN"), ("wgan_gp", "WGAN-GP"))
    ]
    return together(parts, rows, "Both players' updates at n_dis 1, the three taking turns")


def draw_cost(arms: Arms, figure: Figure) -> None:
    """Seconds of a step by method."""
    axes = figure.subplots()
    outcomes = [one for of in arms.values() for one in of]
    for place, (name, title) in enumerate((("none", "none"), ("sn", "SN"), ("wgan_gp", "WGAN-GP"))):
        found = drawing.values_of(outcomes, name)
        drawing.bar(axes, place, found, color=f"C{place}")
        axes.text(place, 0, title, ha="center", va="bottom", color="white")
    axes.set(xticks=[], ylabel="seconds of a step, median of 10")
    drawing.finished(figure, arms, "Cost of a step", drawing.DOTS)


COST = Claim(
    8,
    "step-cost",
    "Spectral norm costs a few percent of a step, WGAN-GP nearly doubles it",
    "Miyato et al. 2018, appendix on computational time",
    "SN takes slightly longer than weight norm and far less than WGAN-GP, which needs a second forward and backward "
    "pass",
    {
        "mini": lambda: _cost(
            MINI, SEEDS, data__resolution=32, model__resolution=32, model__width=32, precision="fp32", device="cpu"
        ),
        "small": lambda: _cost(SMALL, SEEDS, data__resolution=32, model__resolution=32, model__width=64),
        "paper": lambda: _cost(CIFAR, SEEDS),
    },
    judge_cost,
    draw_cost,
    0.05,
    ESTIMATED,
)

FACTORS = (0.5, 1.0, 2.0, 4.0)


def _maps(scale: Scale, seeds: range) -> list[Trial]:
    makers = [partial(_map, scale, method, factor) for method in ("orthonormal", "SN") for factor in FACTORS]
    return each(seeds, *makers)


def _map(scale: Scale, method: str, factor: float, seed: int) -> Trial:
    changes = None if factor == 1 else {"model.d_features": factor}
    return cnn(scale, method, "C", seed, f"{method} ×{factor:g}", changes=changes)


def judge_maps(arms: Arms) -> Judgement:
    """FD falls with the number of feature maps under SN, and less, or not, under orthonormal regularization."""
    found = {
        method: slopes({math.log2(factor): distances(arms, f"{method} ×{factor:g}") for factor in FACTORS})
        for method in ("orthonormal", "SN")
    }
    parts = [
        sided("slope of ln FD for each doubling, SN", list(found["SN"].values()), True),
        sided("orthonormal's slope less SN's", paired(found["orthonormal"], found["SN"]), False),
    ]
    return together(parts, rows_of(arms, usual(arms)))


def draw_maps(arms: Arms, figure: Figure) -> None:
    """Class score and FD over the relative number of feature maps."""
    left, right = figure.subplots(1, 2)
    series = {
        method: {factor: arms.get(f"{method} ×{factor:g}", []) for factor in FACTORS}
        for method in ("orthonormal", "SN")
    }
    for axes, name, label in ((left, score_name(arms), "IS"), (right, distance_name(arms), "FD")):
        drawing.lines(axes, series, name, "feature maps, relative to the original", label)
        axes.set_xscale("log", base=2)
    right.set_yscale("log")
    drawing.finished(figure, arms, "Feature maps of D's last convolution, setting C", drawing.BAND)


MAPS = Claim(
    9,
    "feature-maps",
    "More feature maps in D's last layer help under SN, not under orthonormal regularization",
    "Miyato et al. 2018, §4.1.2, figure on feature map dimensions (STL-10, setting C)",
    "orthonormal regularization does poorly with large feature maps, SN keeps improving",
    {
        "mini": lambda: _maps(MINI, SEEDS),
        "small": lambda: _maps(SMALL, SEEDS),
        "paper": lambda: _maps(STL, SEEDS),
    },
    judge_maps,
    draw_maps,
    49.0,
    ESTIMATED,
)

CLAIMS = (SETTINGS_A_F, SPECTRUM, COST, MAPS)
