"""The best checkpoint: strictly better by a measure's own direction, kept through retention, stops and damage."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from poise.metrics import MEASURES, Evaluation
from poise.sampling import Sampler
from poise.training import CheckpointError, Recipe, RecipeError, Run, checkpoint, load, sitting, train
from poise.training.best import Best, better, measure_for

Tiny = Callable[..., Recipe]
FIGURES = {"modes": 10.0, "kl": 3.0, "fd_digits": 50.0}


@pytest.mark.parametrize(
    ("best_by", "measured", "expected"),
    [
        ("auto", FIGURES, "fd_digits"),
        ("auto", {"modes": 1.0, "kl": 1.0}, "modes"),
        ("auto", {}, None),
        ("kl", FIGURES, "kl"),
        ("none", FIGURES, None),
        ("score_digits", FIGURES, None),
    ],
)
def test_the_measure_that_decides(best_by: str, measured: dict[str, float], expected: str | None) -> None:
    assert measure_for(best_by, measured) == expected


@pytest.mark.parametrize("measure", MEASURES)
def test_better_is_strictly_so_in_the_measures_own_direction(measure: str) -> None:
    first = better(None, 1, {measure: 5.0}, MEASURES, measure)
    assert first == Best(1, measure, 5.0)
    more, less = (better(first, 2, {measure: value}, MEASURES, measure) for value in (6.0, 4.0))
    improved = Best(2, measure, 6.0 if MEASURES[measure].better == "higher" else 4.0)
    assert (more, less) == ((improved, first) if MEASURES[measure].better == "higher" else (first, improved))
    assert better(first, 2, {measure: 5.0}, MEASURES, measure) is first


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_never_best(value: float) -> None:
    assert better(None, 1, {"modes": value}, MEASURES, "modes") is None


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[int, float]], None]:
    """``judged({2: 5.0})``: what the judgement of each step finds, as fd_digits; the steps in their order."""

    def arrange(figures: dict[int, float]) -> None:
        values: Iterator[float] = iter(figures.values())

        def found(sampler: Sampler, data: Any, samples: int, **how: Any) -> Evaluation:
            return Evaluation({"fd_digits": next(values)}, samples, 0, "arranged", 0.0)

        monkeypatch.setattr(sitting, "evaluate", found)

    return arrange


def quiet(recipe: Recipe, out: Path, **options: Any) -> Run:
    return train(recipe, out, bar=False, **{"say": lambda _: None, **options})


def test_the_best_is_kept_sampled_and_known_after_a_stop(
    tiny: Tiny, tmp_path: Path, judged: Callable[[dict[int, float]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = {1: 9.0, 3: 4.0, 5: 8.0, 7: 6.0, 8: 7.0}  # judged at the odd steps and at the last
    recipe = tiny(steps=8, evaluate_every=1, checkpoint_every=4, keep_checkpoints=1)
    whole_figures = {step: figures.get(step, 99.0) for step in range(1, 9)}
    judged(whole_figures)
    whole = quiet(recipe, tmp_path / "whole")
    assert checkpoint.steps(whole.checkpoints) == [3, 8]

    def stop(step: int) -> Callable[..., None]:
        save = checkpoint.save

        def saving(folder: Path, what: checkpoint.Checkpoint, *keep: Any) -> None:
            save(folder, what, *keep)
            if what.progress.step == step:
                signal.raise_signal(signal.SIGINT)

        return saving

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", stop(4))
        judged(whole_figures)
        with pytest.raises(KeyboardInterrupt):
            quiet(recipe, tmp_path / "parts")
    judged({step: value for step, value in whole_figures.items() if step > 5})
    parts = quiet(recipe, tmp_path / "parts", resume=True)
    for which in ("best", "newest", 3):
        ours, theirs = (load(run.path, checkpoint=which).generator.state_dict() for run in (parts, whole))
        torch.testing.assert_close(dict(ours), dict(theirs), rtol=0, atol=0)
    assert parts.sampler_and_step(checkpoint="best")[1] == 3
    assert checkpoint.check(parts.checkpoints / "step-8").best == Best(3, "fd_digits", 4.0)


def test_none_keeps_none(tiny: Tiny, tmp_path: Path, judged: Callable[[dict[int, float]], None]) -> None:
    judged({1: 1.0, 2: 2.0})
    run = quiet(
        tiny(steps=2, evaluate_every=1, checkpoint_every=1, keep_checkpoints=1, best_by="none"), tmp_path / "run"
    )
    assert checkpoint.steps(run.checkpoints) == [2]
    with pytest.raises(CheckpointError, match="has no best checkpoint"):
        load(run.path, checkpoint="best")


def test_a_measure_that_the_judge_does_not_give_is_said_once(
    tiny: Tiny, tmp_path: Path, judged: Callable[[dict[int, float]], None]
) -> None:
    judged({1: 1.0, 2: 2.0})
    said: list[str] = []
    quiet(tiny(steps=2, evaluate_every=1, best_by="modes"), tmp_path / "run", say=said.append)
    assert said.count("best_by is modes, but the judge gives fd_digits: no best checkpoint is kept") == 1


def test_an_unknown_measure_is_refused_with_the_nearest(tiny: Tiny) -> None:
    with pytest.raises(RecipeError, match="best_by: unknown measure 'fd_digit'; did you mean 'fd_digits'"):
        tiny(best_by="fd_digit")
