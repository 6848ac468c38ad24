"""poise: generative adversarial networks that train stably.

``import poise`` needs torch alone and stays quick; the trainer, the metrics and the report load on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from poise.monitor import Monitor
from poise.norms import denormalize, describe, normalize, weight_penalty
from poise.spectra import condition_number, lipschitz_bound, singular_values, stable_rank

if TYPE_CHECKING:
    from poise.api import compare, evaluate, train, truncation_curve, write_report
    from poise.training import Recipe, Run, load

__version__ = "0.1.0"

_ON_USE = {
    "compare": "poise.api",
    "train": "poise.api",
    "truncation_curve": "poise.api",
    "evaluate": "poise.api",
    "write_report": "poise.api",
    "load": "poise.training",
    "Recipe": "poise.training",
    "Run": "poise.training",
}

_ROOMS = (
    "augmentation",
    "convert",
    "data",
    "layers",
    "losses",
    "metrics",
    "models",
    "penalties",
    "sampling",
    "studies",
    "training",
)
"""also on use: ``poise.models.create`` without a further import"""

__all__ = [
    "Monitor",
    "Recipe",
    "Run",
    "compare",
    "condition_number",
    "denormalize",
    "describe",
    "evaluate",
    "lipschitz_bound",
    "load",
    "normalize",
    "singular_values",
    "stable_rank",
    "train",
    "truncation_curve",
    "weight_penalty",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _ON_USE:
        return getattr(importlib.import_module(_ON_USE[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"poise.{name}")
    raise AttributeError(f"module 'poise' has no attribute {name!r}")
