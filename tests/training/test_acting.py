"""What a run does about a failing verdict: it warns, stops, or returns to a healthy checkpoint and changes its ways."""

from __future__ import annotations

import itertools
import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import poise
from poise.api import train as train_and_report
from poise.data.digits import StackedDigits
from poise.monitor import FAILURES, Finding, Verdict, judge
from poise.monitor.advice import ADVICE, REMEDIES
from poise.monitor.history import History
from poise.monitor.thresholds import Thresholds
from poise.training import Recipe, Run, TrainingFailed, checkpoint, sitting, train
from poise.training.changes import Changes, Clamps, advised, damp, has_momentum, is_unbounded
from poise.training.checkpoint import Checkpoint, Progress
from poise.training.recovery import (
    checkpoint_before,
    failing_since,
    grace,
    is_spared,
    never_otherwise,
    patience,
    unseen,
)
from poise.training.sections import Choice

Tiny = Callable[..., Recipe]
OFTEN = {"monitor_every": 1, "log_every": 1, "checkpoint_every": 2, "patience": 3, "steps": 16}


def quiet(recipe: Recipe, out: Path, **options: Any) -> Run:
    return train(recipe, out, bar=False, **{"say": lambda _: None, **options})


def state(run: Run) -> Any:
    saved = checkpoint.load(checkpoint.newest(run.checkpoints)[0])
    return saved.networks, saved.optimizers


