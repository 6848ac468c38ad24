"""Rolling back: what a run does, if asked, when its numbers are no longer finite.

It returns to its last checkpoint and goes on with both learning rates halved, over the same images and latents: their
order is a function of the position alone, and it is the smaller steps that take another way. The number of times is
part of every later checkpoint, so a resumed run has the same rates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from poise.monitor import Verdict
from poise.training.checkpoint import Progress
from poise.training.log import NoLog, RunLog


def rate_scale(rollbacks: int) -> float:
    """What both learning rates are multiplied by after so many returns: 2^(−rollbacks)."""
    return 0.5**rollbacks


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


def roll_back(
    verdict: Verdict, done: Progress, restore: Callable[[], Progress], log: RunLog | NoLog, say: Callable[[str], None]
) -> Progress:
    """Return to the last checkpoint, and say so to the user and in ``metrics.jsonl``. Returns where the run stands.

    Args:
        verdict: what went wrong. done: where the run stood when it last saved.
        restore: loads the newest checkpoint into the networks and optimizers.
        log: from which the lines after that checkpoint are dropped.
    """
    back = restore()
    back = replace(back, rollbacks=done.rollbacks + 1)
    scale = rate_scale(back.rollbacks)
    say(f"{verdict.evidence}: rolled back to step {back.step}, learning rates × {scale:g} from there")
    event = {"from": verdict.step, "to": back.step, "evidence": verdict.evidence, "rate_scale": scale}
    log.roll_back(back.step, {"number": back.rollbacks, **event})
    return back
