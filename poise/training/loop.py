"""The training loop, from a recipe to a run folder; ``train`` is read top to bottom."""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch

from poise.metrics import can_judge
from poise.training import checkpoint, hardware, processes
from poise.training.checkpoint import Progress
from poise.training.disk import DiskFull
from poise.training.recipe import Recipe
from poise.training.run import Run, RunError, build, prepare_folder, run_folder, write_text
from poise.training.sections import RecipeError
from poise.training.sitting import Sitting
from poise.training.state import State
from poise.training.stopping import stop_signals


class TrainingFailed(RuntimeError):
    """The training cannot go on; the message says what was seen and what to change."""


def train(
    recipe: Recipe | str | Path,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    bar: bool = True,
    say: Callable[[str], None] = print,
) -> Run:
    """Train a recipe and leave a run folder, judged.

    Launched by ``torchrun`` or ``accelerate launch``, all processes call this alike and train together.

    Args:
        recipe: a ``Recipe``, a shipped recipe's name, or a YAML file.
        out: the run folder; ``runs/NAME`` by default.
        resume: go on with the run in ``out``, by the recipe kept there. The result is bit for bit that of an
            uninterrupted run on the same machine.
        overwrite: delete the run in ``out`` first.
        bar: show a progress bar.
        say: where the few lines of text go.

    Raises:
        RecipeError, RunError, CheckpointError: one line each, before anything is trained.
        TrainingFailed: a loss, gradient, σ or weight is not finite, or a failing verdict lasted and the run was to
            stop; no later checkpoint is written.
        DiskFull: there is no room for a file and the run was to stop, or there was none for its last checkpoint.
        KeyboardInterrupt: SIGINT or SIGTERM came; the step was finished and a checkpoint written.
    """
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    folder = run_folder(recipe, out)
    if resume:
        recipe = _kept_recipe(folder, recipe)
    together = processes.start(recipe.device)
    together.check({"batch_size": recipe.batch_size, "g_batch_size": recipe.g_batch_size}, recipe.accumulate)
    say = say if together.is_first else lambda _: None
    device = together.device or hardware.choose_device(recipe.device)
    chosen = {
        "precision": hardware.choose_precision(recipe.precision, device),
        "compile": hardware.choose_compile(recipe.compile, device, say),
        "versions": _versions(device, together.count),
    }
    recipe = recipe.model_copy(update=chosen)
    # The caller's random numbers are not ours to spend.
    with hardware.kept_memory(device), torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        generator, discriminator, data = together.in_turn(partial(build, recipe))
        if recipe.best_by not in ("auto", "none") and not can_judge(data):
            raise RecipeError(f"best_by is {recipe.best_by}, but there is no judge for {recipe.data.name}; set none")
        state = State.start(recipe, (generator, discriminator), data, device, together)
        together.once(lambda: prepare_folder(folder, resume, overwrite))
        done = _resumed(folder, state, say) if resume else Progress()
        together.once(lambda: write_text(folder / "recipe.yaml", recipe.to_yaml()))
        together.check_alike(**state.networks)
        run = Run(folder)
        where = hardware.describe(device) + (f", {together.count} processes" if together.count > 1 else "")
        say(f"{recipe.name}: {recipe.steps} steps on {where} in {recipe.precision}, into {folder}")
        if recipe.evaluate_every and not can_judge(data):
            say(f"there is no judge for {recipe.data.name}: the run is not evaluated, look at its samples")

        with stop_signals() as stop, Sitting(run, state, done, together, say, bar) as sitting:
            step = resumed_at = done.step
            has_failed = False
            if recipe.on_failure == "rollback" and step == 0:
                sitting.save(step)  # there is always one to return to
            while step < recipe.steps:
                step += 1
                due = sitting.due(step)
                is_logged = due["log_every"] or due["checkpoint_every"]
                is_watched = is_logged or due["monitor_every"]
                signals = state.advance(step, is_watched)
                stopping = together.any(stop.is_set()) and step < recipe.steps
                if is_watched:
                    sitting.observe(step, signals, is_logged or stopping)
                elif stopping:
                    sitting.log_stop(step, signals)
                if stopping or is_logged or due["sample_every"] or due["evaluate_every"]:
                    sitting.check(step)
                if sitting.has_failed(step):
                    if not sitting.may_roll_back():
                        has_failed = True
                        break
                    step = sitting.roll_back()
                    continue
                if due["sample_every"]:
                    sitting.draw(step)
                if due["evaluate_every"]:
                    sitting.judge(step)
                    stopping |= together.any(stop.is_set()) and step < recipe.steps
                if due["checkpoint_every"] or stopping or sitting.best != sitting.done.best:
                    sitting.save(step)
                sitting.ticks.update()
                if stopping:
                    break
    sitting.write_diagnosis(step, keep=step == resumed_at)
    done = sitting.done
    if has_failed:
        tried = f"; rolled back {done.rollbacks} times before (max_rollbacks)" if done.rollbacks else ""
        healthy = sitting.last_healthy()
        kept = "" if healthy is None else f"; the last healthy checkpoint is that of step {healthy}"
        raise TrainingFailed(f"{sitting.verdict.evidence}; {sitting.verdict.advice}{tried}{kept}")
    if done.step < step:
        raise DiskFull(
            f"{sitting.disk.complaint(f'the checkpoint of step {step}')}; free some, then --resume goes on from there"
        )
    if done.step < recipe.steps:
        raise KeyboardInterrupt(f"stopped after step {done.step} with a checkpoint; --resume goes on from there")
    return run


def _kept_recipe(folder: Path, given: Recipe) -> Recipe:
    """The recipe a resumed run was started with. Raises RunError where another one is asked for."""
    kept = Run(folder).recipe
    if given.name != kept.name:
        raise RunError(f"{folder} holds a run of {kept.name!r}, not of {given.name!r}; resume it by its own name")
    return kept


def _resumed(folder: Path, state: State, say: Callable[[str], None]) -> Progress:
    """Restore a run, and say what of it is lost. One that was killed before its first checkpoint starts anew."""
    recipe, checkpoints = state.recipe, folder / "checkpoints"
    logged = max((record["step"] for record in Run(folder).records()), default=0)
    if not checkpoint.steps(checkpoints) and logged <= recipe.checkpoint_every:
        say("there is no checkpoint yet: starting from the first step")
        return Progress()
    done = state.restore_newest(checkpoints, say)
    say(f"resuming after step {done.step}")
    if (
        state.players.processes.is_first and checkpoint.steps(checkpoints)[-1] == done.step
    ):  # a crash may have come before
        checkpoint.prune(checkpoints, done.step, recipe.keep_checkpoints, recipe.keep_every)
    if logged < done.step:
        say(f"metrics.jsonl ends at step {logged} or is damaged there: its lines up to step {done.step} are lost")
    return done


def _versions(device: torch.device, count: int) -> dict[str, str]:
    return {
        **({"processes": str(count)} if count > 1 else {}),
        "poise": version("poise"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": str(device),
        "processor": hardware.describe(device),
    }