def assert_same(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def sees(patch: pytest.MonkeyPatch, verdict: str, steps: Callable[[int], bool], layer: str = "") -> None:
    """Have the monitor see a sign of this failure, and no other, at the steps that fit."""

    def rule(history: Any, limits: Any) -> Finding | None:
        step = history.series["g_loss", ""].recent[-1][0]
        return Finding(verdict, "made", layer, 2.0, 1.0, "it is so") if steps(step) else None

    patch.setattr(judge, "RULES", {verdict: rule})


def returns(run: Run) -> list[dict[str, Any]]:
    return [record["rollback"] for record in run.records() if "rollback" in record]


# Whether to act.


def test_a_failing_verdict_is_warned_of_once_and_the_run_goes_on(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Recipe().on_failure == "warn"
    sees(monkeypatch, "mode-collapse", lambda step: step >= 6)
    said: list[str] = []
    run = quiet(tiny(**OFTEN), tmp_path / "run", say=said.append)
    assert [line for line in said if "collapse" in line] == [
        f"mode-collapse at step 7: it is so; {ADVICE['mode-collapse']}"  # a sign has to hold twice
    ]
    assert checkpoint.newest(run.checkpoints)[0].name == "step-16"
    diagnosis = json.loads((run.path / "diagnosis.json").read_text())
    assert (diagnosis["verdict"], diagnosis["since"], diagnosis["rollbacks"]) == ("mode-collapse", 6, 0)
    assert [verdict["verdict"] for verdict in diagnosis["timeline"]] == ["warming-up", "mode-collapse"]


def test_a_failing_verdict_that_lasts_stops_a_run_that_is_to_stop(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sees(monkeypatch, "mode-collapse", lambda step: step >= 6)
    with pytest.raises(TrainingFailed, match=r"it is so; go back .*; the last healthy checkpoint is that of step 4"):
        train_and_report(tiny(on_failure="stop", **OFTEN), tmp_path / "run", bar=False)
    run = Run(tmp_path / "run")
    assert run.records()[-1]["step"] == 9
    assert checkpoint.steps(run.checkpoints)[-1] == 8
    assert {2, 4} <= set(checkpoint.steps(run.checkpoints))  # the two newest healthy ones are kept beside
    healths = {step: checkpoint.check(run.checkpoints / f"step-{step}").verdict for step in (4, 6, 8)}
    assert healths == {4: "warming-up", 6: "mode-collapse", 8: "mode-collapse"}


def test_one_that_passes_does_not(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sees(monkeypatch, "mode-collapse", lambda step: step % 4 != 0)  # three steps of four
    run = quiet(tiny(on_failure="stop", **OFTEN), tmp_path / "run")
    assert run.records()[-1]["step"] == 16


@pytest.mark.parametrize(
    ("given", "expected"),
    [({"steps": 10_000}, 500), ({"steps": 10}, 50), ({"steps": 10, "monitor_every": 3}, 15), ({"patience": 7}, 7)],
)
def test_how_long_a_verdict_lasts_before_it_is_acted_on(given: dict[str, int], expected: int) -> None:
    assert patience(Recipe.parse(given)) == expected


def test_a_stretch_of_failures_began_with_the_first_sign_of_its_first() -> None:
    healthy, blind, collapse = (
        Verdict("healthy", 1),
        Verdict("discriminator-blind", 5, since=4),
        Verdict("mode-collapse", 9, since=8),
    )
    again = replace(collapse, step=12)
    assert failing_since([healthy], healthy) is None
    assert failing_since([healthy, collapse], again) == 8
    assert failing_since([healthy, blind, collapse], again) == 4
    assert failing_since([blind, healthy, collapse], again) == 8
    assert failing_since([healthy], Verdict("not-finite", 3)) == 3


# Returning.


def test_a_run_returns_to_a_healthy_checkpoint_from_before_and_does_what_is_advised(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failing until it has returned twice: the second time further back, and not at once."""
    said: list[str] = []
    recipe = tiny(on_failure="rollback", **{**OFTEN, "steps": 22})
    granted = grace(recipe, Thresholds())
    assert granted == 13  # observations that a new monitor needs before it compares with a past
    sees(monkeypatch, "mode-collapse", lambda step: step >= 6 and sum("rolled back" in line for line in said) < 2)
    run = train_and_report(recipe, tmp_path / "run", bar=False, say=said.append)
    first, second = returns(run)
    assert (first["from"], first["to"], second["from"], second["to"]) == (9, 4, 4 + granted + 3, 0)
    assert (first["damped"], second["damped"]) == (False, True)
    assert (first["g_rate"], first["d_rate"], first["r1"]) == (0.5, 0.5, 1.0)
    assert (second["g_rate"], second["d_rate"], second["r1"]) == (0.125, 0.125, 4.0)
    assert (first["returns"], second["returns"]) == ({"mode-collapse": 1}, {"mode-collapse": 2})
    assert "it is so: rolled back to step 0, from there learning rates × 0.125, no momentum, R1 with γ = 4" in said
    records = [record for record in run.records() if "lr" in record]
    assert [record["step"] for record in records] == list(range(1, 23))
    assert [record["lr"] for record in records] == pytest.approx([0.25e-4] * 22)
    assert "Rolled back from step 20 to 0" in (run.path / "report.html").read_text()
    assert json.loads((run.path / "diagnosis.json").read_text())["rollbacks"] == 2


def test_after_the_last_return_it_goes_on_and_warns(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sees(monkeypatch, "oscillating", lambda step: step >= 6)
    said: list[str] = []
    recipe = tiny(on_failure="rollback", max_rollbacks=1, **{**OFTEN, "steps": 24})
    run = quiet(recipe, tmp_path / "run", say=said.append)
    (event,) = returns(run)
    assert event["to"] + grace(recipe, Thresholds()) + recipe.patience < 24  # there was time for another one
    assert checkpoint.newest(run.checkpoints)[0].name == "step-24"
    assert sum("the last return, from now on it warns" in line for line in said) == 1
    assert said[-1].startswith("oscillating at step 7")
    assert json.loads((run.path / "diagnosis.json").read_text())["verdict"] == "oscillating"


def test_a_number_that_is_not_finite_is_granted_no_time(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sees(monkeypatch, "not-finite", lambda step: step >= 6)
    with pytest.raises(TrainingFailed, match="rolled back 2 times before"):
        quiet(tiny(on_failure="rollback", max_rollbacks=2, **OFTEN), tmp_path / "run")
    assert [event["from"] for event in returns(Run(tmp_path / "run"))] == [6, 6]


def stopped_in(step: int, recipe: Recipe) -> pytest.MonkeyPatch:
    """SIGINT comes when the images of a step are drawn for the second time: after a return. Undo what it gives."""
    batch, first, seen = StackedDigits.batch, (step - 1) * recipe.batch_size, []
    patch = pytest.MonkeyPatch()

    def drawn(self: StackedDigits, start: int, size: int) -> Any:
        if start == first and self.split == "train":
            seen.append(start)
            if len(seen) == 2:
                signal.raise_signal(signal.SIGINT)
        return batch(self, start, size)

    patch.setattr(StackedDigits, "batch", drawn)
    return patch


@pytest.mark.parametrize("verdict", ["oscillating", "spectral-explosion"])
def test_a_run_stopped_after_a_return_goes_on_with_the_changes_bit_for_bit(
    verdict: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever: at the first step from the checkpoint returned to, and later, between two."""
    recipe = tiny(on_failure="rollback", **{**OFTEN, "steps": 10, "d_optimizer.lr": 1e-2, "d_optimizer.beta1": 0.5})
    runs = []
    for at in (None, 5, 8):
        said: list[str] = []
        out = tmp_path / f"stopped-{at}"
        with monkeypatch.context() as patch:
            failing = lambda step, said=said: step >= 6 and not any("rolled back" in line for line in said)  # noqa: E731
            sees(patch, verdict, failing, "D.convs.1")
            if at:
                stopping = stopped_in(at, recipe)
                with pytest.raises(KeyboardInterrupt):
                    quiet(recipe, out, say=said.append)
                stopping.undo()
            runs.append(quiet(recipe, out, resume=bool(at), say=said.append))
    whole, *parts = runs
    progress = [checkpoint.check(checkpoint.newest(run.checkpoints)[0]) for run in runs]
    for run, done in zip(parts, progress[1:], strict=True):
        assert_same(state(run), state(whole))
        assert returns(run) == returns(whole) != []
        assert done.changes == progress[0].changes != Changes()
        assert done.verdict == progress[0].verdict
    if verdict == "spectral-explosion":
        weight = state(whole)[0]["discriminator"]["convs.1.parametrizations.weight.original"].flatten(1)
        (level,) = progress[0].changes.clamps.values()
        assert torch.linalg.matrix_norm(weight, 2) <= level * 1.01


# Which checkpoint.


@pytest.mark.parametrize(
    ("verdicts", "since", "window", "avoided", "unproven", "expected"),
    [
        ({2: "healthy", 4: "healthy", 6: "healthy"}, 7, 0, None, 0, 6),
        ({2: "healthy", 4: "healthy", 6: "healthy"}, 5, 0, None, 0, 4),  # it had begun by step 6
        ({2: "healthy", 4: "warming-up", 6: "mode-collapse"}, 7, 0, None, 0, 4),
        ({2: "healthy", 4: "healthy", 6: "healthy"}, 7, 2, None, 0, 4),  # it may have been under way at 6
        ({2: "healthy", 4: "healthy", 6: "healthy"}, 7, 9, None, 0, 6),  # all are as near
        ({0: "healthy", 4: "healthy", 6: "healthy"}, 7, 5, None, 0, 6),  # and nothing is learnt at 0
        ({0: "healthy", 4: "healthy", 6: "healthy"}, 2, 5, None, 0, 0),
        ({2: "healthy", 4: "healthy", 6: "oscillating"}, 7, 0, 4, 0, 2),  # in vain before
        ({2: "healthy", 4: "healthy", 6: "healthy"}, 7, 0, 4, 0, 6),  # a newer one since
        ({4: "healthy", 6: "oscillating"}, 7, 0, 4, 0, 4),  # no other
        ({2: "healthy", 4: "healthy", 6: "warming-up"}, 9, 0, 4, 3, 2),  # at 6 nothing could have been seen yet
        ({2: "healthy", 4: "healthy", 8: "healthy"}, 9, 0, 4, 3, 8),  # at 8 it could
        ({0: "healthy", 2: "healthy", 4: "healthy"}, 5, 4, 4, 0, 0),  # in vain, and it may have been under way at 2
        ({0: "healthy", 2: "healthy", 4: "healthy"}, 5, 9, 4, 0, 0),
        ({2: "oscillating", 4: "oscillating"}, 7, 0, None, 0, 2),  # none was healthy: the earliest
    ],
)
def test_the_checkpoint_returned_to(
    verdicts: dict[int, str],
    since: int,
    window: int,
    avoided: int | None,
    unproven: int,
    expected: int,
    tmp_path: Path,
) -> None:
    for step, verdict in verdicts.items():
        networks = {name: {"weight": torch.zeros(1)} for name in checkpoint.NETWORKS}
        checkpoint.save(tmp_path, Checkpoint(networks, {}, Progress(step, verdict=verdict)), keep=9)
    assert checkpoint_before(tmp_path, since, window, avoided, unproven) == tmp_path / f"step-{expected}"


def test_the_time_in_which_a_failure_may_have_been_unseen_grows_with_each_return() -> None:
    recipe = Recipe.parse({"monitor_every": 10})
    blind, circling, broken = (Verdict(name, 9) for name in ("discriminator-blind", "oscillating", "not-finite"))
    assert [unseen(recipe, blind, n) for n in range(3)] == [50, 100, 200]  # the last 5 observations are judged
    assert [unseen(recipe, circling, n) for n in range(3)] == [240, 480, 960]  # swings are looked for in 24
    assert [unseen(recipe, broken, n) for n in range(3)] == [50, 50, 50]  # is seen at once


def test_a_damaged_checkpoint_is_not_returned_to(tmp_path: Path) -> None:
    for step in (2, 4):
        networks = {name: {"weight": torch.zeros(1)} for name in checkpoint.NETWORKS}
        checkpoint.save(tmp_path, Checkpoint(networks, {}, Progress(step)))
    (tmp_path / "step-4" / "ema.safetensors").write_bytes(b"")
    assert checkpoint_before(tmp_path, 5, 0).name == "step-2"
    (tmp_path / "step-2" / "ema.safetensors").write_bytes(b"")
    with pytest.raises(checkpoint.CheckpointError, match="no checkpoint is usable"):
        checkpoint_before(tmp_path, 5, 0)


@pytest.mark.parametrize(
    ("values", "value", "threshold", "expected"),
    [
        ([9.0] * 30, 9.0, 4.0, 10),  # above all along
        ([0.1] * 30, 0.1, 0.3, 10),  # below all along
        ([1.0] * 20 + [9.0] * 10, 9.0, 4.0, None),  # it was below once
        ([2.0] * 20 + [9.0] * 10, 4.5, 4.0, None),  # a growth, not a value
    ],
)
def test_what_was_so_all_along_began_with_the_first_observation(
    values: list[float], value: float, threshold: float, expected: int | None
) -> None:
    history = History()
    for place, one in enumerate(values):
        history.append(10 * (place + 1), {("coverage", ""): one}, remember=True)
    found = Verdict("mode-collapse", 300, signal="coverage", value=value, threshold=threshold, since=290)
    assert never_otherwise(history, found) == expected
    assert never_otherwise(History(), found) is None


@pytest.mark.parametrize(
    ("signal", "values", "threshold", "expected"),
    [
        ("coverage", [20.0] * 30, 4.0, False),
        ("coverage", [*range(50, 20, -1)], 4.0, True),  # coming nearer
        ("coverage", [*range(80, 20, -10), *[20.0] * 24], 4.0, False),  # no longer
        ("coverage", [*range(20, 50)], 4.0, False),
        ("coverage", [7.0] * 30, 4.0, True),  # not twice as far as the limit
        ("coverage", [1.0] * 20 + [9.0] * 10, 4.0, False),  # near once, and lost
        ("diversity", [0.1] * 30, 0.3, False),
        ("diversity", [0.01 * 1.1**place for place in range(30)], 0.3, True),
        ("diversity", [0.2] * 30, 0.3, True),
        ("diversity", [0.0] * 30, 0.3, False),
        ("saturation", [0.95] * 30, 0.9, False),  # of this there is no twice
    ],
)
def test_fakes_that_come_nearer_or_are_hardly_far_off_are_spared(
    signal: str, values: list[float], threshold: float, expected: bool
) -> None:
    history = History()
    for place, one in enumerate(values):
        history.append(10 * (place + 1), {(signal, ""): one}, remember=True)
    value = history.series[signal, ""].now
    found = Verdict("mode-collapse", 300, signal=signal, value=value, threshold=threshold, since=290)
    kept = History()
    kept.load_state_dict(json.loads(json.dumps(history.state_dict())))
    assert is_spared(history, found, 100) == is_spared(kept, found, 100) == expected
    assert not is_spared(history, Verdict("healthy", 300), 100)


@pytest.mark.parametrize("resumed", [False, True])
def test_the_time_of_a_verdict_begins_where_it_is_no_longer_spared(
    resumed: bool, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From step 8 the fakes are said to be too far, but only from step 12 by more than a little."""
    signals = [signal.SIGINT] if resumed else []

    def rule(history: Any, limits: Any) -> Finding | None:
        step, now = history.series["g_loss", ""].recent[-1][0], history.series["coverage", ""].now
        if step == 12 and signals:
            signal.raise_signal(signals.pop())
        return (
            Finding("mode-collapse", "coverage", "", now, now / (1.5 if step < 12 else 100), "") if step > 7 else None
        )

    monkeypatch.setattr(judge, "RULES", {"mode-collapse": rule})
    monkeypatch.setattr(sitting, "is_spared", lambda history, found, _: is_spared(history, found, learning=0))
    recipe = tiny(on_failure="stop", **OFTEN)
    if resumed:
        with pytest.raises(KeyboardInterrupt):
            quiet(recipe, tmp_path / "run")
    with pytest.raises(TrainingFailed):
        quiet(recipe, tmp_path / "run", resume=resumed)
    assert Run(tmp_path / "run").records()[-1]["step"] == 11 + patience(recipe)


# What is changed.


def test_every_failure_has_a_remedy_that_its_advice_names() -> None:
    assert REMEDIES.keys() == ADVICE.keys() == set(FAILURES)
    for name, remedy in REMEDIES.items():
        assert remedy.r1 <= ("R1" in ADVICE[name] or "saturate" in ADVICE[name])
        assert remedy.clamp <= ("clamp" in ADVICE[name])
        assert min(remedy.g_rate, remedy.d_rate) < 1 or remedy.r1


@pytest.mark.parametrize(
    ("before", "given", "expected"),
    [
        (0.0, [], 1.0),
        (1.0, [], 4.0),
        (50.0, [], 100.0),
        (0.0, [{"name": "r1", "gamma": 2.0}], 8.0),
        (0.0, [{"name": "r1", "gamma": 0.05}], 0.2),
        (0.0, [{"name": "r1", "gamma": 0.0}], 1.0),
    ],
)
def test_r1_is_added_or_raised(before: float, given: list[dict[str, Any]], expected: float) -> None:
    penalties = [Choice(**choice) for choice in given]
    changes = advised(Changes(r1=before), Verdict("mode-collapse", 9), {}, penalties, 5)
    expected_changes = Changes(0.5, 0.5, pytest.approx(expected), {}, 5, {"mode-collapse": 1})  # type: ignore[arg-type]
    assert changes == expected_changes


@pytest.mark.parametrize("name", FAILURES)
def test_a_run_that_fails_again_gets_all_there_is(name: str) -> None:
    """Whatever it asked for the first time: both rates, R1, no momentum and its layer; so does the third, further."""
    networks = {"D": poise.normalize(nn.Sequential(nn.Linear(2, 4)), "bssn")}
    another = "oscillating" if name == "spectral-collapse" else "spectral-collapse"
    rates, r1s = [], []
    changes = Changes()
    for verdict in (name, name, another):
        changes = advised(changes, Verdict(verdict, 9, layer="D.0"), networks, [], 5, with_momentum=True)
        rates.append((changes.g_rate, changes.d_rate))
        r1s.append(changes.r1)
    assert changes.returns == {name: 2, another: 1}
    assert rates[0] == (REMEDIES[name].g_rate, REMEDIES[name].d_rate)
    assert [(g / h, d / i) for (g, d), (h, i) in itertools.pairwise(rates[::-1])] == [(0.25, 0.25)] * 2
    assert r1s[1:] == pytest.approx([4 * r1s[0] or 1.0, 4 * (4 * r1s[0] or 1.0)])
    assert changes.clamps.keys() == {"D.0"}
    assert changes.damped


@pytest.mark.parametrize("norm", ["none", "bssn"])
@pytest.mark.parametrize("name", FAILURES)
def test_a_player_that_moves_too_fast_is_slowed_down_whatever_the_verdict(name: str, norm: str) -> None:
    networks = {"D": poise.normalize(nn.Sequential(nn.Linear(2, 4)), norm)}
    verdict = Verdict(name, 9, layer="D.0")
    usual = advised(Changes(), verdict, networks, [], 5)
    assert advised(Changes(), verdict, networks, [], 5, {"G": 0.005, "D": 0.001}) == usual
    slowed = advised(Changes(g_rate=0.5), verdict, networks, [], 5, {"G": 0.2})
    assert (slowed.g_rate, slowed.d_rate) == (pytest.approx(0.5 * 0.025), usual.d_rate)
    slowed = advised(Changes(), verdict, networks, [], 5, {"G": 0.0055, "D": 0.02})
    assert (slowed.g_rate, slowed.d_rate) == (pytest.approx(min(usual.g_rate, 1 / 1.1)), 0.25)


@pytest.mark.parametrize(
    ("norm", "penalties", "signal", "expected"),
    [
        ("none", [], "ranking", 1.0),
        ("none", [{"name": "orthonormal"}], "ranking", 1.0),  # bounds no slope
        ("none", [], "real_logit_std", 0.0),  # flat already
        ("bssn", [], "ranking", 0.0),
        ("none", [{"name": "wgan-gp"}], "ranking", 0.0),
        ("none", [{"name": "r1", "gamma": 2.0}], "ranking", 0.0),  # as the recipe has it
    ],
)
def test_a_discriminator_that_nothing_bounds_gets_r1_and_keeps_its_rates(
    norm: str, penalties: list[dict[str, Any]], signal: str, expected: float
) -> None:
    networks = {"D": poise.normalize(nn.Sequential(nn.Linear(2, 4)), norm)}
    given = [Choice(**choice) for choice in penalties]
    changes = advised(Changes(), Verdict("discriminator-blind", 9, signal=signal), networks, given, 5)
    assert (changes.r1, changes.g_rate, changes.d_rate) == (expected, 1.0 if expected else 0.5, 1.0)
    assert is_unbounded(networks["D"], given) == (expected > 0 or signal == "real_logit_std")
    assert not changes.damped  # there is nothing to take away
    moved = {"G": 0.02, "D": 0.02}  # with momentum, of which it tells nothing without
    with_momentum = advised(Changes(), Verdict("mode-collapse", 9), networks, given, 5, moved, with_momentum=True)
    assert with_momentum.damped == is_unbounded(networks["D"], given)
    assert with_momentum.g_rate == with_momentum.d_rate == (1.0 if with_momentum.damped else 0.25)
    again = advised(changes, Verdict("mode-collapse", 9), networks, given, 5)
    assert (again.g_rate / changes.g_rate, again.d_rate) == (0.25, 0.25)
    assert not is_unbounded(None, given)


@pytest.mark.parametrize("name", FAILURES)
def test_steps_that_were_not_finite_are_halved_whatever_bounds_the_discriminator(name: str) -> None:
    networks = {"D": nn.Sequential(nn.Linear(2, 4))}
    changes = advised(Changes(), Verdict(name, 9, layer="D.0"), networks, [], 5)
    rate = 0.5 if name == "not-finite" else 1.0
    assert (changes.g_rate, changes.d_rate, changes.r1) == (rate, rate, 1.0)


def test_r1_takes_the_place_of_the_recipes_and_leaves_the_others() -> None:
    given = [Choice(name="r1", gamma=1.0, every=4), Choice(name="r2", gamma=3.0)]
    assert Changes().penalties(given) == given
    changed = Changes(r1=10.0).penalties(given)
    assert [choice.model_dump() for choice in changed] == [
        {"name": "r2", "gamma": 3.0},
        {"name": "r1", "gamma": 10.0, "every": 4},
    ]
    assert Changes(r1=0.1).penalties([]) == [Choice(name="r1", gamma=0.1)]


@pytest.mark.parametrize("norm", ["none", "bssn"])
def test_a_layer_that_exploded_is_held_by_its_trained_weight(norm: str) -> None:
    module = poise.normalize(nn.Sequential(nn.Conv2d(2, 8, 3)), norm)
    original = next(weight for weight in module.parameters() if weight.ndim == 4)
    left, values, right = torch.linalg.svd(original.detach().flatten(1), full_matrices=False)
    changes = advised(Changes(), Verdict("spectral-explosion", 9, layer="D.0"), {"D": module}, [], 5)
    assert changes.clamps == {"D.0": pytest.approx(1.5 * float(values[0]))}
    random = torch.get_rng_state()
    clamps = Clamps({"D": module}, {**changes.clamps, "D.gone": 1.0})
    assert torch.equal(torch.get_rng_state(), random)
    sgd = torch.optim.SGD([original], 0.1 * float(values[0]))
    original.grad = -torch.outer(left[:, 0], right[0]).view_as(original)  # σ₀ grows by a tenth a step

    def sigma() -> float:
        return float(torch.linalg.matrix_norm(original.detach().flatten(1), 2) / values[0])

    for _ in range(20):
        sgd.step()
    assert sigma() == pytest.approx(1.5, rel=1e-3)
    del clamps
    for _ in range(20):
        sgd.step()
    assert sigma() == pytest.approx(3.5, rel=1e-3)


def test_changes_are_said() -> None:
    changes = Changes(0.25, 0.25, 1.0, {"G.linear": 3.14159}, 7)
    assert str(changes) == "learning rates × 0.25, R1 with γ = 1, σ₀ of G.linear at most 3.14"
    assert str(Changes(d_rate=0.5)) == "the discriminator's learning rate × 0.5"
    assert str(Changes(1 / 3)) == "the generator's learning rate × 0.333"
    assert str(Changes(damped=True, r1=0.1)) == "no momentum, R1 with γ = 0.1"
    assert str(Changes()) == "nothing changed"


@pytest.mark.parametrize(
    ("name", "options"),
    [("Adam", {"betas": (0.9, 0.99)}), ("AdamW", {"betas": (0.5, 0.9)}), ("SGD", {"momentum": 0.9})],
)
def test_a_damped_optimizer_follows_the_gradient_of_the_moment(name: str, options: dict[str, Any]) -> None:
    """After steps along +1, a gradient of 0 moves nothing: all else would be momentum."""
    weight = nn.Parameter(torch.zeros(3))
    optimizer = getattr(torch.optim, name)([weight], lr=0.1, weight_decay=0.0, **options)
    for gradient in (1.0, 1.0, 0.0):
        if not gradient:
            before = weight.detach().clone()
            assert has_momentum(optimizer)
            damp(optimizer)
            assert not has_momentum(optimizer)
        weight.grad = torch.full((3,), gradient)
        optimizer.step()
    assert_same(weight.detach(), before)


def test_an_oscillating_pair_goes_on_without_momentum_also_after_other_failures() -> None:
    changes = advised(Changes(), Verdict("oscillating", 9), {}, [], 5, with_momentum=True)
    assert changes.damped
    assert advised(changes, Verdict("mode-collapse", 9), {}, [], 5).damped
    assert not advised(Changes(), Verdict("mode-collapse", 9), {}, [], 5, with_momentum=True).damped
    assert not advised(Changes(), Verdict("oscillating", 9), {}, [], 5).damped


def test_a_checkpoint_keeps_the_changes(tmp_path: Path) -> None:
    changed = Changes(0.25, 0.5, 1.0, {"G.linear": 1 / 3}, 7, {"oscillating": 2})
    progress = Progress(3, rollbacks=2, changes=changed, verdict="oscillating")
    networks = {name: {"weight": torch.zeros(1)} for name in checkpoint.NETWORKS}
    path = checkpoint.save(tmp_path, Checkpoint(networks, {}, progress, {"step": 3, "tensor": torch.ones(2)}))
    kept = checkpoint.load(path)
    assert kept.progress == progress
    assert kept.monitor["step"] == 3
    assert torch.equal(kept.monitor["tensor"], torch.ones(2))
