"""Judging any images against any others, in an extractor's features."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from poise.data import Images
from poise.data.stored import StoredImages
from poise.metrics.extractor import Extractor
from poise.metrics.extractors import extractor_named
from poise.metrics.features import Batches, Features, available, extract, reference_features
from poise.metrics.figures import DEFAULT_METRICS, METRICS, Figure, Pair, chosen
from poise.metrics.inception_score import SPLITS
from poise.metrics.sheets import Numbered, neighbours_sheet

REFERENCE = 50_000
"""real images compared with at most, as many as the papers take"""


@dataclass(frozen=True)
class Judgement:
    """All figures of one pair of image sets, with the extractor's description and the seconds of the whole."""

    figures: list[Figure]
    about: dict[str, str]
    n: int
    n_real: int
    seconds: float
    real: Features | None = field(default=None, repr=False)
    """of the images compared with"""
    pictures: dict[str, Image.Image] = field(default_factory=dict)
    """to judge by eye, by name"""

    def to_json(self) -> dict[str, Any]:
        """As kept in ``evaluation.json``."""
        return {
            "samples": self.n,
            "real_samples": self.n_real,
            **self.about,
            **({"reference": self.real.fingerprint[:16]} if self.real and self.real.fingerprint else {}),
            "seconds": round(self.seconds, 3),
            "metrics": {figure.name: figure.to_json() for figure in self.figures},
        }


def is_images(data: Any) -> bool:
    """Whether a source gives uint8 images of three channels."""
    if isinstance(data, StoredImages):
        return True
    batch = getattr(data, "batch", None)
    if batch is None:
        return False
    images = batch(0, 1)[0]
    return bool(images.dtype == torch.uint8 and images.ndim == 4 and images.shape[1] == 3)


def judge(
    batches: Batches,
    n: int,
    against: Images,
    metrics: str | Iterable[str] = DEFAULT_METRICS,
    extractor: str | Extractor | None = None,
    precision: str = "fp32",
    device: str | torch.device = "cpu",
    most_real: int = REFERENCE,
    intervals: bool = True,
    real: Features | None = None,
    numbered: Numbered | None = None,
) -> Judgement:
    """Judge n images against a data source.

    Args:
        batches: what is judged: uint8 images (size, 3, H, W) and labels or None, n in all; taken once, never kept.
        against: real images, of which at most ``most_real`` are taken; their statistics are cached.
        metrics: of ``METRICS``.
        extractor: of ``EXTRACTORS``, with a file of weights after a colon if wanted, or one itself; InceptionV3 by
            default where its weights are, else EfficientNet-Lite0.
        precision: "fp32" or "bf16". device: where the extractor computes.
        intervals: also for metrics that would need no features kept in memory otherwise.
        real: a former judgement's, of as many images against the same, with the same metrics and extractor: those
            compared with are not looked at again.
        numbered: gives images of ``batches`` once more, by their numbers, for the picture of their nearest.

    Raises:
        ValueError: an unknown name, fewer than 2 images, weights that are missing, or what a metric needs is not there.
    """
    started = time.perf_counter()
    names = chosen(metrics)
    if n < 2:
        raise ValueError(f"samples is {n}; a judgement needs at least 2 images")
    made = extractor if isinstance(extractor, Extractor) else extractor_named(extractor)
    made = made.to(device, precision)
    wanted = [METRICS[name] for name in names]
    if any(metric.labels for metric in wanted) and not against.num_classes:
        raise ValueError("intra-fid needs classes; the images compared with have none")
    n_real = available(against, most_real)
    keep = (n_real if any(m.every for m in wanted) else min(n, n_real)) if any(m.features for m in wanted) else 0
    splits = min(SPLITS, n // 2) if any(metric.splits for metric in wanted) else 0
    generated = extract(_of_size(batches, against.resolution), n, made, keep=keep > 0 or intervals, splits=splits)
    real = reference_features(against, n_real, made, keep) if real is None else real
    _warn(names, generated, real, made)
    pair = Pair(generated, real, made)
    figures = []
    for metric in wanted:
        clock = time.perf_counter()
        found = metric.take(pair)
        spent = time.perf_counter() - clock
        figures += [
            Figure(called, value, unit, better, reach, generated.n, spent, note)
            for called, value, unit, better, reach, note in found
        ]
    pictures = {}
    if pair.nearest is not None and numbered is not None:
        pictures["neighbours"] = neighbours_sheet(pair.nearest, numbered, against)
    spent = time.perf_counter() - started
    return Judgement(figures, made.describe(), generated.n, real.n, spent, real, pictures)


def _of_size(batches: Batches, resolution: int) -> Batches:
    """The same, refusing images that differ in size from those compared with: resizing would be what is judged."""
    for images, labels in batches:
        if images.shape[-1] != resolution:
            raise ValueError(
                f"the images judged have {images.shape[-1]} pixels, those compared with have {resolution}; give both "
                f"one size: --resolution brings folders to it"
            )
        yield images, labels


def _warn(names: list[str], generated: Features, real: Features, extractor: Extractor) -> None:
    dim = len(real.mean)
    few = {"generated": generated.n, "real": real.n}
    for what, n in few.items():
        if n <= dim and any("fid" in name for name in names):
            warnings.warn(
                f"{n} {what} images and {dim} features: the covariance is singular, {extractor.figure('fid')} is far "
                f"above that of many images; compare it only with figures of equal n, or take more than {dim}",
                RuntimeWarning,
                stacklevel=3,
            )
