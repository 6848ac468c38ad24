"""Judging a generator against a data source: which measures there are, and one call that takes them all."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from poise.data import Images
from poise.data.digits import StackedDigits
from poise.data.toys import Points
from poise.metrics.coverage import judge_points
from poise.metrics.extractor import INCEPTION, OWN_NAMES, Extractor
from poise.metrics.extractors import EXTRACTORS, default_extractor
from poise.metrics.figures import DEFAULT_METRICS
from poise.metrics.generators import STEPS, judge_generator
from poise.metrics.judging import Judgement, is_images
from poise.metrics.stacked_digits import judge_stacked_digits
from poise.sampling import Sampler, labels

BATCH = 1000  # images judged at once


@dataclass(frozen=True)
class Measure:
    """What a figure is: its unit and whether more is better."""

    unit: str
    better: str


MEASURES = {
    "modes": Measure("of 1000", "higher"),
    "kl": Measure("nats", "lower"),
    "score_digits": Measure("classes", "higher"),
    "fd_digits": Measure("squared feature units", "lower"),
}


@dataclass(frozen=True)
class Evaluation:
    """The figures of one judgement and how they were come by."""

    values: dict[str, float]
    samples: int
    seed: int
    extractor: str
    seconds: float
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """95%, over drawn images"""
    reference: dict[str, float] = field(default_factory=dict)
    """what as many images of the held-out split score"""
    measures: Mapping[str, Measure] = field(default_factory=lambda: MEASURES)
    """what the figures are"""
    judgement: Judgement | None = None
    """of what was judged in an extractor's features: intervals, preprocessing and the rest"""

    def to_record(self) -> dict[str, float]:
        """As one line of ``metrics.jsonl`` holds it."""
        return {**self.values, "samples": self.samples, "seconds": self.seconds}

    def to_json(self) -> dict[str, Any]:
        """As kept in ``evaluation.json``."""
        if self.judgement is not None:
            return {**self.judgement.to_json(), "seed": self.seed}
        metrics = {}
        for name, value in self.values.items():
            measure = self.measures[name]
            entry = {"value": value, "unit": measure.unit, "better": measure.better, "n": self.samples}
            if name in self.intervals:
                entry["interval"] = list(self.intervals[name])
            if name in self.reference:
                entry["reference"] = self.reference[name]
            metrics[name] = entry
        return {
            "samples": self.samples,
            "seed": self.seed,
            "extractor": self.extractor,
            "preprocessing": "none",
            "seconds": round(self.seconds, 3),
            "metrics": metrics,
        }


def figure_names() -> list[str]:
    """All names that figures of any judge have."""
    own = [own.format(name.replace("-", "_")) for name in EXTRACTORS if name != INCEPTION for own in OWN_NAMES.values()]
    rest = ("precision", "recall", "density", "coverage", "duplicates", "authenticity")
    return [*MEASURES, "good", *OWN_NAMES, *rest, *(f"reconstruction_{steps}" for steps in STEPS.values()), *own]


def has_own_measures(data: Images) -> bool:
    """Whether the source is judged by its known modes, and needs no extractor."""
    return isinstance(data, StackedDigits | Points)


def can_judge(data: Images) -> bool:
    """Whether there are measures for data of this source, with what is installed."""
    if has_own_measures(data):
        return True
    try:
        default_extractor()
    except ValueError:
        return False
    return is_images(data)


def evaluate(
    sampler: Sampler,
    data: Images,
    samples: int = 10_000,
    seed: int = 0,
    with_reference: bool = False,
    metrics: str | Iterable[str] | None = None,
    extractor: str | Extractor | None = None,
    precision: str = "fp32",
    held_out: Images | None = None,
) -> Evaluation:
    """Judge a generator: stacked digits by their own measures; other images, or if asked, in an extractor's features.

    Args:
        sampler: the generator.
        data: the source it was trained on.
        samples: images drawn, at least 2.
        seed: which images.
        with_reference: judge as many held-out real images too, where the source has some.
        metrics, extractor, precision: as ``poise.metrics.judge`` takes them.
        held_out: images to reconstruct; of stacked digits those of the split for testing by default.

    Raises:
        ValueError: fewer than 2 samples, or a source that has no judge.
    """
    if samples < 2:
        raise ValueError(f"samples is {samples}; a judgement needs at least 2 images")
    if isinstance(data, Points):
        if metrics is not None or extractor is not None:
            raise ValueError(
                "points in the plane are judged by modes and good; extractors and their metrics see images"
            )
        return _evaluate_points(sampler, data, samples, seed, with_reference)
    if not isinstance(data, StackedDigits) or metrics is not None or extractor is not None:
        if not is_images(data):
            raise ValueError(
                f"no judge for {type(data).__name__}; there is one for StackedDigits, one for Points, one for images"
            )
        metrics = DEFAULT_METRICS if metrics is None else metrics
        if held_out is None and isinstance(data, StackedDigits):
            held_out = StackedDigits("test", data.resolution, seed)
        drawn = labelled(sampler, samples, seed)
        found = judge_generator(sampler, drawn, samples, seed, data, metrics, extractor, precision, held_out)
        return Evaluation(
            {figure.name: figure.value for figure in found.figures},
            samples,
            seed,
            found.about["extractor"],
            found.seconds,
            measures={figure.name: Measure(figure.unit, figure.better) for figure in found.figures},
            judgement=found,
        )
    started = time.perf_counter()
    values, intervals = judge_stacked_digits(_drawn(sampler, samples, seed), data)
    reference = {}
    if with_reference:
        held_out = StackedDigits("test", data.resolution, seed)
        real = (held_out.batch(first, size)[0] for first, size in _spans(samples))
        reference = judge_stacked_digits(real, data).values
    seconds = time.perf_counter() - started
    return Evaluation(values, samples, seed, "digits-classifier", seconds, intervals, reference)


def _evaluate_points(sampler: Sampler, data: Points, samples: int, seed: int, with_reference: bool) -> Evaluation:
    """Modes covered and the share of good points; the reference is as many real points of another series."""
    started = time.perf_counter()
    drawn = torch.cat([sampler.sample(size, seed=seed, start=first) for first, size in _spans(samples)])
    values, intervals = judge_points(drawn, data.mixture)
    reference = {}
    if with_reference:
        held_out = Points(data.mixture, seed, f"{data.stream}-test")
        reference = judge_points(held_out.batch(0, samples)[0], data.mixture).values
    measures = {"modes": Measure(f"of {data.num_classes}", "higher"), "good": Measure("share within 3σ", "higher")}
    seconds = time.perf_counter() - started
    return Evaluation(values, samples, seed, "nearest centre", seconds, intervals, reference, measures)


def _drawn(sampler: Sampler, samples: int, seed: int) -> Iterator[Tensor]:
    for first, size in _spans(samples):
        yield sampler.sample(size, seed=seed, start=first).permute(0, 3, 1, 2)


def labelled(
    sampler: Sampler, samples: int, seed: int, truncation: float | None = None, standing: int = 0
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """A generator's images, uint8 (size, 3, H, W), and the labels they were drawn for, None without classes."""
    for first, size in _spans(samples):
        images = sampler.sample(size, seed=seed, start=first, truncation=truncation, standing=standing)
        yield images.permute(0, 3, 1, 2), labels(sampler.generator, seed, first, size)


def _spans(samples: int) -> Iterator[tuple[int, int]]:
    for first in range(0, samples, BATCH):
        yield first, min(BATCH, samples - first)
