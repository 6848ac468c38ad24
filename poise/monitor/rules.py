"""One rule for each failure: from the history to a finding, or nothing. Pure functions; thresholds are given to them.

What the past is compared with is the run's own median and spread (``Series.usual``, ``Series.deviation``), so that a
rule holds for losses and networks of any scale; a few signs need no past.
"""

from __future__ import annotations

from collections.abc import Callable

from poise.monitor.history import History
from poise.monitor.rules_of_networks import (
    exploding_gradients,
    spectral_collapse,
    spectral_explosion,
    vanishing_gradients,
)
from poise.monitor.rules_of_play import discriminator_blind, discriminator_overpowers, mode_collapse, oscillating
from poise.monitor.thresholds import Thresholds
from poise.monitor.verdict import Finding

Rule = Callable[[History, Thresholds], Finding | None]

RULES: dict[str, Rule] = {
    "spectral-explosion": spectral_explosion,
    "spectral-collapse": spectral_collapse,
    "exploding-gradients": exploding_gradients,
    "vanishing-gradients": vanishing_gradients,
    "discriminator-blind": discriminator_blind,
    "mode-collapse": mode_collapse,
    "discriminator-overpowers": discriminator_overpowers,
    "oscillating": oscillating,
}
