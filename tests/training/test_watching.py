"""A run that is watched: what the monitor is shown, that it changes nothing, and that a resumed run is judged alike."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from poise.data.digits import StackedDigits
from poise.monitor import CADENCE, Monitor
from poise.training import Recipe, Run, checkpoint, train

Tiny = Callable[..., Recipe]
OF_SAMPLES = {"ranking", "saturation", "logit_gap", "diversity", "neighbours", "coverage", "hidden_variance"}
OF_WEIGHTS = {"gradient_norm", "gradient_variance", "sigma", "effective_sigma", "singular_values", "stable_rank"}


def quiet(recipe: Recipe, out: Path, **options: Any) -> Run:
    return train(recipe, out, bar=False, **{"say": lambda _: None, **options})


def state(run: Run) -> Any:
    saved = checkpoint.load(checkpoint.newest(run.checkpoints)[0])
    return saved.networks, saved.optimizers, (saved.progress.step, saved.progress.images)


def memory(run: Run) -> dict[str, Any]:
    return checkpoint.load(checkpoint.newest(run.checkpoints)[0]).monitor


def assert_same(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def interrupted(recipe: Recipe, out: Path, step: int) -> None:
    """Train until SIGINT comes in a step."""
    batch, first = StackedDigits.batch, (step - 1) * recipe.n_dis * recipe.batch_size

    def drawn(self: StackedDigits, start: int, size: int) -> Any:
        if start == first and self.split == "train":
            signal.raise_signal(signal.SIGINT)
        return batch(self, start, size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StackedDigits, "batch", drawn)
        with pytest.raises(KeyboardInterrupt):
            quiet(recipe, out)


@pytest.mark.parametrize(
    "options", [{}, {"d_norm.name": "sn", "n_dis": 2}, {"augment": "[color, translation]", "accumulate": 2}]
)
def test_a_run_that_is_watched_at_every_step_trains_bit_for_bit_as_one_that_is_not(
    options: dict[str, Any], tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = quiet(tiny(steps=4, monitor_every=1, **options), tmp_path / "watched")
    with monkeypatch.context() as patch:
        patch.setattr(Monitor, "observe", lambda *_, **__: {})
        alone = quiet(tiny(steps=4, **options), tmp_path / "alone")
    assert_same(state(watched), state(alone))


def test_the_monitor_is_shown_samples_logits_and_latents_at_its_own_cadence(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, dict[str, Any], Monitor]] = []
    observe = Monitor.observe

    def noted(self: Monitor, step: int, *given: Any, **shown: Any) -> dict[str, Any]:
        calls.append((step, shown, self))
        return observe(self, step, *given, **shown)

    monkeypatch.setattr(Monitor, "observe", noted)
    quiet(tiny(steps=8, monitor_every=2, log_every=5, latent="uniform"), tmp_path / "run")
    assert [step for step, _, _ in calls] == [2, 4, 5, 6, 8]
    for _, shown, monitor in calls:
        assert {name: tuple(shown[name].shape) for name in ("real", "fake", "real_logits", "fake_logits")} == {
            **dict.fromkeys(("real", "fake"), (8, 3, 16, 16)),
            **dict.fromkeys(("real_logits", "fake_logits"), (8,)),
        }
        assert shown["real"].min() >= -1
        assert shown["real"].max() <= 1
        assert not any(tensor.requires_grad for tensor in shown.values() if isinstance(tensor, torch.Tensor))
        assert monitor.every == {probe: every * 2 // 5 for probe, every in CADENCE.items()}
        assert monitor.latents is not None
        assert monitor.latents[0].abs().max() <= 1  # normal ones would be beyond


def test_lines_of_the_log_hold_what_was_measured(tiny: Tiny, tmp_path: Path) -> None:
    run = quiet(tiny(steps=6, monitor_every=2, log_every=4, checkpoint_every=6), tmp_path / "run")
    lines = [record for record in run.records() if "lr" in record]
    assert [line["step"] for line in lines] == [4, 6]
    assert lines[0].keys() >= OF_SAMPLES | OF_WEIGHTS
    assert all(line.keys() >= {"gradient_norm", "verdict", "ranking"} for line in lines)


def test_a_line_is_written_where_the_verdict_changes(tiny: Tiny, tmp_path: Path) -> None:
    run = quiet(tiny(steps=16, monitor_every=1, log_every=100), tmp_path / "run")
    verdicts = [(record["step"], record["verdict"]) for record in run.records() if "lr" in record]
    assert verdicts[0] == (13, "healthy")  # eight observations in the past, and five that are judged
    timeline = json.loads((run.path / "diagnosis.json").read_text())["timeline"]
    assert [(verdict["step"], verdict["verdict"]) for verdict in timeline][:2] == [(1, "warming-up"), (13, "healthy")]


@pytest.mark.parametrize("at", [7, 15])
def test_a_resumed_run_remembers_and_says_bit_for_bit_what_an_uninterrupted_one_does(
    at: int, tiny: Tiny, tmp_path: Path
) -> None:
    """Stopped before and after the first verdict, at a step that the monitor does not look at."""
    recipe = tiny(steps=32, monitor_every=2, log_every=2)
    whole = quiet(recipe, tmp_path / "whole")
    interrupted(recipe, tmp_path / "parts", at)
    parts = quiet(recipe, tmp_path / "parts", resume=True)
    assert memory(parts)["judge"] == memory(whole)["judge"]
    for probe in ("spectra", "updates"):
        assert_same(memory(parts)[probe], memory(whole)[probe])
    lines = [
        [{**record, "seconds": 0} for record in run.records() if record["step"] != at and "lr" in record]
        for run in (parts, whole)
    ]
    assert lines[0] == lines[1]
    verdicts = [checkpoint.check(checkpoint.newest(run.checkpoints)[0]).verdict for run in (parts, whole)]
    assert verdicts[0] == verdicts[1] != "warming-up"
