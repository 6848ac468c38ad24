"""The training loop, from a recipe to a run folder; ``train`` is read top to bottom."""

from __future__ import annotations

import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from poise.losses import LOSSES
from poise.metrics import can_judge, evaluate
from poise.monitor import Monitor, Verdict
from poise.penalties import PENALTIES
from poise.sampling import Sampler, labels, latents
from poise.training import checkpoint, hardware
from poise.training.checkpoint import Checkpoint, Progress
from poise.training.ema import Ema
from poise.training.log import RunLog
from poise.training.optimizers import build_optimizer, rate_factor
from poise.training.recipe import Recipe
from poise.training.run import Run, RunError, build, prepare_folder, run_folder, write_text
from poise.training.sections import Optimizer, RecipeError
from poise.training.step import Players, given
from poise.training.update import discriminator_update, generator_update

GRID = 64  # images in a sample grid


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
        TrainingFailed: a loss, gradient or σ is not finite; the last checkpoint is from before.
        KeyboardInterrupt: SIGINT or SIGTERM came; the step was finished and a checkpoint written.
    """
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    folder = run_folder(recipe, out)
    if resume:
        recipe = _kept_recipe(folder, recipe)
    device = hardware.choose_device(recipe.device)
    precision = hardware.choose_precision(recipe.precision, device)
    compiled = hardware.choose_compile(recipe.compile, device, say)
    with torch.random.fork_rng():  # the caller's random numbers are not ours to spend
        torch.manual_seed(recipe.seed)
        generator, discriminator, data = build(recipe)
        generator, discriminator = generator.to(device), discriminator.to(device)
        ema = Ema(generator, recipe.ema_half_life, recipe.ema_start)
        players = Players(
            generator,
            discriminator,
            _optimizer(generator, recipe.g_optimizer, "g_optimizer"),
            _optimizer(discriminator, recipe.d_optimizer, "d_optimizer"),
            LOSSES[recipe.loss],
            device,
            precision,
            [PENALTIES.build(penalty.name, **penalty.options) for penalty in recipe.penalties],
            compiled,
        )
        prepare_folder(folder, resume, overwrite)
        done = _restore(folder, players, ema, say) if resume else Progress()
        recipe = recipe.model_copy(update={"precision": precision, "compile": compiled, "versions": _versions(device)})
        write_text(folder / "recipe.yaml", recipe.to_yaml())
        run = Run(folder)
        say(f"{recipe.name}: {recipe.steps} steps on {hardware.describe(device)} in {precision}, into {folder}")

        if not can_judge(data):
            say(f"there is no judge for {recipe.data.name}: the run is not evaluated, look at its samples")

        monitor = Monitor(generator=generator, discriminator=discriminator)
        grid = [latents(generator, recipe.seed, 0, GRID, "grid").to(device)]
        grid += [y.to(device) for y in given(labels(generator, recipe.seed, 0, GRID, stream="grid-label"))]
        monitor.verdict = Verdict("healthy", done.step)
        judged = ""
        clock = time.perf_counter() - done.seconds
        with (
            _stop_signals() as stop,
            RunLog(folder, done.step) as log,
            tqdm(total=recipe.steps, initial=done.step, unit="step", disable=not bar, dynamic_ncols=True) as ticks,
        ):
            for step in range(done.step + 1, recipe.steps + 1):
                _set_learning_rates(players, recipe, step)
                for update in range((step - 1) * recipe.n_dis, step * recipe.n_dis):
                    signals = discriminator_update(players, data, recipe, update)
                signals |= generator_update(players, data, recipe, step - 1)
                ema.update(generator, step)

                stopping = stop.is_set() and step < recipe.steps
                last = step == recipe.steps
                due = {every: last or step % getattr(recipe, every) == 0 for every in _CADENCES}
                at = {"step": step, "images": step * recipe.n_dis * recipe.batch_size}
                if due["log_every"] or due["checkpoint_every"] or stopping:
                    gradients = monitor.gradient_norms("G") | monitor.gradient_norms("D")
                    record = monitor.observe(step, gradients, **signals, lr=players.g_optimizer.param_groups[0]["lr"])
                    log.write({**at, "seconds": time.perf_counter() - clock, **record})
                    ticks.set_postfix_str(_images_per_second(ticks, recipe) + judged, refresh=False)
                    if monitor.verdict.is_fatal:
                        break
                if due["sample_every"]:
                    log.write_grid(_draw(ema, *grid), step)
                if due["evaluate_every"] and can_judge(data):
                    found = evaluate(Sampler(ema.module), data, recipe.evaluation_samples, with_reference=last)
                    judged = "".join(f", {name} {value:.4g}" for name, value in found.values.items())
                    log.write({**at, "seconds": time.perf_counter() - clock, "evaluation": found.to_record()})
                    run.write_json("evaluation.json", {"step": step, **found.to_json()})
                if due["checkpoint_every"] or stopping:
                    done = Progress(step, at["images"], time.perf_counter() - clock)
                    checkpoint.save(run.checkpoints, _snapshot(players, ema, done))
                ticks.update()
                if stopping:
                    break
    run.write_json("diagnosis.json", monitor.verdict.to_json())
    if monitor.verdict.is_fatal:
        raise TrainingFailed(f"{monitor.verdict.evidence}; {monitor.verdict.advice}")
    if done.step < recipe.steps:
        raise KeyboardInterrupt(f"stopped after step {done.step} with a checkpoint; --resume goes on from there")
    return run


_CADENCES = ("log_every", "sample_every", "evaluate_every", "checkpoint_every")


def _kept_recipe(folder: Path, given: Recipe) -> Recipe:
    """The recipe a resumed run was started with. Raises RunError where another one is asked for."""
    kept = Run(folder).recipe
    if given.name != kept.name:
        raise RunError(f"{folder} holds a run of {kept.name!r}, not of {given.name!r}; resume it by its own name")
    return kept


def _optimizer(module: nn.Module, settings: Optimizer, field: str) -> torch.optim.Optimizer:
    try:
        return build_optimizer(module, settings.name, settings.lr, settings.betas, settings.options)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{field}: {settings.name} cannot be made: {error}") from None


def _set_learning_rates(players: Players, recipe: Recipe, step: int) -> None:
    factor = rate_factor(step, recipe.steps, recipe.lr_schedule, recipe.lr_warmup)
    for optimizer, settings in ((players.g_optimizer, recipe.g_optimizer), (players.d_optimizer, recipe.d_optimizer)):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * factor


def _snapshot(players: Players, ema: Ema, done: Progress) -> Checkpoint:
    networks = {"generator": players.generator, "discriminator": players.discriminator, "ema": ema.module}
    return Checkpoint(
        {name: network.state_dict() for name, network in networks.items()},
        {
            "generator": players.g_optimizer.state_dict(),
            "discriminator": players.d_optimizer.state_dict(),
            "random": torch.get_rng_state(),  # for networks that draw noise; latents and data need none
        },
        done,
    )


def _restore(folder: Path, players: Players, ema: Ema, say: Callable[[str], None]) -> Progress:
    path, complaints = checkpoint.newest(folder / "checkpoints")
    for complaint in complaints:
        say(complaint)
    saved = checkpoint.load(path)
    players.generator.load_state_dict(saved.networks["generator"])
    players.discriminator.load_state_dict(saved.networks["discriminator"])
    ema.module.load_state_dict(saved.networks["ema"])
    players.g_optimizer.load_state_dict(saved.optimizers["generator"])
    players.d_optimizer.load_state_dict(saved.optimizers["discriminator"])
    torch.set_rng_state(saved.optimizers["random"])
    say(f"resuming after step {saved.progress.step}")
    return saved.progress


@torch.no_grad()
def _draw(ema: Ema, z: Tensor, *y: Tensor) -> Tensor:
    return ema.module(z, *y).float().cpu()


def _images_per_second(ticks: Any, recipe: Recipe) -> str:
    rate = ticks.format_dict["rate"] or 0.0
    return f"{rate * recipe.n_dis * recipe.batch_size:,.0f} images/s"


def _versions(device: torch.device) -> dict[str, str]:
    return {
        "poise": version("poise"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": str(device),
        "processor": hardware.describe(device),
    }


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, once; a second SIGINT stops at once. Other threads get a plain event."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def request(number: int, frame: Any) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
