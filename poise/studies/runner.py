"""Doing one trial: training its recipe in a folder of its own, measuring the run, and telling what came of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from poise.studies.datasets import Paths, placed
from poise.studies.trial import Curve, Measured, Outcome, Status, Trial
from poise.training import Recipe, Run, TrainingFailed, train
from poise.training.hardware import choose_device
from poise.training.run import read_records, write_text


@dataclass(frozen=True)
class Task:
    """A trial and the folder in which runs lie, each in one named by its identity.

    Attributes:
        paths: by data set, where the trial finds what its recipe has no path to.
    """

    trial: Trial
    folder: Path
    paths: Paths = field(default_factory=dict)

    @property
    def run(self) -> Path:
        return self.folder / self.trial.identity


def perform(task: Task) -> Outcome:
    """Do a trial; errors become outcomes. A run that is there already goes on, or is only measured.

    Raises:
        KeyboardInterrupt: a stop was asked for; the run has a checkpoint, and a second call goes on from it.
    """
    started = time.perf_counter()
    found, reason = Measured(), ""
    status: Status
    try:
        found, reason = _train(task) if task.trial.work == "train" else (_work(task), "")
        status = "failed" if reason else "finished"
    except Exception as error:  # whatever it is: a study of many runs goes on, and tells it
        status, reason = "crashed", one_line(error)
    # A run that went on knows how long it was at it before.
    seconds = max(time.perf_counter() - started, _logged_seconds(task.run))
    return Outcome(task.trial, status, reason, seconds, found.figures, found.curves)


def one_line(error: BaseException) -> str:
    """An error's type and words."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _train(task: Task) -> tuple[Measured, str]:
    """What was measured, and why the training failed, or ""."""
    recipe, failure = placed(task.trial, task.paths).resolved(), ""
    is_begun = (task.run / "recipe.yaml").is_file()
    if is_begun:
        _follow(task.run, recipe)
    try:
        train(recipe, task.run, resume=is_begun, bar=False, say=lambda _: None)
    except TrainingFailed as error:
        failure = " ".join(str(error).split()) or "not finite"
    run = Run(task.run)
    figures = {name: _number(one.get("value")) for name, one in ((run.evaluation() or {}).get("metrics") or {}).items()}
    curves: dict[str, Curve] = {}
    for name in task.trial.measures:
        try:
            found = _measures()[name](run, choose_device(recipe.device))
        except Exception as error:
            if failure:  # there may be no checkpoint to measure
                continue
            raise RuntimeError(f"measure {name}: {one_line(error)}") from error
        figures |= {f"{name}/{key}": _number(value) for key, value in found.figures.items()}
        curves |= {key: [(step, _number(value)) for step, value in curve] for key, curve in found.curves.items()}
    return Measured(figures, curves), failure


def _follow(folder: Path, recipe: Recipe) -> None:
    """Where a run's data has moved since its last sitting, write the new path into its recipe."""
    kept = Run(folder).recipe
    if kept.data != recipe.data:
        write_text(folder / "recipe.yaml", kept.model_copy(update={"data": recipe.data}).to_yaml())


def _logged_seconds(run: Path) -> float:
    return max((float(record.get("seconds") or 0) for record in read_records(run / "metrics.jsonl")), default=0.0)


def _work(task: Task) -> Measured:
    from poise.studies.measures import WORK

    task.run.mkdir(parents=True, exist_ok=True)
    work: Any = WORK[task.trial.work]
    return work(placed(task.trial, task.paths), task.run)


def _measures() -> Any:
    from poise.studies.measures import MEASURES

    return MEASURES


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)  # in a run's JSON, null is not finite
