"""Studies run each run once, keep what they have, go on after a kill, and tell failures from crashes."""

from __future__ import annotations

import math
import os
import signal
import sqlite3
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from poise.studies import Claim, Measured, Outcome, Trial
from poise.studies.executors import Died, Here
from poise.studies.results import Results
from poise.studies.runner import Task, perform
from poise.studies.study import distinct, judge, run_study, run_trials
from tests.studies.conftest import TOY, toy_trials

TRIAL = Trial("plain", "ring2d", TOY, measures=("losses",))


class Counted(Here):
    """Runs here and keeps what was asked of it."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []

    def map(self, do: Callable[[Any], Any], tasks: Sequence[Any]) -> Generator[tuple[int, Any]]:
        self.tasks += tasks
        yield from super().map(do, tasks)


class Scripted(Here):
    """Gives outcomes as they are written down, in order, whatever is asked."""

    def __init__(self, *found: Any) -> None:
        self.found = list(found)

    def map(self, do: Callable[[Any], Any], tasks: Sequence[Any]) -> Generator[tuple[int, Any]]:  # noqa: ARG002
        for number, task in enumerate(tasks):
            one = self.found.pop(0)
            if one is KeyboardInterrupt:
                raise KeyboardInterrupt
            yield number, one if isinstance(one, Died) else replace(one, trial=task.trial)


DONE = Outcome(TRIAL, "finished", figures={"modes": 3.0})


def test_a_study_runs_each_run_once_and_judges(toy: Claim, tmp_path: Path) -> None:
    said: list[str] = []
    twin = replace(toy, number=2, name="twin")
    executor = Counted()
    run_study([toy, twin], "mini", tmp_path, executor, said.append)
    assert [task.trial.identity for task in executor.tasks] == [trial.identity for trial in toy_trials()]
    assert [line.split("]")[0].split(",")[0] for line in said] == ["[1/4", "[2/4", "[3/4", "[4/4"]
    assert "SN, seed 0: modes 0, good 0, losses/last 0." in said[0]
    with Results(tmp_path) as results:
        found = judge(twin, "mini", results)
    assert list(found.arms) == ["SN", "plain"]
    assert [one.trial.seed for one in found.arms["SN"]] == [0, 1]
    assert [step for step, _ in found.arms["SN"][1].curves["d_loss"]] == [5, 10, 15, 20]
    assert found.judgement is not None
    assert "n = 2" in found.judgement.words

    again = Counted()
    run_study([toy], "mini", tmp_path, again, said.append)
    assert again.tasks == []
    assert said[-1] == f"4 of 4 runs are in {tmp_path / 'results.sqlite'} already"


def test_runs_that_claims_share_are_measured_for_all_of_them() -> None:
    others = replace(TRIAL, arm="none", measures=("spectra", "losses"))
    assert distinct([TRIAL, others, replace(TRIAL, seed=1)]) == [
        replace(TRIAL, measures=("losses", "spectra")),
        replace(TRIAL, seed=1),
    ]


def test_a_measure_asked_for_later_does_not_train_again(tmp_path: Path, shelf: ModuleType) -> None:
    with Results(tmp_path) as results:
        run_trials([replace(TRIAL, measures=())], results, say=lambda _: None)
        first = results.outcome(TRIAL)
        checkpoint = next((tmp_path / "runs" / TRIAL.identity / "checkpoints").glob("step-*"))
        written = checkpoint.stat().st_mtime_ns
        shelf.MEASURES["steps"] = lambda run, _: Measured({"count": len(run.records())})
        run_trials([replace(TRIAL, measures=("losses", "steps"))], results, say=lambda _: None)
        second = results.outcome(TRIAL)
    assert checkpoint.stat().st_mtime_ns == written
    assert first is not None
    assert second is not None
    assert dict(first.figures).items() < dict(second.figures).items()
    assert set(second.figures) - set(first.figures) == {"losses/last", "steps/count"}
    assert second.seconds == first.seconds


def test_a_crashed_run_is_reported_and_tried_once_more(tmp_path: Path) -> None:
    said: list[str] = []
    other = replace(TRIAL, seed=1)
    with Results(tmp_path) as results:
        executor = Scripted(Died("signal SIGKILL"), DONE, DONE)
        assert run_trials([TRIAL, other], results, executor, said.append) == []
        assert [line.split("] ")[1] for line in said] == [
            "plain, seed 0: crashed, signal SIGKILL; 0.0 s; to be tried once more",
            "plain, seed 1: modes 3; 0.0 s",
            "plain, seed 0: modes 3; 0.0 s",
        ]
        assert results.outcome(TRIAL) == DONE


def test_a_run_that_crashes_twice_is_no_result_and_is_tried_in_the_next_sitting(toy: Claim, tmp_path: Path) -> None:
    trials = toy.grids["mini"]()
    with Results(tmp_path) as results:
        crash = Died("exit code 1")
        executor = Scripted(crash, DONE, DONE, DONE, crash)
        (twice,) = run_trials(trials, results, executor, lambda _: None)
        assert (twice.trial, twice.status, twice.reason) == (trials[0], "crashed", "exit code 1")
        found = judge(toy, "mini", results)
        assert (found.judgement, found.missing) == (None, "1 crashed of 4 runs")
        assert results.missing(trials[0]) == trials[0]
        assert run_trials(trials, results, Scripted(DONE), lambda _: None) == []


def test_a_training_that_explodes_has_failed_and_is_a_result(tmp_path: Path) -> None:
    exploding = replace(TRIAL, changes=TOY | {"d_optimizer.lr": 1e30})
    with Results(tmp_path) as results:
        assert run_trials([exploding], results, say=lambda _: None) == []
        found = results.outcome(exploding)
        assert results.missing(exploding) is None
    assert found is not None
    assert found.status == "failed"
    assert "is not finite" in found.reason or "is nan" in found.reason or "is inf" in found.reason
    assert "modes" not in found.figures
    assert math.isnan(found.curves["d_loss"][-1][1])  # what was logged of it is measured all the same


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"measures": ("looses",)}, "looses"),
        ({"work": "no-such"}, "no-such"),
        ({"changes": {"steps": 20, "model.width": 0}}, "width"),
    ],
)
def test_errors_of_ours_are_crashes_with_one_line(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    found = perform(Task(replace(TRIAL, **change), tmp_path))
    assert found.status == "crashed"
    assert reason in found.reason
    assert "\n" not in found.reason


def test_other_work_gets_a_folder_and_gives_figures(tmp_path: Path) -> None:
    found = perform(Task(Trial("a", "", {"layers": 3}, 5, work="hello"), tmp_path))
    assert (found.status, found.figures) == ("finished", {"seed": 5.0})
    assert [path.name for path in tmp_path.glob("*/*")] == ["hello.txt"]


def test_a_stopped_study_keeps_what_is_done_and_goes_on(tmp_path: Path) -> None:
    trials = [replace(TRIAL, seed=seed) for seed in range(4)]
    with Results(tmp_path) as results:
        with pytest.raises(KeyboardInterrupt, match="2 of 4 runs done; the same command goes on"):
            run_trials(trials, results, Scripted(DONE, DONE, KeyboardInterrupt), lambda _: None)
        assert [results.missing(trial) is None for trial in trials] == [True, True, False, False]
        run_trials(trials, results, Scripted(DONE, DONE), lambda _: None)
        assert all(results.missing(trial) is None for trial in trials)


def test_a_signal_amid_a_training_costs_nothing_of_it(tmp_path: Path) -> None:
    trial = replace(TRIAL, changes=TOY | {"steps": 300})
    whole = perform(Task(trial, tmp_path / "whole"))

    def interrupt(*_: Any) -> None:
        if (tmp_path / "runs" / trial.identity / "metrics.jsonl").exists():  # the training is on its way
            os.kill(os.getpid(), signal.SIGINT)
        else:
            signal.setitimer(signal.ITIMER_REAL, 0.02)

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with Results(tmp_path) as results, pytest.raises(KeyboardInterrupt, match="0 of 1 runs"):
            run_trials([trial], results, say=lambda _: None)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    with Results(tmp_path) as results:
        run_trials([trial], results, say=lambda _: None)
        found = results.outcome(trial)
    assert found is not None
    assert found.figures == whole.figures
    assert set(whole.curves["d_loss"]) <= set(found.curves["d_loss"])  # the step it stopped at is logged, too


def test_two_studies_in_one_folder_would_tread_on_each_other(tmp_path: Path) -> None:
    with Results(tmp_path) as one, Results(tmp_path) as other:
        with one.alone(), pytest.raises(RuntimeError, match="another study is running in"):
            run_trials([TRIAL], other, Scripted(DONE), lambda _: None)
        run_trials([TRIAL], other, Scripted(DONE), lambda _: None)


def test_a_judge_that_breaks_says_whose_it_is(toy: Claim, tmp_path: Path) -> None:
    with Results(tmp_path) as results:
        run_trials(toy_trials(), results, Scripted(*[DONE] * 4), lambda _: None)
        with pytest.raises(RuntimeError, match="the judge of toy broke: ValueError: SN, seed 0, has no figure"):
            judge(toy, "mini", results)


def test_the_store_is_read_by_sqlite_alone(toy: Claim, tmp_path: Path) -> None:
    run_study([toy], "mini", tmp_path, Scripted(*[replace(DONE, curves={"d_loss": [(1, 0.5), (2, 0.25)]})] * 4))
    with sqlite3.connect(tmp_path / "results.sqlite") as database:
        query = "SELECT arm, seed, name, value FROM grids JOIN runs USING (identity) JOIN figures USING (identity)"
        found = database.execute(f"{query} WHERE claim = 'toy' AND budget = 'mini' ORDER BY place").fetchall()
        points = database.execute("SELECT points FROM curves LIMIT 1").fetchone()
    assert found == [(arm, seed, "modes", 3.0) for arm in ("SN", "plain") for seed in (0, 1)]
    assert points == ("[[1, 0.5], [2, 0.25]]",)


def test_what_is_not_finite_is_kept_as_such(tmp_path: Path) -> None:
    figures = {"kl": float("nan"), "ratio": float("inf")}
    with Results(tmp_path) as results:
        results.save(replace(DONE, figures=figures))
        found = results.outcome(TRIAL)
    assert found is not None
    assert repr(found.figures) == repr(figures)


def test_results_are_a_data_frame(toy: Claim, tmp_path: Path) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    import poise

    with pytest.raises(ValueError, match=r"holds no results\.sqlite; poise study NAME --folder"):
        poise.studies.results(tmp_path)
    run_study([toy], "mini", tmp_path, Scripted(*[DONE] * 4))
    frame = poise.studies.results(tmp_path)
    assert frame.groupby("arm").modes.sum().to_dict() == {"SN": 6.0, "plain": 6.0}
    assert set(frame.status) == {"finished"}
