"""What a run logged while it trained: σ₀ of every layer, modes covered, and when it collapsed (Brock et al. 2019)."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch

from poise.studies.trial import Measured
from poise.training import Run

LOST = 0.5
"""share of the most modes seen so far below which a judgement counts as a collapse"""
LEAST = 50.0
"""modes without which there is nothing to collapse"""
LEAST_SCORE = 10.0
"""the same of IS, by which data without known modes are judged"""


def sigma_history(run: Run, device: torch.device) -> Measured:
    """σ₀ of trained weights through a run, and its collapse.

    A run collapses at the first judgement with fewer than half the most modes judged before (half the highest IS
    where modes are not known), where those were at least ``LEAST``, or at the end of one that failed; "collapse" is
    that step as a share of all steps, 2 for never.

    Figures: "collapse"; "best", the most modes judged; "g_growth" and "d_growth", the largest over layers of σ₀ at the
    end over σ₀ at first; "g_jump" and "d_jump", the largest growth of a layer's σ₀ between two logged steps from the
    last judgement before the collapse on, relative to the median growth between logged steps before (1 without a
    collapse). Curves: "sigma/G", "sigma/D", the largest over layers of σ₀ over its first value; "modes".
    """
    records, total = run.records(), run.recipe.steps
    judged = [(int(one["step"]), one["evaluation"]) for one in records if "evaluation" in one]
    modes = [(step, _variety(found)) for step, found in judged]
    least = LEAST if any("modes" in found for _, found in judged) else LEAST_SCORE
    collapse, before = _collapse(modes, max((int(one["step"]) for one in records), default=0), total, least)
    figures = {"collapse": 2.0 if collapse is None else collapse / total, "best": max((m for _, m in modes), default=0)}
    curves = {"modes": modes}
    for player in "GD":
        series = _series(records, player)
        if not series:
            continue
        curves[f"sigma/{player}"] = [
            (step, max(now[name] / series[0][1][name] for name in now if series[0][1].get(name)))
            for step, now in series
        ]
        figures[f"{player.lower()}_growth"] = curves[f"sigma/{player}"][-1][1]
        figures[f"{player.lower()}_jump"] = _jump(series, collapse, before)
    return Measured(figures, curves)


def _variety(found: dict[str, float]) -> float:
    """Modes covered, or the class score."""
    name = "modes" if "modes" in found else next((name for name in found if name.startswith("is")), "")
    return float(found.get(name) or 0.0)


def _collapse(modes: list[tuple[int, float]], last: int, total: int, least: float) -> tuple[int | None, int]:
    """The step of the collapse, None for none, and that of the last judgement before it."""
    best, before = 0.0, 0
    for step, value in modes:
        if best >= least and value < LOST * best:
            return step, before
        best, before = max(best, value), step
    return (last, before) if last < total else (None, before)


def _series(records: list[dict[str, Any]], player: str) -> list[tuple[int, dict[str, float]]]:
    found = []
    for record in records:
        named = {name: value for name, value in record.get("sigma", {}).items() if name.startswith(f"{player}.")}
        if named and all(value for value in named.values()):
            found.append((int(record["step"]), named))
    return found


def _jump(series: list[tuple[int, dict[str, float]]], collapse: int | None, before: int) -> float:
    """How many times as much σ₀ grew, in ln, around the collapse as it usually did; 1 without a collapse."""
    if collapse is None or len(series) < 3:
        return 1.0
    calm, around = [], []
    for (_, earlier), (step, now) in itertools.pairwise(series):
        growth = max(abs(math.log(now[name] / earlier[name])) for name in now if name in earlier)
        if step <= before:
            calm.append(growth)
        elif step <= collapse:
            around.append(growth)
    usual = sorted(calm)[len(calm) // 2] if calm else 0.0
    return max(around, default=usual) / usual if usual else 1.0
