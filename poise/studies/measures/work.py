"""Work that is no training: the time of a step, the number of parameters, and one image per class."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from poise import noise
from poise.data.digits import StackedDigits
from poise.metrics.stacked_digits import judge_stacked_digits
from poise.models import create, sizes
from poise.studies.trial import Measured, Trial
from poise.training import Recipe
from poise.training.hardware import choose_device, choose_precision
from poise.training.processes import Processes
from poise.training.run import build
from poise.training.state import State

COMPARED: dict[str, dict[str, Any]] = {
    "none": {"d_norm.name": "none"},
    "sn": {"d_norm.name": "sn"},
    "wgan_gp": {"d_norm.name": "none", "loss": "wasserstein", "penalties": [{"name": "wgan-gp", "weight": 10.0}]},
}
"""whose steps are timed side by side"""
WARM_UP, ROUNDS = 2, 10
ONE_PER_CLASS_SAMPLES = 2_000


def step_cost(trial: Trial, folder: Path) -> Measured:
    """Seconds of a step, both players' updates, without a norm, with SN and with WGAN-GP, taking turns.

    Figures: "none", "sn", "wgan_gp", medians in seconds; "sn_ratio", "wgan_gp_ratio", medians of each round's time over
    that of "none" in the same round.
    """
    states = {}
    for name, changes in COMPARED.items():
        recipe = Recipe.load(trial.recipe, {**trial.changes, **changes, "seed": trial.seed, "compile": False})
        device = choose_device(recipe.device)
        recipe = recipe.model_copy(update={"precision": choose_precision(recipe.precision, device)})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            generator, discriminator, data = build(recipe)
        states[name] = State.start(recipe, (generator, discriminator), data, device, Processes())
    taken: dict[str, list[float]] = {name: [] for name in states}
    for step in range(1, WARM_UP + ROUNDS + 1):
        for name, state in states.items():
            started = time.perf_counter()
            signals = state.advance(step)
            signals["g_loss"].item()  # waits for the device
            if step > WARM_UP:
                taken[name].append(time.perf_counter() - started)
    figures = {name: median(seconds) for name, seconds in taken.items()}
    for name in ("sn", "wgan_gp"):
        figures[f"{name}_ratio"] = median(a / b for a, b in zip(taken[name], taken["none"], strict=True))
    return Measured(figures)


def parameters(trial: Trial, folder: Path) -> Measured:
    """Parameters of the recipe's networks, in millions: "generator", "discriminator", "both". Nothing is trained."""
    recipe = trial.resolved()
    with torch.device("meta"):
        generator, discriminator = create(recipe.model.name, **recipe.model.options)
    found = [sizes(network).parameters / 1e6 for network in (generator, discriminator)]
    return Measured({"generator": found[0], "discriminator": found[1], "both": sum(found)})


def one_per_class(trial: Trial, folder: Path) -> Measured:
    """Class score and Fréchet distance of one real image per class, over and over, and of as many real ones.

    Stacks of ten training digits, one of each class, which the seed chooses: every class is there, and each of its
    images is the same. Figures: "is_one", "fd_one"; "is_real", "fd_real" of training images drawn at random.
    """
    data = StackedDigits(resolution=trial.resolved().data.options.get("resolution", 16), seed=trial.seed)
    one = judge_stacked_digits(iter([_one_of_each(data, trial.seed)]), data).values
    real = judge_stacked_digits(iter([data.batch(0, ONE_PER_CLASS_SAMPLES)[0]]), data).values
    return Measured(
        {
            "is_one": one["score_digits"],
            "fd_one": one["fd_digits"],
            "is_real": real["score_digits"],
            "fd_real": real["fd_digits"],
        }
    )


def _one_of_each(data: StackedDigits, seed: int) -> Tensor:
    """uint8 (samples, 3, R, R): all 1000 classes equally often, each always by the same image."""
    chosen = []
    for digit in range(10):
        known = (data.plane_labels == digit).nonzero()[:, 0]
        chosen.append(known[noise.integers(seed, "one-per-class", torch.tensor([digit]), 1, len(known))[0, 0]])
    planes = data.planes[torch.stack(chosen)]
    stacks = torch.cartesian_prod(*[torch.arange(10)] * 3)
    return planes[stacks.repeat(ONE_PER_CLASS_SAMPLES // 1000, 1)]
