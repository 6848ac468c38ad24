"""Training runs: the folder they leave, that stopping costs nothing, that seeds decide all, and how they fail."""

from __future__ import annotations

import json
import math
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from poise.api import train as train_and_report
from poise.data.digits import StackedDigits
from poise.losses import LOSSES, AdversarialLoss
from poise.metrics import MEASURES
from poise.training import CheckpointError, Recipe, Run, RunError, TrainingFailed, checkpoint, sitting, train

Tiny = Callable[..., Recipe]
LAYERS = {f"G.{name}" for name in ("linear", "deconvs.0", "deconvs.1", "to_rgb")} | {
    f"D.{name}" for name in ("convs.0", "convs.1", "convs.2", "convs.3", "convs.4", "linear")
}


def quiet(recipe: Recipe, out: Path, **options: Any) -> Run:
    return train(recipe, out, bar=False, **{"say": lambda _: None, **options})


def state(run: Run) -> Any:
    """All that training changes: networks, optimizers, random state."""
    saved = checkpoint.load(checkpoint.newest(run.checkpoints)[0])
    return saved.networks, saved.optimizers, (saved.progress.step, saved.progress.images)


def assert_same(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def files(folder: Path) -> dict[str, bytes]:
    """The run's lasting files; TensorBoard opens an event file of its own at every start."""
    paths = [path for path in folder.rglob("*") if path.is_file() and "tensorboard" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def interrupt_in_step(step: int, recipe: Recipe, times: int = 1) -> pytest.MonkeyPatch:
    """Have SIGINT come, so many times, while the step's images are drawn. Undo the patch it returns."""
    batch, first = StackedDigits.batch, (step - 1) * recipe.n_dis * recipe.batch_size

    def interrupted(self: StackedDigits, start: int, size: int) -> Any:
        if start == first and self.split == "train":
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return batch(self, start, size)

    patch = pytest.MonkeyPatch()
    patch.setattr(StackedDigits, "batch", interrupted)
    return patch


def interrupted_run(recipe: Recipe, out: Path, step: int) -> None:
    patch = interrupt_in_step(step, recipe)
    try:
        with pytest.raises(KeyboardInterrupt, match=f"stopped after step {step} with a checkpoint; --resume"):
            quiet(recipe, out)
    finally:
        patch.undo()


@pytest.fixture
def not_a_number(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """``not_a_number(3)``: the hinge loss of G is NaN from the third step on."""

    def arrange(step: int) -> None:
        hinge, calls = LOSSES["hinge"], iter(range(1, 1000))

        def generator(logits: torch.Tensor) -> torch.Tensor:
            return hinge.generator(logits) * (math.nan if next(calls) >= step else 1.0)

        monkeypatch.setitem(LOSSES, "hinge", AdversarialLoss(hinge.discriminator, generator, "patched"))

    return arrange


# The folder a run leaves.


def test_a_run_leaves_every_file_of_the_contract(finished: Run) -> None:
    found = set(files(finished.path))
    networks = {f"{name}.safetensors" for name in checkpoint.NETWORKS} | {"optimizers.pt", "monitor.pt", "state.json"}
    assert found == {
        *("recipe.yaml", "metrics.jsonl", "evaluation.json", "diagnosis.json", "report.html"),
        *("samples/step-000003.png", "samples/step-000006.png"),
        *(f"checkpoints/step-{step}/{name}" for step in (4, 6) for name in networks),
    }


def test_the_kept_recipe_is_resolved_and_says_what_it_ran_on(tiny: Tiny, tmp_path: Path) -> None:
    given = tiny(steps=1, seed=7, precision="auto")
    kept = Recipe.load(quiet(given, tmp_path / "run").path / "recipe.yaml")
    assert kept.precision in ("fp32", "bf16")
    assert kept.seed == 7
    assert kept.versions["torch"] == torch.__version__
    assert {"poise", "torch", "python", "device", "processor"} == kept.versions.keys()
    assert kept.model_copy(update={"precision": "auto", "compile": "auto", "versions": {}}) == given


def test_metrics_hold_a_line_for_every_cadence(finished: Run) -> None:
    records = finished.records()
    training = [record for record in records if "evaluation" not in record]
    assert [record["step"] for record in training] == [2, 4, 6]
    assert [record["step"] for record in records if "evaluation" in record] == [4, 6]
    for record in training:
        assert record.keys() >= {
            *("step", "images", "seconds", "d_loss", "g_loss", "real_logit", "fake_logit", "lr"),
            *("gradient_norm", "verdict"),
        }
        assert record["images"] == 8 * record["step"]
        assert record["gradient_norm"].keys() == record.get("sigma", dict.fromkeys(LAYERS)).keys() == LAYERS
        assert record["verdict"] == "warming-up"
    seconds = [record["seconds"] for record in records]
    assert seconds == sorted(seconds)


def test_images_count_those_of_every_discriminator_update(tiny: Tiny, tmp_path: Path) -> None:
    run = quiet(tiny(steps=3, n_dis=2), tmp_path / "run")
    assert run.records()[-1]["images"] == 3 * 2 * 8
    assert state(run)[2] == (3, 48)


def test_the_judgement_is_kept_with_its_step_and_the_last_has_a_reference(finished: Run) -> None:
    evaluation = finished.evaluation()
    assert evaluation is not None
    assert (evaluation["step"], evaluation["samples"]) == (6, 20)
    assert evaluation["metrics"].keys() == MEASURES.keys()
    assert all("reference" in metric for metric in evaluation["metrics"].values())


def test_the_diagnosis_is_the_last_verdict(finished: Run) -> None:
    diagnosis = json.loads((finished.path / "diagnosis.json").read_text())
    assert (diagnosis["verdict"], diagnosis["step"]) == ("warming-up", 6)


def test_tensorboard_reads_the_same_numbers(finished: Run) -> None:
    events = EventAccumulator(str(finished.path / "tensorboard")).Reload()
    assert {f"sigma/{layer}" for layer in LAYERS} | {"d_loss", "evaluation/modes"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Images("samples")] == [3, 6]
    for tag in ("d_loss", "g_loss", "lr", "real_logit"):
        logged = [(record["step"], record[tag]) for record in finished.records() if tag in record]
        assert [(event.step, event.value) for event in events.Scalars(tag)] == [
            (step, pytest.approx(value, rel=1e-4)) for step, value in logged
        ]


def test_a_sample_grid_holds_64_images(finished: Run) -> None:
    with Image.open(finished.path / "samples" / "step-000006.png") as grid:
        assert grid.size == (8 * 17 + 1, 8 * 17 + 1)
        assert grid.mode == "RGB"


@pytest.mark.parametrize(("schedule", "expected"), [("constant", [1, 1, 1, 1]), ("linear", [1, 0.75, 0.5, 0.25])])
def test_learning_rates_follow_the_schedule(schedule: str, expected: list[float], tiny: Tiny, tmp_path: Path) -> None:
    run = quiet(tiny(steps=4, log_every=1, lr_schedule=schedule, **{"g_optimizer.lr": 1e-3}), tmp_path / "run")
    rates = [record["lr"] for record in run.records() if "lr" in record]
    assert rates == pytest.approx([1e-3 * factor for factor in expected])


# Seeds.


def test_the_seed_decides_the_whole_training(tiny: Tiny, tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = quiet(tiny(steps=2, seed=3), tmp_path / "a")
    torch.manual_seed(2)
    again = quiet(tiny(steps=2, seed=3), tmp_path / "b")
    other = quiet(tiny(steps=2, seed=4), tmp_path / "c")
    assert_same(state(first), state(again))
    for network in checkpoint.NETWORKS:
        with pytest.raises(AssertionError):
            assert_same(state(first)[0][network], state(other)[0][network])


def test_logging_sampling_and_judging_do_not_change_the_training(tiny: Tiny, tmp_path: Path) -> None:
    rarely = quiet(tiny(steps=3), tmp_path / "rarely")
    often = tiny(steps=3, log_every=1, sample_every=1, checkpoint_every=1, evaluate_every=1)
    assert_same(state(quiet(often, tmp_path / "often")), state(rarely))


def test_the_callers_random_state_and_signal_handlers_are_left_alone(tiny: Tiny, tmp_path: Path) -> None:
    torch.manual_seed(123)
    before = torch.get_rng_state(), signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    quiet(tiny(steps=1), tmp_path / "run")
    assert_same(torch.get_rng_state(), before[0])
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before[1:]


def test_training_works_outside_the_main_thread(tiny: Tiny, tmp_path: Path) -> None:
    runs: list[Run] = []
    thread = threading.Thread(target=lambda: runs.append(quiet(tiny(steps=1), tmp_path / "run")))
    thread.start()
    thread.join()
    assert state(runs[0])[2] == (1, 8)


# Stopping and going on.


@pytest.mark.parametrize(
    ("precision", "n_dis", "schedule", "norm"),
    [
        ("fp32", 1, "constant", "bssn"),
        ("fp32", 2, "linear", "sn"),
        ("bf16", 1, "linear", "bssn"),
        ("bf16", 2, "constant", "none"),
    ],
)
def test_a_stopped_and_resumed_run_is_bit_for_bit_an_uninterrupted_one(
    precision: str, n_dis: int, schedule: str, norm: str, tiny: Tiny, tmp_path: Path
) -> None:
    recipe = tiny(steps=5, precision=precision, n_dis=n_dis, lr_schedule=schedule, **{"d_norm.name": norm})
    whole = quiet(recipe, tmp_path / "whole")
    interrupted_run(recipe, tmp_path / "parts", 3)
    assert checkpoint.steps(tmp_path / "parts" / "checkpoints") == [3]
    said: list[str] = []
    resumed = quiet(recipe, tmp_path / "parts", resume=True, say=said.append)
    assert "resuming after step 3" in said
    assert_same(state(resumed), state(whole))


def test_networks_that_draw_noise_draw_on_where_they_stopped(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hinge = LOSSES["hinge"]
    noisy = AdversarialLoss(lambda a, b: hinge.discriminator(a + torch.randn_like(a), b), hinge.generator, "patched")
    monkeypatch.setitem(LOSSES, "hinge", noisy)
    recipe = tiny(steps=4, loss="hinge")
    whole = quiet(recipe, tmp_path / "whole")
    interrupted_run(recipe, tmp_path / "parts", 2)
    assert_same(state(quiet(recipe, tmp_path / "parts", resume=True)), state(whole))


def test_a_stop_is_logged_and_judged_healthy(tiny: Tiny, tmp_path: Path) -> None:
    interrupted_run(tiny(steps=5), tmp_path / "run", 2)
    run = Run(tmp_path / "run")
    assert [record["step"] for record in run.records()] == [2]
    assert json.loads((run.path / "diagnosis.json").read_text())["verdict"] == "warming-up"
    assert run.evaluation() is None


def test_records_of_a_resumed_run_go_on_without_a_gap_or_a_double(tiny: Tiny, tmp_path: Path) -> None:
    recipe = tiny(steps=5, log_every=1)
    interrupted_run(recipe, tmp_path / "run", 3)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:  # as a crash after the checkpoint leaves it
        file.write('{"step": 4, "d_loss": 99}\n{"step": 5, "d_lo')
    run = quiet(recipe, tmp_path / "run", resume=True)
    records = [record for record in run.records() if "evaluation" not in record]
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5]
    assert all(record["d_loss"] != 99 for record in records)
    seconds = [record["seconds"] for record in records]
    assert seconds == sorted(seconds)
    events = EventAccumulator(str(run.path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("d_loss")] == [1, 2, 3, 4, 5]


def test_a_stop_in_the_last_step_finishes_the_run(tiny: Tiny, tmp_path: Path) -> None:
    recipe = tiny(steps=2)
    patch = interrupt_in_step(2, recipe)
    try:
        run = quiet(recipe, tmp_path / "run")
    finally:
        patch.undo()
    assert state(run)[2][0] == 2
    assert run.evaluation() is not None


def test_a_second_interrupt_stops_at_once_and_gives_the_handlers_back(tiny: Tiny, tmp_path: Path) -> None:
    recipe = tiny(steps=4, checkpoint_every=1)
    before = signal.getsignal(signal.SIGINT)
    patch = interrupt_in_step(3, recipe, times=2)
    try:
        with pytest.raises(KeyboardInterrupt):
            quiet(recipe, tmp_path / "run")
    finally:
        patch.undo()
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [1, 2]
    assert signal.getsignal(signal.SIGINT) == before


def test_sigterm_while_judging_stops_after_the_step_that_is_judged(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = sitting.evaluate

    def warned(*arguments: Any, **options: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return judge(*arguments, **options)

    monkeypatch.setattr(sitting, "evaluate", warned)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 2 with a checkpoint; --resume"):
        quiet(tiny(steps=4, evaluate_every=2), tmp_path / "run")
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [2]
    assert Run(tmp_path / "run").records()[-1]["evaluation"]


def test_a_log_that_was_cut_is_healed_and_said(run_copy: Run) -> None:
    path = run_copy.path / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:1]) + lines[1][: len(lines[1]) // 2])
    said: list[str] = []
    quiet(run_copy.recipe, run_copy.path, resume=True, say=said.append)
    assert "metrics.jsonl ends at step 2 or is damaged there: its lines up to step 6 are lost" in said
    assert path.read_text() == lines[0]


def test_a_run_killed_before_its_first_checkpoint_starts_anew(run_copy: Run, finished: Run) -> None:
    shutil.rmtree(run_copy.checkpoints)
    with pytest.raises(CheckpointError, match="holds no checkpoint"):  # its log says that there were some
        quiet(run_copy.recipe, run_copy.path, resume=True)
    path = run_copy.path / "metrics.jsonl"
    path.write_text(path.read_text().partition("\n")[0] + "\n")
    said: list[str] = []
    quiet(run_copy.recipe, run_copy.path, resume=True, say=said.append)
    assert "there is no checkpoint yet: starting from the first step" in said
    assert_same(state(run_copy), state(finished))


def test_resuming_a_finished_run_changes_nothing(run_copy: Run) -> None:
    before = files(run_copy.path)
    quiet(run_copy.recipe, run_copy.path, resume=True)
    after = files(run_copy.path)
    assert after.keys() == before.keys()
    assert [name for name in before if before[name] != after[name]] == []


def test_a_damaged_newest_checkpoint_is_said_and_the_one_before_used(run_copy: Run, finished: Run) -> None:
    (run_copy.checkpoints / "step-6" / "generator.safetensors").write_bytes(b"\0" * 100)
    said: list[str] = []
    quiet(run_copy.recipe, run_copy.path, resume=True, say=said.append)
    assert any("step-6/generator.safetensors is damaged" in line and "using step-4" in line for line in said)
    assert "resuming after step 4" in said
    assert_same(state(run_copy), state(finished))
    events = EventAccumulator(str(run_copy.path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("d_loss")] == [2, 4, 6]


def test_a_run_is_resumed_by_its_own_recipe_and_name(run_copy: Run, tiny: Tiny) -> None:
    quiet(tiny(steps=99, seed=99), run_copy.path, resume=True)
    assert (Run(run_copy.path).recipe.steps, Run(run_copy.path).recipe.seed) == (6, 0)
    with pytest.raises(RunError, match="holds a run of 'tiny', not of 'other'"):
        quiet(tiny(name="other"), run_copy.path, resume=True)


@pytest.mark.parametrize(("options", "said"), [({}, "holds a run"), ({"resume": True, "overwrite": True}, "give one")])
def test_a_folder_that_holds_a_run_is_left_as_it_is(
    options: dict[str, Any], said: str, run_copy: Run, tiny: Tiny
) -> None:
    before = files(run_copy.path)
    with pytest.raises(RunError, match=said):
        train_and_report(tiny(), run_copy.path, bar=False, **options)
    assert files(run_copy.path) == before


def test_overwriting_starts_anew(run_copy: Run, tiny: Tiny) -> None:
    (run_copy.path / "notes.txt").write_text("of the old run")
    run = quiet(tiny(steps=1), run_copy.path, overwrite=True)
    assert state(run)[2][0] == 1
    assert not (run.path / "notes.txt").exists()


@pytest.mark.parametrize(
    "overrides", [{"model.resolution": 32}, {"data.resolution": 48}, {"model.width": 0}, {"device": "warp"}]
)
def test_a_recipe_that_cannot_be_built_costs_no_run(overrides: dict[str, Any], run_copy: Run, tiny: Tiny) -> None:
    before = files(run_copy.path)
    with pytest.raises(ValueError, match=str(next(iter(overrides.values())))):
        quiet(tiny(**overrides), run_copy.path, overwrite=True)
    assert files(run_copy.path) == before


# Failing.


def networks_of(run: Path) -> Iterator[torch.Tensor]:
    for step in checkpoint.steps(run / "checkpoints"):
        for tensors in checkpoint.load(run / "checkpoints" / f"step-{step}").networks.values():
            yield from tensors.values()


def test_a_loss_that_is_not_a_number_ends_the_run(
    tiny: Tiny, tmp_path: Path, not_a_number: Callable[[int], None]
) -> None:
    not_a_number(3)
    with pytest.raises(TrainingFailed, match="g_loss is nan at step 3; lower the learning rates"):
        train_and_report(tiny(steps=5, loss="hinge", checkpoint_every=1), tmp_path / "run", bar=False)
    run = Run(tmp_path / "run")
    diagnosis = json.loads((run.path / "diagnosis.json").read_text())
    assert (diagnosis["verdict"], diagnosis["step"]) == ("not-finite", 3)
    assert diagnosis["evidence"] == "g_loss is nan at step 3"
    assert run.records()[-1]["verdict"] == "not-finite"
    assert run.records()[-1]["g_loss"] is None
    assert checkpoint.steps(run.checkpoints) == [1, 2]
    assert all(tensor.isfinite().all() for tensor in networks_of(run.path))
    assert (run.path / "report.html").exists()


@pytest.mark.parametrize("player", ["g_optimizer", "d_optimizer"])
@pytest.mark.parametrize("log_every", [1, 50])
def test_a_training_that_explodes_is_stopped_before_it_is_saved(
    player: str, log_every: int, tiny: Tiny, tmp_path: Path
) -> None:
    recipe = tiny(steps=4, checkpoint_every=2, log_every=log_every, **{f"{player}.lr": 1e30})
    with pytest.raises(TrainingFailed, match="at step"):
        quiet(recipe, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "diagnosis.json").read_text())["verdict"] == "not-finite"
    assert all(tensor.isfinite().all() for tensor in networks_of(tmp_path / "run"))


def test_a_failed_run_can_be_resumed_from_before_it_failed(
    tiny: Tiny, tmp_path: Path, not_a_number: Callable[[int], None]
) -> None:
    recipe = tiny(steps=4, loss="hinge", checkpoint_every=1)
    whole = quiet(recipe, tmp_path / "whole")
    shutil.rmtree(tmp_path / "whole" / "samples")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LOSSES, "hinge", LOSSES["hinge"])
        not_a_number(3)
        with pytest.raises(TrainingFailed):
            quiet(recipe, tmp_path / "run")
    assert_same(state(quiet(recipe, tmp_path / "run", resume=True)), state(whole))
