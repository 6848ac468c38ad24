"""One sitting of a run: what happens between its steps. It observes, draws, judges, saves, and rolls back."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from poise.metrics import can_judge, evaluate, has_own_measures
from poise.metrics.generators import STEPS, held_out_source
from poise.monitor import Monitor, Verdict
from poise.sampling import Sampler, labels, latents
from poise.training import checkpoint
from poise.training.best import Best, better, measure_for
from poise.training.checkpoint import Progress
from poise.training.disk import Disk
from poise.training.log import NoLog, RunLog
from poise.training.processes import Processes
from poise.training.recovery import roll_back
from poise.training.run import Run
from poise.training.state import State
from poise.training.step import given

GRID = 64  # images in a sample grid
POINTS = 1_000  # points in a picture of the plane
_CADENCES = ("log_every", "sample_every", "evaluate_every", "checkpoint_every")


class Sitting:
    """A context manager: open while the training goes on.

    Args:
        run: the run folder. state: what is trained. done: where the run stands.
        together: the processes that train. say: where lines of text go. bar: show a progress bar.
    """

    def __init__(
        self,
        run: Run,
        state: State,
        done: Progress,
        together: Processes,
        say: Callable[[str], None],
        bar: bool,
    ) -> None:
        self.run, self.state, self.done, self.together, self.say = run, state, done, together, say
        self.recipe, self.judged = state.recipe, ""
        self.disk = Disk(run.path, self.recipe.on_disk_full, say)
        self.clock = time.perf_counter() - done.seconds
        self.best: Best | None = done.best
        self.monitor = self._watching()
        players, seed = state.players, self.recipe.seed
        shown = GRID if state.data.resolution else POINTS
        drawn = [latents(players.generator, seed, 0, shown, "grid", players.latent)]
        drawn += given(labels(players.generator, seed, 0, shown, stream="grid-label"))
        self.grid = [tensor.to(players.device) for tensor in drawn]
        self.log: RunLog | NoLog = RunLog(run.path, done.step, self.disk) if together.is_first else NoLog()
        shows = bar and together.is_first
        self.ticks: Any = tqdm(
            total=self.recipe.steps, initial=done.step, unit="step", disable=not shows, dynamic_ncols=True
        )

    def __enter__(self) -> Sitting:
        self.ticks.__enter__()
        self.log.__enter__()
        return self

    def __exit__(self, *failure: Any) -> None:
        self.log.__exit__(*failure)
        self.ticks.__exit__(*failure)

    @property
    def verdict(self) -> Verdict:
        return self.monitor.verdict

    def due(self, step: int) -> dict[str, bool]:
        """What is to be done after a step, by the cadences of the recipe; all of it after the last."""
        recipe = self.recipe
        cadences = {name: getattr(recipe, name) for name in _CADENCES}
        due = {name: bool(every) and (step == recipe.steps or step % every == 0) for name, every in cadences.items()}
        due["checkpoint_every"] |= recipe.keep_every is not None and step % recipe.keep_every == 0
        return due

    def observe(self, step: int, signals: dict[str, Tensor]) -> None:
        """Log a step and judge it."""
        gradients = self.monitor.gradient_norms("G") | self.monitor.gradient_norms("D")
        rate = self.state.players.g_optimizer.param_groups[0]["lr"]
        record = self.monitor.observe(step, gradients, **self.together.mean(signals), lr=rate)
        self.log.write({**self._at(step), **record})
        images = (self.ticks.format_dict["rate"] or 0.0) * self.recipe.n_dis * self.recipe.batch_size
        self.ticks.set_postfix_str(f"{images:,.0f} images/s{self.judged}", refresh=False)

    def check(self, step: int) -> None:
        """Let no weight that is not finite go on: it would be saved, or judged."""
        if not self.verdict.is_fatal:
            self.monitor.verdict = self.state.unsound(step) or self.verdict

    def may_roll_back(self) -> bool:
        return self.recipe.on_failure == "rollback" and self.done.rollbacks < self.recipe.max_rollbacks

    def roll_back(self) -> int:
        """Return to the last checkpoint with halved learning rates. Returns its step."""
        restore = partial(self.state.restore, self.run.checkpoints, self.say)
        self.done = roll_back(self.verdict, self.done, restore, self.log, self.say)
        self.best = self.done.best
        self.monitor = self._watching()
        self.ticks.n = self.done.step
        return self.done.step

    @torch.no_grad()
    def draw(self, step: int) -> None:
        """Save a picture of samples, always of the same latents."""
        if self.together.is_first:
            self.log.write_grid(self.state.ema.module(*self.grid).float().cpu(), step, self.state.data)

    def judge(self, step: int) -> None:
        """Evaluate the averaged generator, where there is a judge for the data."""
        data, recipe = self.state.data, self.recipe
        if not can_judge(data):
            return
        sampler = Sampler(self.state.ema.module, self.state.players.latent)
        own = has_own_measures(data)
        held_out = None
        if not own and any(name in STEPS for name in recipe.metrics):
            held_out = held_out_source(recipe.data.name, recipe.data.options)
        judging = partial(
            evaluate,
            samples=recipe.evaluation_samples,
            with_reference=step == recipe.steps,
            metrics=None if own else recipe.metrics,
            held_out=held_out,
        )
        found = self.together.once(partial(judging, sampler, data))
        if not self.judged and recipe.best_by != "none" and not measure_for(recipe.best_by, found.values):
            given_by = f"the judge gives {', '.join(found.values)}"
            self.say(f"best_by is {recipe.best_by}, but {given_by}: no best checkpoint is kept")
        self.judged = "".join(f", {name} {value:.4g}" for name, value in found.values.items())
        self.log.write({**self._at(step), "evaluation": found.to_record()})
        self.write_json("evaluation.json", {"step": step, **found.to_json()})
        self.best = better(self.best, step, found.values, found.measures, recipe.best_by)

    def save(self, step: int) -> None:
        """Write a checkpoint, and drop those that are no longer wanted."""
        at = self._at(step)
        now = Progress(step, at["images"], at["seconds"], self.best, self.done.rollbacks)
        self.together.check_alike(**self.state.networks)
        self.done = self.together.once(partial(self._save, now))

    def write_json(self, name: str, value: dict[str, Any], keep: bool = False) -> None:
        """Replace a JSON file of the run, or keep the one that is there."""

        def write() -> None:
            if keep and (self.run.path / name).exists():
                return
            with self.disk.writing(name):
                self.run.write_json(name, value)

        self.together.once(write)

    def _save(self, now: Progress) -> Progress:
        with self.disk.writing(f"the checkpoint of step {now.step}"):
            kept = self.recipe.keep_checkpoints, self.recipe.keep_every
            checkpoint.save(self.run.checkpoints, self.state.snapshot(now), *kept)
            return now
        return self.done  # there was no room, and the run goes on without

    def _watching(self) -> Monitor:
        """A monitor that begins where the run stands."""
        players = self.state.players
        monitor = Monitor(generator=players.generator, discriminator=players.discriminator)
        monitor.verdict = Verdict("healthy", self.done.step)
        return monitor

    def _at(self, step: int) -> dict[str, Any]:
        images = step * self.recipe.n_dis * self.recipe.batch_size
        return {"step": step, "images": images, "seconds": time.perf_counter() - self.clock}
