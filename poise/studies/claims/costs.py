"""What runs cost: seconds on one slow core for the miniature, GPU-hours for the published grids. Estimates, both.

Seconds are from steps timed on one thread of a shared two-core machine; GPU-hours from a network's arithmetic at 10
TFLOP/s, about what such networks reach on a current GPU, with at least 4 ms an update of either player.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import torch

from poise.models import create, sizes
from poise.studies.trial import Trial

OVERHEAD = 3.0
"""seconds of a run for building, judging 2,000 samples and one checkpoint"""
MEASURE = {
    "gradient-bound": 2.0,
    "weight-variance": 0.5,
    "spectra": 0.1,
    "reconstruction": 5.0,
    "truncation": 22.0,
    "untrained": 1.0,
}
"""seconds of a measure on the miniature; others cost nothing to speak of"""
WORK = {"step-cost": 31.0, "parameters": 1.0, "one-per-class": 2.0}
STEP = {"sngan-cnn": (0.016, 0.00036), "dcgan": (0.010, 0.00025), "wngan": (0.060, 0.0009)}
STEP |= {"biggan": (0.050, 0.0012), "r3gan": (0.060, 0.0036)}
"""seconds of a step of both players: for itself, and for each image of the batch"""
DISCRIMINATOR = 0.56
"""D's share of a step"""


def estimated_seconds(trial: Trial) -> float:
    """Seconds of a miniature run on one slow core. An estimate: see the module."""
    if trial.work != "train":
        return WORK[trial.work]
    recipe = trial.resolved()
    name, options = recipe.model.name, recipe.model.options
    if name == "mlp":
        each_layer = 0.0007 if recipe.d_norm.name != "none" else 0.0004
        step = 0.0032 + each_layer * options["depth"]
    else:
        own, image = STEP[name]
        width = max(1.0, (options.get("width", 16) / 16)) if name == "sngan-cnn" else 1.0
        step = own + image * recipe.batch_size * width
    update = DISCRIMINATOR * step
    if recipe.penalties and recipe.loss != "relativistic":
        update *= 1.65 if recipe.penalties[0].name != "orthonormal" else 1.1
    update += 0.0125 if recipe.d_norm.options.get("operator") == "conv" else 0.0
    seconds = recipe.steps * ((1 - DISCRIMINATOR) * step + recipe.n_dis * update)
    judged = recipe.steps // (recipe.evaluate_every or recipe.steps)
    overhead = 1.0 if name == "mlp" else OVERHEAD + 2.0 * (judged - 1)
    return seconds + overhead + sum(MEASURE.get(name, 0.0) for name in trial.measures)


ESTIMATED = "the networks' arithmetic at 10 TFLOP/s, and at least 4 ms an update; not measured"


def gpu_hours(trials: Iterable[Trial]) -> float:
    """Hours of runs on one GPU, to two digits, estimated from ``ESTIMATED``."""
    return float(f"{sum(_hours(trial) for trial in trials):.2g}")


def _hours(trial: Trial) -> float:
    if trial.work != "train":
        return 0.01
    recipe = trial.resolved()
    g, d = _arithmetic(recipe.model.name, tuple(sorted((k, _frozen(v)) for k, v in recipe.model.options.items())))
    # A forward and a backward cost three forwards; D's update sees reals and fakes, made without a backward.
    penalized = 2.0 if any(one.name not in ("orthonormal", "off-diagonal") for one in recipe.penalties) else 1.0
    d_update = max(0.004, recipe.batch_size * 2 * (6 * d * penalized + g) / 10e12)
    g_update = max(0.004, recipe.batch_size * 2 * (3 * g + 3 * d) / 10e12)
    return recipe.steps * (recipe.n_dis * d_update + g_update) / 3600


@cache
def _arithmetic(name: str, options: tuple[tuple[str, Any], ...]) -> tuple[int, int]:
    with torch.device("meta"):
        given: dict[str, Any] = dict(options)
        generator, discriminator = create(name, **given)
    return sizes(generator).macs, sizes(discriminator).macs


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
