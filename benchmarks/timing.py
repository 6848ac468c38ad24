"""Timing of several ways to do one thing: in one process, taking turns, medians."""

from __future__ import annotations

import csv
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def interleaved(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    warm_up: int = 2,
    around: Mapping[str, Callable[[], AbstractContextManager[None]]] | None = None,
) -> dict[str, float]:
    """Median seconds of each contender over ``rounds`` turns, after some to warm up; the order turns as well.

    Args:
        around: for some contenders, what changes the process while it is their turn; they run in it untimed, first.
    """
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-warm_up, rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            with (around or {}).get(name, nullcontext)():
                if around and name in around:
                    contenders[name]()
                started = time.perf_counter()
                contenders[name]()
                spent = time.perf_counter() - started
            if turn >= 0:
                seconds[name].append(spent)
    return {name: statistics.median(values) for name, values in seconds.items()}


def write_csv(rows: list[dict[str, Any]], name: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def bar_plot(
    rows: list[dict[str, Any]], name: str, *, group: str, value: str, label: str, limits: Mapping[str, float]
) -> None:
    """Bars of ``value``, a group for each ``row[group]``, a bar for each ``row["way"]``; limits as dashed lines."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    groups = list(dict.fromkeys(str(row[group]) for row in rows))
    ways = list(dict.fromkeys(str(row["way"]) for row in rows))
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    width = 0.8 / len(ways)
    for index, way in enumerate(ways):
        found = {str(row[group]): float(row[value]) for row in rows if row["way"] == way}
        places = [groups.index(one) + (index - (len(ways) - 1) / 2) * width for one in found]
        bars = axes.bar(places, list(found.values()), width, label=way)
        axes.bar_label(bars, fmt="%.2f", fontsize=7)
    for text, limit in limits.items():
        axes.axhline(limit, color="grey", ls="--", lw=1)
        axes.text(-0.45, limit, text, fontsize=7, va="bottom", color="grey")
    axes.set(xticks=range(len(groups)), xticklabels=groups, ylabel=label)
    axes.legend(fontsize=7)
    figure.savefig(RESULTS / name, dpi=120)
