"""Rolling back: a run whose numbers go wrong returns to its last checkpoint, more slowly, and a resumed one too."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from poise.api import train as train_and_report
from poise.losses import LOSSES, AdversarialLoss
from poise.training import Recipe, Run, TrainingFailed, checkpoint, train
from poise.training.recovery import unsound

Tiny = Callable[..., Recipe]
ROLLBACK = {"on_failure": "rollback", "loss": "hinge", "checkpoint_every": 2, "log_every": 1}


def quiet(recipe: Recipe, out: Path, **options: Any) -> Run:
    return train(recipe, out, bar=False, **{"say": lambda _: None, **options})


def state(run: Run) -> Any:
    saved = checkpoint.load(checkpoint.newest(run.checkpoints)[0])
    return saved.networks, saved.optimizers, replace(saved.progress, seconds=0.0)


def assert_same(a: Any, b: Any) -> None:
    torch.testing.assert_close(a[:2], b[:2], rtol=0, atol=0)
    assert a[2] == b[2]


def fails_at(patch: pytest.MonkeyPatch, *calls: int) -> None:
    """The hinge loss of G is NaN at those of its calls, counted from 1."""
    hinge, count = LOSSES["hinge"], iter(range(1, 10**6))

    def generator(logits: torch.Tensor) -> torch.Tensor:
        return hinge.generator(logits) * (math.nan if next(count) in calls else 1.0)

    patch.setitem(LOSSES, "hinge", AdversarialLoss(hinge.discriminator, generator, "patched"))


def logged(run: Run) -> list[tuple[Any, ...]]:
    """What of the log does not depend on the sitting: seconds do, and σ where it is measured by power iteration."""
    return [
        tuple(record.get(key) for key in ("step", "g_loss", "d_loss", "lr", "rollback")) for record in run.records()
    ]


def test_a_rolled_back_run_goes_on_with_halved_rates_and_says_so(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails_at(monkeypatch, 5)
    said: list[str] = []
    run = train_and_report(tiny(steps=8, **ROLLBACK), tmp_path / "run", bar=False, say=said.append)
    assert "g_loss is nan at step 5: rolled back to step 4, from there learning rates × 0.5" in said
    records = [record for record in run.records() if "lr" in record]
    assert [record["step"] for record in records] == list(range(1, 9))
    assert [record["lr"] for record in records] == pytest.approx([2e-4] * 4 + [1e-4] * 4)
    assert all(record["verdict"] in ("healthy", "warming-up") for record in records)
    (event,) = [record for record in run.records() if "rollback" in record]
    assert event == {
        "step": 4,
        "rollback": {
            **{"number": 1, "from": 5, "to": 4, "verdict": "not-finite", "evidence": "g_loss is nan at step 5"},
            **{"change": "learning rates × 0.5", "g_rate": 0.5, "d_rate": 0.5, "r1": 0.0, "clamps": {}, "since": 4},
            **{"returns": {"not-finite": 1}, "damped": False},
        },
    }
    assert state(run)[2].rollbacks == 1
    assert json.loads((run.path / "diagnosis.json").read_text())["verdict"] in ("healthy", "warming-up")
    assert "Rolled back from step 5 to 4: g_loss is nan at step 5; from there learning rates × 0.5" in (
        (run.path / "report.html").read_text()
    )


def test_a_run_stopped_after_a_return_is_resumed_bit_for_bit(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So nothing of the failed steps is left in the norms, the average or the optimizers, and the rates stay halved."""
    recipe = tiny(steps=8, **ROLLBACK)
    with monkeypatch.context() as patch:
        fails_at(patch, 5)
        whole = quiet(recipe, tmp_path / "whole")
    with monkeypatch.context() as patch:
        fails_at(patch, 5)
        patch.setattr(checkpoint, "save", stopping_after(6))
        with pytest.raises(Killed):
            quiet(recipe, tmp_path / "parts")
    parts = quiet(recipe, tmp_path / "parts", resume=True)
    assert_same(state(parts), state(whole))
    assert logged(parts) == logged(whole)


def test_a_return_leaves_nothing_of_the_steps_that_failed(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two returns to one checkpoint, after one step and after two, go the same way from there."""
    runs = []
    for calls in ((3, 4), (4, 6)):  # each returns to step 2 twice: failing in steps 3 and 3, and in 4 and 4
        with monkeypatch.context() as patch:
            fails_at(patch, *calls)
            runs.append(quiet(tiny(steps=6, **{**ROLLBACK, "checkpoint_every": 2}), tmp_path / f"{calls[0]}"))
    assert_same(*(state(run) for run in runs))


class Killed(Exception):
    """Stands for the end of the process."""


def stopping_after(step: int) -> Callable[..., Path]:
    save = checkpoint.save

    def saved(folder: Path, what: checkpoint.Checkpoint, *keep: Any) -> Path:
        path = save(folder, what, *keep)
        if what.progress.step == step:
            raise Killed
        return path

    return saved


def test_a_failure_before_the_first_checkpoint_returns_to_the_start(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails_at(monkeypatch, 1)
    run = quiet(tiny(steps=3, **ROLLBACK), tmp_path / "run")
    assert [record["step"] for record in run.records() if "lr" in record] == [1, 2, 3]


def test_it_rolls_back_so_many_times_and_no_more(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fails_at(monkeypatch, *range(3, 100))
    said: list[str] = []
    with pytest.raises(TrainingFailed, match=r"g_loss is nan at step 3; .*; rolled back 2 times before"):
        quiet(tiny(steps=5, max_rollbacks=2, **ROLLBACK), tmp_path / "run", say=said.append)
    assert sum("rolled back to step 2" in line for line in said) == 2
    assert Run(tmp_path / "run").records()[-1]["verdict"] == "not-finite"
    for step in checkpoint.steps(tmp_path / "run" / "checkpoints"):
        for tensors in checkpoint.load(tmp_path / "run" / "checkpoints" / f"step-{step}").networks.values():
            assert all(tensor.isfinite().all() for tensor in tensors.values())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["weight", "running_var"])
def test_any_weight_or_statistic_that_is_not_finite_is_found_and_named(where: str, bad: float) -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    network.register_buffer("empty", torch.zeros(0))
    assert unsound({"G": network}, 7) is None
    getattr(network[1], where).data[1] = bad
    verdict = unsound({"G": network}, 7)
    assert verdict is not None
    assert (verdict.name, verdict.evidence) == ("not-finite", f"G.1.{where} is not finite at step 7")


def test_weights_that_are_large_but_finite_are_sound() -> None:
    network = nn.Linear(100, 100)
    network.weight.data.fill_(3e38)  # the sum of their squares is not
    assert unsound({"D": network}, 1) is None


def test_a_weight_that_only_the_check_before_saving_sees_ends_the_run(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from poise.training.ema import Ema

    follow = Ema.update

    def spoilt(self: Ema, module: nn.Module, step: int) -> None:
        follow(self, module, step)
        if step == 3:
            next(self.module.parameters()).fill_(math.nan)

    monkeypatch.setattr(Ema, "update", spoilt)
    with pytest.raises(TrainingFailed, match=r"EMA\..* is not finite at step 3"):
        quiet(tiny(steps=5, checkpoint_every=1), tmp_path / "run")
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [1, 2]
