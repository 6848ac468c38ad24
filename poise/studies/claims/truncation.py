"""The claim of Brock, Donahue & Simonyan 2019 (arXiv 1809.11096) on truncated latents: 14."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from poise.studies.claim import Arms, Claim, Judgement
from poise.studies.claims import drawing
from poise.studies.claims.biggan import biggan, row
from poise.studies.claims.costs import ESTIMATED
from poise.studies.claims.judging import by_seed, paired, rows_of, sided, together
from poise.studies.claims.settings import FEW, MINI, SEEDS, SMALL, Scale, each
from poise.studies.measures.samples import THRESHOLDS
from poise.studies.trial import Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ORTHOGONAL = {"plain": [], "orthogonal": [{"name": "off-diagonal", "weight": 1e-4}]}
LOW = "0.5"
"""the threshold at which nets are compared, in σ"""


def _truncated(scale: Scale, width: int, steps: int, seeds: range) -> list[Trial]:
    def one(arm: str, seed: int) -> Trial:
        return biggan(scale, arm, width, steps, "first", seed, ("truncation",), g_penalties=ORTHOGONAL[arm])

    return each(seeds, *(partial(one, arm) for arm in ORTHOGONAL))


def _published_truncated() -> list[Trial]:
    pairs = (("skip-z", "plain"), ("orthogonal", "orthogonal"))
    return each(FEW, *(partial(row, name, arm, measures=("truncation",)) for name, arm in pairs))


def judge_truncation(arms: Arms) -> Judgement:
    """At half a σ IS is above that of all latents; FD has its least in between; both more so with the regularizer.

    How amenable a net is, is read as how much of its IS truncation at half a σ brings, ln of the ratio.
    """

    def logs(arm: str, figure: str) -> dict[int, float]:
        return by_seed(arms, arm, f"truncation/{figure}", log=True)

    gains = {arm: _differences(logs(arm, f"is/{LOW}"), logs(arm, "is/full")) for arm in ORTHOGONAL}
    falls, rises = [], []
    for arm in ORTHOGONAL:
        by_threshold = {t: logs(arm, f"fd/{t:g}") for t in THRESHOLDS[1:]}
        full, least = logs(arm, "fd/full"), logs(arm, f"fd/{THRESHOLDS[0]:g}")
        for seed in full:
            lowest = min(of[seed] for of in by_threshold.values())
            falls.append(lowest - full[seed])
            rises.append(least[seed] - lowest)
    parts = [
        sided(
            f"ln IS at {LOW} σ less without truncation", [one for of in gains.values() for one in of.values()], False
        ),
        sided("ln FD, least of thresholds less without truncation", falls, True),
        sided(f"ln FD at {THRESHOLDS[0]} σ less that least", rises, False),
        sided("gain of ln IS, with the regularizer less without", paired(gains["orthogonal"], gains["plain"]), False),
    ]
    names = ("0.3", "0.5", "1", "2", "full")
    figures = {f"truncation/{kind}/{name}": f"{kind.upper()} {name}" for kind in ("is", "fd") for name in names}
    told = "IS is of the digit that the label asks for; batch norm by standing statistics"
    return together(parts, rows_of(arms, figures), told)


def _differences(a: dict[int, float], b: dict[int, float]) -> dict[int, float]:
    return {seed: a[seed] - b[seed] for seed in a if seed in b}


def draw_truncation(arms: Arms, figure: Figure) -> None:
    """FD against IS along the truncation curve, a line for each run."""
    axes = figure.subplots()
    for index, (arm, outcomes) in enumerate(arms.items()):
        for one in outcomes:
            scores, found = one.curves.get("truncation/is", []), one.curves.get("truncation/fd", [])
            label = arm if one is outcomes[0] else None
            xs, ys = [score for _, score in scores], [value for _, value in found]
            axes.plot(xs, ys, color=f"C{index}", marker="o", ms=2, lw=0.8, label=label)
    axes.set(xlabel=f"IS, thresholds {THRESHOLDS[0]} to {THRESHOLDS[-1]} σ", ylabel="FD", yscale="log")
    drawing.finished(figure, arms, "Variety against fidelity", drawing.SINGLE)


TRUNCATION = Claim(
    14,
    "truncation",
    "Truncating latents trades variety for fidelity: IS rises, FD falls and then rises; orthogonal regularization "
    "makes more nets amenable to it",
    "Brock et al. 2019, §3.1, figures 2 and 17",
    "IS rises throughout; FID falls, then rises sharply as variety goes; 16% of models amenable without the "
    "regularizer, 60% with it",
    {
        "mini": lambda: _truncated(MINI, 4, 150, SEEDS),
        "small": lambda: _truncated(SMALL, 32, 5_000, SEEDS),
        "paper": _published_truncated,
    },
    judge_truncation,
    draw_truncation,
    19000.0,
    ESTIMATED,
)

CLAIMS = (TRUNCATION,)
