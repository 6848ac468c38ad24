"""How claims are drawn: bars in groups, lines over a setting, curves through training; n is in every figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import TYPE_CHECKING, Any

from poise.studies.claim import Arms
from poise.studies.claims.judging import figure_of
from poise.studies.statistics import interval
from poise.studies.trial import Outcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE_BY_SIDE = 24
"""letters of all labels under a panel that fit side by side"""
WHISKER = "whiskers: bootstrap 95% of the mean"
BAND = "bands: bootstrap 95% of the mean"
BOTH = "whiskers and bands: bootstrap 95% of the mean"
DOTS = "dots: single runs"
THIN = "thin lines: single runs"
SINGLE = "a line for each run"


def seeds_told(arms: Arms) -> str:
    """ "n = 5 seeds", or from the fewest to the most of any arm."""
    counts = sorted({len(outcomes) for outcomes in arms.values()}) or [0]
    return f"n = {counts[0]} seeds" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]} seeds"


def values_of(outcomes: Sequence[Outcome], figure: str) -> list[float]:
    """Finite figures of the runs that finished; those that failed are told in the table."""
    return [value for one in outcomes if (value := figure_of(one, figure)) is not None]


def bars(axes: Any, groups: Mapping[str, Mapping[str, Sequence[Outcome]]], figure: str, label: str, log: bool) -> None:
    """A figure as bars: a cluster for each group, a colour for each series within it.

    Args:
        groups: by group, by series, its runs. log: on a logarithmic axis, where a bar has no foot: points then.
    """
    series = list(dict.fromkeys(name for of in groups.values() for name in of))
    wide = 0.8 / max(len(series), 1)
    for place, name in enumerate(series):
        xs, heights, low, high = [], [], [], []
        for index, of in enumerate(groups.values()):
            found = values_of(of.get(name, []), figure)
            if not found:
                continue
            reach = interval(found)
            xs.append(index + (place - (len(series) - 1) / 2) * wide)
            heights.append(reach.mean)
            bounded = math.isfinite(reach.low)  # not of one value or two
            low.append(reach.mean - reach.low if bounded else 0.0)
            high.append(reach.high - reach.mean if bounded else 0.0)
        if log:
            axes.errorbar(xs, heights, [low, high], fmt="o", ms=4, elinewidth=0.8, label=name)
        else:
            axes.bar(xs, heights, wide, yerr=[low, high], label=name, error_kw={"lw": 0.8})
    axes.set_xticks(range(len(groups)), list(groups))
    if sum(map(len, groups)) > SIDE_BY_SIDE:
        axes.tick_params(axis="x", labelrotation=30, labelsize="small")
    axes.set_ylabel(label)
    if log:
        axes.set_yscale("log")


def bar(axes: Any, place: float, found: Sequence[float], **options: Any) -> None:
    """The mean as a bar with every value on it as a dot; nothing where there are none. Options are the bar's."""
    if found:
        axes.bar(place, mean(found), **options)
        axes.plot([place] * len(found), found, "k.", ms=4)


def lines(
    axes: Any, series: Mapping[str, Mapping[float, Sequence[Outcome]]], figure: str, x_label: str, label: str
) -> None:
    """A figure over a number, a line with a band for each series."""
    for name, of in series.items():
        points = [(x, interval(found)) for x, runs in sorted(of.items()) if (found := values_of(runs, figure))]
        if not points:
            continue
        xs = [x for x, _ in points]
        axes.plot(xs, [one.mean for _, one in points], marker="o", ms=3, label=name)
        if all(math.isfinite(one.low) for _, one in points):
            axes.fill_between(xs, [one.low for _, one in points], [one.high for _, one in points], alpha=0.2)
    axes.set_xlabel(x_label)
    axes.set_ylabel(label)


def curves(axes: Any, arms: Arms, curve: str, x_label: str, label: str, log: bool = False) -> None:
    """A curve of every arm, mean over the seeds that have a point at its step, the single runs thin behind it."""
    for index, (name, outcomes) in enumerate(arms.items()):
        colour = f"C{index % 10}"
        at: dict[int, list[float]] = {}
        for one in outcomes:
            points = one.curves.get(curve, [])
            axes.plot([x for x, _ in points], [y for _, y in points], color=colour, lw=0.5, alpha=0.4)
            for x, y in points:
                at.setdefault(x, []).append(y)
        xs = sorted(at)
        axes.plot(xs, [mean(at[x]) for x in xs], color=colour, label=name)
    axes.set_xlabel(x_label)
    axes.set_ylabel(label)
    if log:
        axes.set_yscale("log")


def finished(figure: Figure, arms: Arms, title: str, told: str = WHISKER) -> None:
    """A legend in every panel that has series, and a title that says n and what shows how sure a figure is."""
    for axes in figure.axes:
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="x-small")
    figure.suptitle(f"{title}\n{seeds_told(arms)}; {told}", fontsize="small")
