"""Optimizers by torch's own names, and learning rates as a function of the step."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import nn

from poise.registry import Registry

OPTIMIZERS: Registry[type[torch.optim.Optimizer]] = Registry(
    "optimizer",
    {
        name: kind
        for name, kind in vars(torch.optim).items()
        if inspect.isclass(kind)
        and issubclass(kind, torch.optim.Optimizer)
        # The first is their common ancestor, the second needs a closure, the third sparse gradients.
        and name not in ("Optimizer", "LBFGS", "SparseAdam")
    },
)

SCHEDULES = ("constant", "linear", "cosine")


def arguments(name: str, lr: float, betas: tuple[float, float], options: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments for ``OPTIMIZERS[name]``: one fused kernel where torch has it, betas where there are any.

    Raises:
        ValueError: an unknown optimizer, or an option that it does not take.
    """
    known = inspect.signature(OPTIMIZERS[name]).parameters
    taken = [option for option in known if option not in ("params", "lr", "betas", "fused", "foreach", "maximize")]
    for option in options:
        if option not in taken:
            raise ValueError(f"{name} has no option {option!r}; known: {', '.join(taken)}")
    given: dict[str, Any] = {"lr": lr, **options}
    if "betas" in known:
        given["betas"] = betas
    if "fused" in known:
        given["fused"] = True
    return given


def build_optimizer(
    module: nn.Module, name: str, lr: float, betas: tuple[float, float], options: dict[str, Any]
) -> torch.optim.Optimizer:
    """The optimizer of a network's parameters. Raises ValueError as ``arguments`` does, or for torch's own reasons."""
    kind: Any = OPTIMIZERS[name]
    optimizer: torch.optim.Optimizer = kind(module.parameters(), **arguments(name, lr, betas, options))
    return optimizer


def rate_factor(step: int, steps: int, schedule: str, warmup: int = 0) -> float:
    """What the learning rate is multiplied by at a step, counted from 1; a function of the step, so nothing to save.

    Linear: ``1 − (step − 1)/steps``; cosine: ``(1 + cos π(step − 1)/steps)/2``; with a warm-up times ``step/warmup``
    until that is 1.
    """
    done = (step - 1) / steps
    decay = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[schedule]
    return decay * min(1.0, step / warmup if warmup else 1.0)
