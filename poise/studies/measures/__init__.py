"""What claims look at beside a run's own evaluation: functions of a finished run, and work that is no training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from poise.studies.measures.gradients import gradient_bound, gradient_history
from poise.studies.measures.histories import sigma_history
from poise.studies.measures.samples import reconstruction, reconstruction_final, truncation, untrained
from poise.studies.measures.weights import spectra, weight_variance
from poise.studies.measures.work import one_per_class, parameters, step_cost
from poise.studies.trial import Measured, Trial
from poise.training import Run

MEASURES: dict[str, Callable[[Run, torch.device], Measured]] = {
    "gradient-bound": gradient_bound,
    "gradient-history": gradient_history,
    "weight-variance": weight_variance,
    "spectra": spectra,
    "reconstruction": reconstruction,
    "reconstruction-2000": reconstruction_final,
    "truncation": truncation,
    "sigma-history": sigma_history,
    "untrained": untrained,
}
"""by name, taken of a finished run on a device"""

WORK: dict[str, Callable[[Trial, Path], Measured]] = {
    "step-cost": step_cost,
    "parameters": parameters,
    "one-per-class": one_per_class,
}
"""by name, done in a folder instead of a training"""

WITHOUT_DATA = ("parameters",)
"""work that does not open its recipe's data"""
