"""Judging a generator: mode coverage, class score and Fréchet distance, each named for what it is."""

from poise.metrics.classes import ClassScore, mode_kl, modes_covered
from poise.metrics.evaluation import MEASURES, Evaluation, Measure, can_judge, evaluate
from poise.metrics.frechet import GaussianStatistics, frechet_distance

__all__ = [
    "MEASURES",
    "ClassScore",
    "Evaluation",
    "GaussianStatistics",
    "Measure",
    "can_judge",
    "evaluate",
    "frechet_distance",
    "mode_kl",
    "modes_covered",
]
