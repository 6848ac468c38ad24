"""Trials are known again by what they train, not by what they are called or measured by."""

from __future__ import annotations

from typing import Any

import pytest

from poise.studies import Trial
from poise.training import Recipe, RecipeError

BASE: dict[str, Any] = {"arm": "a", "recipe": "ring2d", "changes": {"steps": 20}, "seed": 1}

SAME: list[dict[str, Any]] = [
    {"arm": "b"},
    {"measures": ("losses",)},
    {"changes": {"steps": "20"}},  # as text, from a command line
    {"changes": {"steps": 20, "d_norm": "none"}},  # what the recipe says anyway
    {"changes": {"steps": 20, "name": "another"}},
    {"changes": {"steps": 20, "evaluate_every": 20, "checkpoint_every": 20}},  # at the end, as it is
]
OTHER: list[dict[str, Any]] = [
    {"seed": 2},
    {"changes": {"steps": 21}},
    {"changes": {"steps": 20, "d_norm.name": "sn"}},
    {"changes": {"steps": 20, "checkpoint_every": 10}},
    {"recipe": "grid2d"},
    {"work": "step-cost"},
    {"recipe": "", "work": "one-per-class"},
]


@pytest.mark.parametrize("change", SAME, ids=str)
def test_the_same_run_has_the_same_identity(change: dict[str, Any]) -> None:
    assert Trial(**BASE | change).identity == Trial(**BASE).identity


def test_different_runs_have_different_identities() -> None:
    identities = [Trial(**BASE | change).identity for change in [{}, *OTHER]]
    assert len(set(identities)) == len(identities)
    assert {len(one) for one in identities} == {16}


def test_the_resolved_recipe_is_the_shipped_one_with_the_changes_judged_at_its_end() -> None:
    found = Trial("a", "ring2d", {"steps": 30, "d_norm.name": "bssn", "sample_every": 10}, 7).resolved()
    wanted = {"steps": 30, "d_norm.name": "bssn", "seed": 7}
    ends = {"evaluate_every": 30, "checkpoint_every": 30, "sample_every": 10}
    assert found == Recipe.load("ring2d", wanted | ends)


def test_a_wrong_change_is_told_in_one_line() -> None:
    with pytest.raises(RecipeError, match="unknown field 'stepz'; did you mean 'steps'"):
        _ = Trial("a", "ring2d", {"stepz": 3}).identity
