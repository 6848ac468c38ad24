"""The best checkpoint of a run: by which measure it is judged, and when a judgement beats it.

It is no copy but a step number in every checkpoint's state, so a resumed run knows what an uninterrupted one would.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from poise.metrics import Measure


@dataclass(frozen=True)
class Best:
    """The best judgement so far."""

    step: int
    """generator updates done when it was made; there is a checkpoint of that step"""
    measure: str
    """its name"""
    value: float
    """in that measure's unit"""


def measure_for(best_by: str, measured: Mapping[str, float]) -> str | None:
    """The measure that decides among those a judge gives; None for no best.

    Args:
        best_by: a measure's name; "auto" for the judge's Fréchet distance, its first measure where it has none; "none".
        measured: what the judge gives, by name.
    """
    if best_by != "auto":
        return best_by if best_by in measured else None
    return next((name for name in measured if name.startswith(("fid", "fd"))), next(iter(measured), None))


def better(
    best: Best | None, step: int, measured: Mapping[str, float], measures: Mapping[str, Measure], best_by: str
) -> Best | None:
    """The best after a judgement: ``best`` itself unless the new one is strictly better; what is not finite never is.

    Args:
        best: so far. step: of the judgement. measured: its figures by name. measures: what they are.
        best_by: as ``measure_for`` takes it.
    """
    measure = measure_for(best_by, measured)
    if measure is None or not math.isfinite(measured[measure]):
        return best
    value = float(measured[measure])
    if best is not None and best.measure == measure:
        gain = value - best.value if measures[measure].better == "higher" else best.value - value
        if not gain > 0:
            return best
    return Best(step, measure, value)
