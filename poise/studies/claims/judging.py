"""What the judges share: verdicts of intervals, several parts of a claim together, and how failed runs count.

A part holds where the whole 95% interval lies on the claimed side of zero, does not hold where all of it lies on the
other, and is not decided in between or with fewer than ``LEAST`` values. A claim holds where all its parts do, and does
not hold where one does not. Fréchet distances are compared by their logarithms, as ratios; a run that failed counts as
the worst that finished of its claim.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from poise.studies.claim import Arms, Judgement
from poise.studies.statistics import Interval, interval
from poise.studies.trial import Outcome

Verdict = Literal["holds", "does not hold", "not decided"]
LEAST = 5
"""values below which nothing is decided: three that agree do so by chance one time in four"""


@dataclass(frozen=True)
class Part:
    """One part of a claim: what it says with its numbers, and what is found."""

    words: str
    verdict: Verdict


def together(parts: Sequence[Part], rows: list[dict[str, Any]], told: str = "") -> Judgement:
    """The parts' verdicts as one, with ``told`` after them."""
    verdicts = [part.verdict for part in parts]
    verdict: Verdict = "not decided"
    if "does not hold" in verdicts:
        verdict = "does not hold"
    elif all(one == "holds" for one in verdicts):
        verdict = "holds"
    words = "; ".join(f"{part.words}: {part.verdict}" for part in parts)
    return Judgement(verdict, words + (f". {told}" if told else "") + ".", rows)


def sided(words: str, differences: Sequence[float], negative: bool) -> Part:
    """A part that holds where differences lie below zero (``negative``), or above it."""
    if not differences:
        return Part(f"{words} (no values)", "not decided")
    found = interval(differences)
    verdict: Verdict = "not decided"
    if found.n >= LEAST and (found.is_negative or found.is_positive):
        verdict = "holds" if found.is_negative == negative else "does not hold"
    return Part(f"{words} {found}", verdict)


def checked(words: str, found: bool | None) -> Part:
    """A part that is plainly so or not; None where it cannot be told."""
    return Part(words, "not decided" if found is None else "holds" if found else "does not hold")


def distance_name(arms: Arms) -> str:
    """The figure by which the arms' runs are judged: the Fréchet distance in whichever features there are."""
    names = [name for outcomes in arms.values() for one in outcomes for name in one.figures if "/" not in name]
    return next((name for name in names if name.startswith(("fd", "fid"))), "fd_digits")


def score_name(arms: Arms) -> str:
    """The class score's."""
    names = [name for outcomes in arms.values() for one in outcomes for name in one.figures if "/" not in name]
    return next((name for name in names if name.startswith(("score", "is"))), "score_digits")


def figure_of(outcome: Outcome, figure: str) -> float | None:
    """A finite figure of a run that finished, or None."""
    value = outcome.figures.get(figure)
    return value if outcome.status == "finished" and value is not None and math.isfinite(value) else None


def worst(arms: Arms, figure: str, largest: bool = True) -> float:
    """What a failed run counts as: the largest (or least) figure of all runs that finished; 1 where none did."""
    found = [value for of in arms.values() for one in of if (value := figure_of(one, figure)) is not None]
    return (max(found) if largest else min(found)) if found else 1.0


def by_seed(arms: Arms, arm: str, figure: str, largest_is_worst: bool = True, log: bool = False) -> dict[int, float]:
    """A figure of an arm's runs by seed, failed ones at the worst; its logarithm if asked."""
    fallback = worst(arms, figure, largest_is_worst)
    found = {}
    for one in arms.get(arm, []):
        value = figure_of(one, figure)
        value = fallback if value is None else value
        found[one.trial.seed] = math.log(max(value, 1e-12)) if log else value
    return found


def paired(a: dict[int, float], b: dict[int, float]) -> list[float]:
    """a − b of the seeds that both have."""
    return [a[seed] - b[seed] for seed in a if seed in b]


def distances(arms: Arms, arm: str) -> dict[int, float]:
    """ln of the Fréchet distance of an arm's runs, by seed."""
    return by_seed(arms, arm, distance_name(arms), log=True)


def compared(arms: Arms, a: str, b: str) -> list[float]:
    """ln FD of a over b, pairs of seeds: below zero where a is better."""
    return paired(distances(arms, a), distances(arms, b))


def chosen_without(by_arm: dict[str, dict[int, float]]) -> dict[int, float]:
    """The least figure over arms for each seed, the arm being chosen by the other seeds' mean: nothing is flattered.

    With a single seed there is nothing to choose by: empty.
    """
    seeds = set.intersection(*(set(of) for of in by_arm.values())) if by_arm else set()
    found = {}
    for seed in sorted(seeds):
        others = {name: [of[other] for other in seeds if other != seed] for name, of in by_arm.items()}
        if all(others.values()):
            best = min(others, key=lambda name: sum(others[name]) / len(others[name]))
            found[seed] = by_arm[best][seed]
    return found


def slopes(by_x: dict[float, dict[int, float]]) -> dict[int, float]:
    """Of each seed, the least-squares slope of its figure over x."""
    seeds = set.intersection(*(set(of) for of in by_x.values())) if by_x else set()
    xs = list(by_x)
    centre = sum(xs) / len(xs) if xs else 0.0
    spread = sum((x - centre) ** 2 for x in xs)
    return {seed: sum((x - centre) * by_x[x][seed] for x in xs) / spread for seed in sorted(seeds)} if spread else {}


def rows_of(arms: Arms, figures: dict[str, str], only: Iterable[str] | None = None) -> list[dict[str, Any]]:
    """A row for each arm: its name, n, failed runs, and the mean of each figure with its interval.

    Args:
        figures: titles by names. only: arms, all by default.
    """
    rows = []
    for arm in arms if only is None else only:
        outcomes = arms.get(arm, [])
        row: dict[str, Any] = {"arm": arm, "n": len(outcomes)}
        row["failed"] = sum(one.status != "finished" for one in outcomes)
        for figure, title in figures.items():
            found = [value for one in outcomes if (value := figure_of(one, figure)) is not None]
            row[title] = short(interval(found)) if found else "–"
        rows.append(row)
    return rows


def usual(arms: Arms) -> dict[str, str]:
    """Names and titles of the figures in most tables: Fréchet distance, class score, modes."""
    return {distance_name(arms): "FD ↓", score_name(arms): "IS ↑", "modes": "modes ↑"}


def short(found: Interval) -> str:
    """A mean with its interval, as a table has it."""
    if not math.isfinite(found.low):
        return f"{found.mean:.3g}"
    return f"{found.mean:.3g} [{found.low:.3g}, {found.high:.3g}]"
