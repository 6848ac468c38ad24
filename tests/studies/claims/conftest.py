"""Outcomes that nobody ran, for the shipped claims' own grids."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from poise.studies import Claim, Outcome, Trial


@pytest.fixture(autouse=True)
def shelf() -> None:
    """The shipped claims and measures stay in their place here."""


def made_up(
    claim: Claim,
    figures: Callable[[Trial], Mapping[str, float]],
    failed: Callable[[Trial], bool] = lambda _: False,
    budget: str = "mini",
) -> dict[str, list[Outcome]]:
    """A claim's arms at a budget, every run with these figures, or failed without any."""
    arms: dict[str, list[Outcome]] = {}
    for trial in claim.grids[budget]():
        lost = failed(trial)
        one = Outcome(trial, "failed" if lost else "finished", seconds=10.0, figures={} if lost else figures(trial))
        arms.setdefault(trial.arm, []).append(one)
    return arms
