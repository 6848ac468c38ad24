"""A search proposes trials, keeps them like any other, and finds what is best of them."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from poise.studies import Outcome, search
from poise.studies.executors import Here


class Bowl(Here):
    """Outcomes of a function with its lowest point at lr = 10⁻³; runs with rates above 10⁻² fail."""

    def __init__(self, count: int = 1) -> None:
        self.count, self.done = count, 0

    def map(self, do: Callable[[Any], Any], tasks: Sequence[Any]) -> Generator[tuple[int, Any]]:  # noqa: ARG002
        for number, task in enumerate(tasks):
            self.done += 1
            rate = task.trial.changes["d_optimizer.lr"]
            figures = {"kl": (math.log10(rate) + 3) ** 2}
            yield number, Outcome(task.trial, "finished" if rate < 1e-2 else "failed", figures=figures)


SPACE = {"d_optimizer.lr": (1e-6, 1e-1, "log"), "n_dis": (1, 5), "d_norm.name": ["sn", "bssn"]}


def quiet(folder: Path, executor: Here, n: int = 25, **options: Any) -> Any:
    given: dict[str, Any] = {"direction": "minimize", "folder": folder, "executor": executor, "say": lambda _: None}
    return search("ring2d", SPACE, "kl", n, changes={"steps": 20}, **given | options)


@pytest.mark.parametrize("count", [1, 4])
def test_a_search_finds_the_bottom_of_a_bowl_and_is_found_again(count: int, tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="Optuna is not installed: pip install poise[study]")
    found = quiet(tmp_path, Bowl(count))
    changes = [one.trial.changes for one in found.outcomes]
    assert len(found.outcomes) == 25
    assert all(one["steps"] == 20 and one["n_dis"] in range(1, 6) for one in changes)
    assert {one["d_norm.name"] for one in changes} == {"sn", "bssn"}
    assert {one.status for one in found.outcomes} == {"finished", "failed"}
    assert found.best.status == "finished"
    assert found.best.figures["kl"] == min(one.figures["kl"] for one in found.outcomes if one.status == "finished")
    assert abs(math.log10(found.best.trial.changes["d_optimizer.lr"]) + 3) < 0.5

    again = Bowl(count)
    assert quiet(tmp_path, again, 27).outcomes[:25] == found.outcomes
    assert again.done <= 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"direction": "up"}, "direction is 'up'; allowed: maximize, minimize"),
        ({"n": 0}, "n is 0; allowed: 1 or more"),
    ],
)
def test_what_is_asked_wrongly(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        quiet(tmp_path, Bowl(), **options)


@pytest.mark.parametrize("space", [(1,), (2, 1), (1, 2, "log2")])
def test_ranges_that_are_none(space: tuple[Any, ...], tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="Optuna is not installed: pip install poise[study]")
    with pytest.raises(ValueError, match=r"the space of n_dis is .*; give \(low, high\)"):
        search("ring2d", {"n_dis": space}, "kl", 1, folder=tmp_path, executor=Bowl())


def test_optuna_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install poise\[study\]"):
        quiet(tmp_path, Bowl())
