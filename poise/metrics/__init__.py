"""Judging images: mode coverage, FID, KID, IS, precision/recall, density/coverage, each named for what it is."""

from poise.metrics.classes import ClassScore, mode_kl, modes_covered
from poise.metrics.evaluation import MEASURES, Evaluation, Measure, can_judge, evaluate, figure_names, has_own_measures
from poise.metrics.extractor import Extractor
from poise.metrics.extractors import EXTRACTORS, default_extractor, register_extractor
from poise.metrics.figures import METRICS, Figure
from poise.metrics.frechet import GaussianStatistics, frechet_distance
from poise.metrics.judging import Judgement, judge
from poise.metrics.preprocessing import Preprocessing

__all__ = [
    "EXTRACTORS",
    "MEASURES",
    "METRICS",
    "ClassScore",
    "Evaluation",
    "Extractor",
    "Figure",
    "GaussianStatistics",
    "Judgement",
    "Measure",
    "Preprocessing",
    "can_judge",
    "default_extractor",
    "evaluate",
    "figure_names",
    "frechet_distance",
    "has_own_measures",
    "judge",
    "mode_kl",
    "modes_covered",
    "register_extractor",
]
