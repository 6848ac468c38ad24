"""Acting on a verdict: how long it has to last, and which checkpoint a run returns to.

A run returns to the last checkpoint that the monitor judged healthy, from before the first sign of the failure, and
goes on from there with the changes that ``changes.advised`` gives, over the same images and latents again: their order
is a function of the position alone, and it is the changes that take it another way. The checkpoint is written anew with
them, so that from then on the run is the same whether it is stopped or not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from poise.monitor import Verdict
from poise.monitor.history import RECENT, WINDOW, History
from poise.monitor.thresholds import Thresholds
from poise.training import checkpoint
from poise.training.checkpoint import CheckpointError, Progress
from poise.training.recipe import Recipe

LEAST, SHARE = 5, 20
"""observations, and one in so many of a run's steps: the longer is how long a verdict lasts before it is acted on"""
SURE = 2.0
"""times the limit, from which a run acts on fakes that always were far off"""


def patience(recipe: Recipe) -> int:
    """Steps for which a failing verdict has to last, before a run stops or returns for it."""
    return recipe.patience or max(LEAST * recipe.monitor_every, recipe.steps // SHARE)


def grace(recipe: Recipe, thresholds: Thresholds) -> int:
    """Steps after a return before the time of a failing verdict begins to run.

    So long the monitor, which starts anew, has no past to compare with, and the change has had no time to work.
    """
    return (RECENT + thresholds.warm_up) * recipe.monitor_every


def unseen(recipe: Recipe, verdict: Verdict, before: int) -> int:
    """Steps before the first sign in which a failure may have been under way: what its evidence spans.

    Twice as many for each return before it, which did not go back far enough.

    Args:
        before: returns so far.
    """
    if verdict.is_fatal:
        return RECENT * recipe.monitor_every
    return (WINDOW if verdict.name == "oscillating" else RECENT) * recipe.monitor_every * 2**before


def failing_since(timeline: Sequence[Verdict], now: Verdict) -> int | None:
    """The first step of the unbroken stretch of failing verdicts that ends with the one now; None where that is none.

    Args:
        timeline: verdicts that differ from the ones before them, oldest first.
    """
    if not now.is_failing:
        return None
    first = now
    for verdict in reversed(timeline):
        if not verdict.is_failing:
            break
        first = verdict
    return first.step if first.since is None else min(first.step, first.since)


def never_otherwise(history: History, found: Verdict) -> int | None:
    """The first step observed, where what was found has been so all along; None where it once was otherwise.

    Such is a generator that never came near the data: no checkpoint but that of the first step is from before.
    """
    series = history.series.get((found.signal, found.layer))
    if series is None or not series.past or found.value is None or found.threshold is None:
        return None
    if not math.isclose(series.now, found.value, rel_tol=1e-6):  # a change, which has a before
        return None
    passed = (found.value >= found.threshold, series.usual() >= found.threshold)
    return series.first if passed[0] == passed[1] else None


def is_spared(history: History, found: Verdict, learning: int) -> bool:
    """Whether a failing verdict, though warned of, is not to be acted on for now.

    Such is one of fakes that were far from the data all along, and so have lost nothing that a return could give back:
    until they have come no nearer for as long as they are granted to learn at first, and while they are not ``SURE``
    times as far as the limit, which was learnt elsewhere. Slow rates, and a return makes them slower, need their time.

    Args:
        learning: steps that are granted.
    """
    if found.signal not in history.nearest or not found.threshold or never_otherwise(history, found) is None:
        return False
    is_inverse = found.signal == "diversity"
    now, limit = (1 / max(value, 1e-30) if is_inverse else value for value in (found.value or 0.0, found.threshold))
    return found.step - history.nearest[found.signal][1] < learning or now < SURE * limit


def checkpoint_before(folder: Path, since: int, window: int, avoided: int | None = None, unproven: int = 0) -> Path:
    """The newest whole checkpoint that was judged healthy and is from before a failure.

    Args:
        folder: of checkpoints. since: first step of the failure.
        window: steps before that in which it may have been under way, unseen; a checkpoint from before those is better,
            but for that of step 0, which holds nothing learnt; it too, once the run has returned in vain.
        avoided: step of a checkpoint that the run returned to in vain; one from before it is better.
        unproven: steps after that one in which the new monitor could not have seen a failure.

    Raises:
        CheckpointError: no checkpoint is whole.
    """
    known: dict[int, Progress] = {}
    for step in checkpoint.steps(folder):
        with suppress(CheckpointError):
            known[step] = checkpoint.check(folder / f"step-{step}", needed=())
    healthy = [step for step, done in known.items() if done.is_healthy and step < since]
    if avoided is not None:
        healthy = [step for step in healthy if not avoided < step <= avoided + unproven]
    least, latest = (1, since - window) if avoided is None else (0, max(0, since - window))
    order = sorted(healthy, key=lambda step: (least <= step <= latest, step), reverse=True)
    if order[:1] == [avoided]:
        order[:2] = order[:2][::-1]
    for step in [*order, *(step for step in known if step not in order)]:
        with suppress(CheckpointError):
            checkpoint.check(folder / f"step-{step}")
            return folder / f"step-{step}"
    return checkpoint.newest(folder)[0]  # there is none, and it says why


def healthy_before(folder: Path, since: int) -> int | None:
    """Step of the newest checkpoint before ``since`` that was judged healthy; None where there is none."""
    for step in reversed(checkpoint.steps(folder)):
        with suppress(CheckpointError):
            if step < since and checkpoint.check(folder / f"step-{step}", needed=()).is_healthy:
                return step
    return None


@torch.no_grad()
def unsound(networks: Mapping[str, nn.Module], step: int) -> Verdict | None:
    """A verdict if any weight or statistic is not finite, so that no such checkpoint is ever written.

    One maximum over each tensor, read back together once.

    Args:
        networks: by the name they are reported with. step: generator updates done.
    """
    named = {
        f"{prefix}.{name}": value
        for prefix, network in networks.items()
        for name, value in network.state_dict(keep_vars=True).items()
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel()
    }
    largest = torch._foreach_norm([value.detach() for value in named.values()], torch.inf)
    finite = torch.stack([value.float() for value in largest]).isfinite().tolist()
    for name, is_finite in zip(named, finite, strict=True):
        if not is_finite:
            return Verdict(
                "not-finite",
                step,
                f"{name} is not finite at step {step}",
                "lower the learning rates, normalize the discriminator (bssn), or compute in fp32",
            )
    return None
