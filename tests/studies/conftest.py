"""A toy claim, of the ring of Gaussians in 20 steps, with a measure and a work of its own, in place of the shipped."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from poise.studies import Arms, Claim, Interval, Judgement, Measured, Outcome, Trial, difference
from poise.studies.trial import Status

TOY = {"steps": 20, "evaluation_samples": 100, "model.width": 8, "batch_size": 16, "log_every": 5}


def toy_trials() -> list[Trial]:
    """Two arms, two seeds."""
    arms = {"SN": "sn", "plain": "none"}
    return [
        Trial(arm, "ring2d", TOY | {"d_norm.name": norm}, seed, measures=("losses",))
        for arm, norm in arms.items()
        for seed in (0, 1)
    ]


def losses(run: Any, device: Any) -> Measured:
    """The last loss, and its curve."""
    curve = [(record["step"], record["d_loss"]) for record in run.records() if "d_loss" in record]
    return Measured({"last": curve[-1][1]}, {"d_loss": curve})


def hello(trial: Trial, folder: Path) -> Measured:
    """Work that trains nothing."""
    (folder / "hello.txt").write_text("hello", encoding="utf-8")
    return Measured({"seed": float(trial.seed)})


def toy_judge(arms: Arms) -> Judgement:
    found: Interval = difference(arms["SN"], arms["plain"], "losses/last")
    verdict = "holds" if found.is_positive else "does not hold" if found.is_negative else "not decided"
    rows = [{"arm": arm, "last loss": one.figures["losses/last"]} for arm, of in arms.items() for one in of]
    return Judgement(verdict, f"The last losses differ by {found}.", rows)  # type: ignore[arg-type]


def toy_draw(arms: Arms, figure: Any) -> None:
    axes = figure.subplots()
    for arm, outcomes in arms.items():
        for one in outcomes:
            axes.plot(*zip(*one.curves["d_loss"], strict=True), label=f"{arm}, n = {len(outcomes)}")
    axes.set(xlabel="step", ylabel="loss of D")


@pytest.fixture
def toy() -> Claim:
    """The claim itself."""
    grids = dict.fromkeys(("mini", "small", "paper"), toy_trials)
    words = ("SN makes the last loss larger.", "Nobody 2026, fig. 1", "a loss | of 0.6")
    return Claim(1, "toy", *words, grids, toy_judge, toy_draw, 12.0, "20 steps")


@pytest.fixture(autouse=True)
def shelf(toy: Claim, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """What stands in for ``poise.studies.measures``; and the toy claim for the shipped ones."""
    claims, measures = ModuleType("poise.studies.claims"), ModuleType("poise.studies.measures")
    vars(claims)["CLAIMS"] = {"toy": toy}
    vars(measures).update(MEASURES={"losses": losses}, WORK={"hello": hello}, WITHOUT_DATA=())
    monkeypatch.setitem(sys.modules, "poise.studies.claims", claims)
    monkeypatch.setitem(sys.modules, "poise.studies.measures", measures)
    return measures


def outcome(arm: str, seed: int, status: Status = "finished", **figures: float) -> Outcome:
    """One that nobody ran."""
    return Outcome(Trial(arm, "ring2d", seed=seed), status, figures=figures)
