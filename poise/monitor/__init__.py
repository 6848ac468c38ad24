"""Watching a training: probes of the two networks, rules, and the verdict. Usable with no trainer; needs torch only."""

from poise.monitor.diagnosis import Diagnosis, diagnose
from poise.monitor.judge import Judge, judged
from poise.monitor.monitor import CADENCE, Monitor
from poise.monitor.probes import SpectrumProbe, UpdateProbe, gradient_norms, gradient_variances, weights
from poise.monitor.thresholds import Thresholds
from poise.monitor.verdict import FAILURES, VERDICTS, Finding, Verdict

__all__ = [
    "CADENCE",
    "FAILURES",
    "VERDICTS",
    "Diagnosis",
    "Finding",
    "Judge",
    "Monitor",
    "SpectrumProbe",
    "Thresholds",
    "UpdateProbe",
    "Verdict",
    "diagnose",
    "gradient_norms",
    "gradient_variances",
    "judged",
    "weights",
]
