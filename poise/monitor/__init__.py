"""Watching a training: probes of the two networks and the verdict on them. Usable with no trainer; needs torch only."""

from poise.monitor.monitor import Monitor, Verdict
from poise.monitor.probes import SigmaProbe, gradient_norms, weights

__all__ = ["Monitor", "SigmaProbe", "Verdict", "gradient_norms", "weights"]
