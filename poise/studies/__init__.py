"""Studies: the papers' claims as data. A claim's grid of runs, the outcomes, its judge, and the page they end on."""

from poise.studies.claim import Arms, Claim, Judgement
from poise.studies.results import results
from poise.studies.search import search
from poise.studies.statistics import Interval, difference, interval, values
from poise.studies.trial import Measured, Outcome, Trial

__all__ = [
    "Arms",
    "Claim",
    "Interval",
    "Judgement",
    "Measured",
    "Outcome",
    "Trial",
    "difference",
    "interval",
    "results",
    "search",
    "values",
]
