"""One sitting of a run: what happens between its steps. It observes, draws, judges, saves, and rolls back."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from poise.metrics import can_judge, evaluate, has_own_measures
from poise.metrics.generators import STEPS, held_out_source
from poise.monitor import CADENCE, Monitor, Verdict
from poise.monitor.monitor import SHOWN
from poise.monitor.verdict import WARMING_UP
from poise.sampling import Sampler, labels, latents
from poise.training import checkpoint
from poise.training.best import Best, better, measure_for
from poise.training.changes import advised, has_momentum
from poise.training.checkpoint import Progress
from poise.training.disk import Disk
from poise.training.log import NoLog, RunLog
from poise.training.processes import Processes
from poise.training.recovery import (
    checkpoint_before,
    failing_since,
    grace,
    healthy_before,
    is_spared,
    never_otherwise,
    patience,
    unseen,
)
from poise.training.run import Run
from poise.training.state import State
from poise.training.step import given

GRID = 64  # images in a sample grid
POINTS = 1_000  # points in a picture of the plane
LOOKED_AT = 64  # real images and fakes that the monitor looks at
_CADENCES = ("log_every", "sample_every", "evaluate_every", "checkpoint_every", "monitor_every")


def cadence(often: int) -> dict[str, int]:
    """Steps between measurements, by probe of the monitor: ``often``, and multiples of it as in its ``CADENCE``."""
    return {probe: often * every // min(CADENCE.values()) for probe, every in CADENCE.items()}


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
        if state.kept:
            self.monitor.load_state_dict(state.kept)
        self.verdict = self.monitor.verdict
        self.failing_since = failing_since(self.monitor.timeline, self.verdict)
        self.spared = done.spared
        self._told: dict[str, int] = {}
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

    def due(self, step: int) -> dict[str, bool]:
        """What is to be done after a step, by the cadences of the recipe; all of it after the last."""
        recipe = self.recipe
        cadences = {name: getattr(recipe, name) for name in _CADENCES}
        due = {name: bool(every) and (step == recipe.steps or step % every == 0) for name, every in cadences.items()}
        due["checkpoint_every"] |= recipe.keep_every is not None and step % recipe.keep_every == 0
        return due

    def observe(self, step: int, signals: dict[str, Tensor], is_logged: bool) -> None:
        """Judge a step that was watched, and log it if that is due or the verdict is a new one.

        The first process alone judges, all samples before it: another's rounding could make it another verdict.
        """
        players = self.state.players
        logits = {name: value for name, value in players.seen.items() if name.endswith("logits")}
        others = {name: value for name, value in players.seen.items() if name not in logits}
        shown = self.together.gather(logits) | self.together.gather(others, LOOKED_AT)
        players.seen = {}
        judging = partial(self._observe, step, self.together.mean(signals), shown, is_logged)
        self.verdict, self.failing_since, self.spared = self.together.once(judging)
        images = (self.ticks.format_dict["rate"] or 0.0) * self.recipe.n_dis * self.recipe.batch_size
        self.ticks.set_postfix_str(f"{images:,.0f} images/s{self.judged}", refresh=False)
        self._tell(step)

    def _observe(
        self, step: int, signals: dict[str, Tensor], shown: dict[str, Tensor], is_logged: bool
    ) -> tuple[Verdict, int | None, int]:
        monitor, before = self.monitor, self.monitor.verdict.name
        gradients = monitor.gradient_norms("G") | monitor.gradient_norms("D")
        record = monitor.observe(step, gradients, **shown, **signals, lr=self._rate())
        if is_logged or monitor.verdict.name != before:
            self.log.write({**self._at(step), **record})
        learning = monitor.judge.thresholds.learning * self.recipe.monitor_every
        spared = step if is_spared(monitor.judge.history, monitor.verdict, learning) else self.spared
        return monitor.verdict, failing_since(monitor.timeline, monitor.verdict), spared

    def log_stop(self, step: int, signals: dict[str, Tensor]) -> None:
        """Log a step that a signal made the last one. The monitor is not shown it, as it will not be when resumed."""
        found = {name: float(value) for name, value in self.together.mean(signals).items()}
        self.log.write({**self._at(step), **found, "lr": self._rate(), "verdict": self.verdict.name})

    def check(self, step: int) -> None:
        """Let no weight that is not finite go on: it would be saved, or judged."""
        found = None if self.verdict.is_fatal else self.state.unsound(step)
        if found:
            self.verdict = self.monitor.verdict = found
            self.failing_since = step if self.failing_since is None else self.failing_since

    def _tell(self, step: int) -> None:
        """Say a failing verdict once, and again where it comes back after a while."""
        if not self.verdict.is_failing or self.verdict.is_fatal:  # a fatal one is acted on at once, which is said
            return
        last = self._told.get(self.verdict.name)
        if last is None or step - last > patience(self.recipe):
            self.say(f"{self.verdict.name} at step {step}: {self.verdict.evidence}; {self.verdict.advice}")
        self._told[self.verdict.name] = step

    def has_failed(self, step: int) -> bool:
        """Whether the run is to stop or to return: a number is not finite, or a failing verdict has lasted."""
        if self.verdict.is_fatal:
            return True
        if self.recipe.on_failure == "warn" or self.failing_since is None or step == self.recipe.steps:
            return False
        if self.recipe.on_failure == "rollback" and not self.may_roll_back():
            return False  # all was tried, and it goes on with warnings
        since, thresholds = max(self.failing_since, self.spared), self.monitor.judge.thresholds
        if self.done.rollbacks:
            since = max(since, self.state.changes.since + grace(self.recipe, thresholds))
        return step - since >= patience(self.recipe)

    def may_roll_back(self) -> bool:
        return self.recipe.on_failure == "rollback" and self.done.rollbacks < self.recipe.max_rollbacks

    def roll_back(self) -> int:
        """Return to a healthy checkpoint, go on from it with what is advised changed, and say so. Returns its step."""
        failed, before, rollbacks = self.verdict, self.state.changes, self.done.rollbacks
        avoided = before.since if rollbacks and not failed.is_fatal else None
        window = unseen(self.recipe, failed, rollbacks)
        granted = grace(self.recipe, self.monitor.judge.thresholds)
        choosing = lambda: checkpoint_before(self.run.checkpoints, self._began(), window, avoided, granted)  # noqa: E731
        back = self.state.restore(self.together.once(choosing))
        optimizers = self.state.players.g_optimizer, self.state.players.d_optimizer
        advising = partial(
            advised,
            before,
            failed,
            self.state.watched,
            self.recipe.penalties,
            back.step,
            moved=self.monitor.judge.history.usual_steps(),
            with_momentum=any(map(has_momentum, optimizers)),
        )
        changes = self.together.once(advising)
        self.state.change(changes)
        self.done, self.spared = replace(back, rollbacks=rollbacks + 1, changes=changes, spared=0), 0
        self.best = self.done.best
        self.monitor = self._watching()
        self.verdict, self.failing_since, self._told = self.monitor.verdict, None, {}
        self.ticks.n = back.step
        self.done = self.together.once(partial(self._save, self.done))
        last = "" if self.may_roll_back() else "; this was the last return, from now on it warns (max_rollbacks)"
        self.say(f"{failed.evidence}: rolled back to step {back.step}, from there {changes}{last}")
        event = {"number": rollbacks + 1, "from": failed.step, "to": back.step, "verdict": failed.name}
        event |= {"evidence": failed.evidence, "change": str(changes), **asdict(changes)}
        self.log.roll_back(back.step, event)
        return back.step

    def last_healthy(self) -> int | None:
        """Step of the newest checkpoint judged healthy before what is failing now; None where there is none."""
        return self.together.once(lambda: healthy_before(self.run.checkpoints, self._began()))

    def _began(self) -> int:
        """The first step of what is failing now, as far as the monitor saw it."""
        since = self.verdict.step if self.failing_since is None else self.failing_since
        first = never_otherwise(self.monitor.judge.history, self.verdict)
        return since if first is None else min(since, first)

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
        rollbacks, changes = self.done.rollbacks, self.state.changes
        now = Progress(step, at["images"], at["seconds"], self.best, rollbacks, changes, spared=self.spared)
        self.together.check_alike(**self.state.networks)
        self.done = self.together.once(partial(self._save, now))

    def write_diagnosis(self, step: int, keep: bool) -> None:
        """The verdict that the run ends with, and those before it; or keep the file that is there."""
        timeline = self.monitor.timeline
        if not timeline or timeline[-1].name != self.verdict.name:
            timeline.append(self.verdict)
        last = self.verdict if self.verdict.is_failing else replace(self.verdict, step=step)
        before = {"last": step, "rollbacks": self.done.rollbacks, "timeline": [one.to_json() for one in timeline]}
        self.write_json("diagnosis.json", {**last.to_json(), **before}, keep)

    def write_json(self, name: str, value: dict[str, Any], keep: bool = False) -> None:
        """Replace a JSON file of the run, or keep the one that is there."""

        def write() -> None:
            if keep and (self.run.path / name).exists():
                return
            with self.disk.writing(name):
                self.run.write_json(name, value)

        self.together.once(write)

    def _save(self, now: Progress) -> Progress:
        monitor = self.monitor.state_dict(with_vectors=True)
        signs = () if self.verdict.is_failing else monitor["judge"]["signs"]
        now = replace(now, verdict=next(iter(signs), self.verdict.name))
        with self.disk.writing(f"the checkpoint of step {now.step}"):
            kept = self.recipe.keep_checkpoints, self.recipe.keep_every
            checkpoint.save(self.run.checkpoints, self.state.snapshot(now, monitor), *kept)
            return now
        return self.done  # there was no room, and the run goes on without

    def _watching(self) -> Monitor:
        """A monitor that begins where the run stands, at the recipe's cadence."""
        players, seed = self.state.players, self.recipe.seed
        drawn = [latents(players.generator, seed, 0, SHOWN, "monitor", players.latent)]
        drawn += given(labels(players.generator, seed, 0, SHOWN, stream="monitor-label"))
        monitor = Monitor(
            generator=players.generator,
            discriminator=players.discriminator,
            every=cadence(self.recipe.monitor_every),
            latents=[tensor.to(players.device) for tensor in drawn],
        )
        monitor.verdict = Verdict(WARMING_UP, self.done.step, since=self.done.step)
        return monitor

    def _rate(self) -> float:
        return float(self.state.players.g_optimizer.param_groups[0]["lr"])

    def _at(self, step: int) -> dict[str, Any]:
        images = step * self.recipe.n_dis * self.recipe.batch_size
        return {"step": step, "images": images, "seconds": time.perf_counter() - self.clock}
