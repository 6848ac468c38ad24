"""The best network of a run by what it can reconstruct, as Xiang & Li 2017 (arXiv 1704.03971) choose theirs."""

from __future__ import annotations

import math

from poise.data import Images
from poise.metrics.generators import held_out_images
from poise.metrics.reconstruction import IMAGES, RUNNING, reconstruct
from poise.training import checkpoint
from poise.training.run import Run


def reconstruction_by_step(
    run: Run,
    held_out: Images,
    n: int = IMAGES[RUNNING],
    steps: int = RUNNING,
    network: str = "ema",
    device: str = "auto",
    precision: str = "fp32",
) -> dict[int, float]:
    """Mean reconstruction error of the same held-out images by each checkpoint that a run has kept, by its step.

    Which those are is the recipe's ``keep_checkpoints`` and ``keep_every``.

    Args:
        held_out: images that training did not see, of which the first n are taken. steps: of the search.
        network: "ema" or "generator". device: as in a recipe. precision: "fp32" or "bf16".

    Raises:
        CheckpointError: there is none, or one is damaged. ValueError: as ``reconstruct``.
    """
    found = {}
    for step in checkpoint.steps(run.checkpoints):
        sampler = run.sampler(network, device, step)
        targets = held_out_images(sampler, held_out, n)
        found[step] = reconstruct(sampler.generator, *targets, steps, precision).mean(steps)[0]
    if not found:
        run.sampler(network, device)  # says that there is none
    return found


def best_network(errors: dict[int, float]) -> int:
    """The step with the least error, the earliest of equals; what is not finite is no best.

    Raises:
        ValueError: no finite error.
    """
    finite = {step: error for step, error in errors.items() if math.isfinite(error)}
    if not finite:
        raise ValueError(f"none of {len(errors)} checkpoints has a finite reconstruction error")
    return min(finite, key=lambda step: (finite[step], step))
