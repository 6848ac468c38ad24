"""Figures by name: which there are, how each is taken of two sets of features, and what its interval means."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from poise.metrics.extractor import Extractor
from poise.metrics.features import Features
from poise.metrics.inception_score import SPLITS
from poise.metrics.intra_class import intra_class_distances
from poise.metrics.kernel_distance import SUBSET_SIZE, kernel_distances, kernel_standard_error
from poise.metrics.memorization import K, Nearest, nearest_training_images
from poise.metrics.neighbours import NeighbourScores, neighbour_scores
from poise.metrics.uncertainty import (
    bootstrap_interval,
    distance_from_root,
    frechet_infinity,
    frechet_standard_error,
    interval,
    share_interval,
)
from poise.registry import Registry

STUDENT_95 = 2.262  # of Student's t with 9 degrees of freedom, for the 10 splits of a class score


@dataclass(frozen=True)
class Figure:
    """One number and what it rests on.

    Attributes:
        name: with the extractor in it where the measure's own name belongs to another.
        value, unit, better: "higher" or "lower".
        interval: 95%, or None where it is not known.
        n: generated images. seconds: spent on it once features were there.
        note: what the interval means, or what else must be known.
    """

    name: str
    value: float
    unit: str
    better: str
    interval: tuple[float, float] | None
    n: int
    seconds: float
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """As kept in ``evaluation.json``."""
        kept: dict[str, Any] = {"value": self.value, "unit": self.unit, "better": self.better, "n": self.n}
        if self.interval is not None:
            kept["interval"] = list(self.interval)
        return kept | {"seconds": round(self.seconds, 3)} | ({"note": self.note} if self.note else {})


@dataclass
class Pair:
    """Generated images' features beside real ones', and what several measures share."""

    generated: Features
    real: Features
    extractor: Extractor
    nearest: Nearest | None = None
    """of each generated image, once it was asked for"""

    @property
    def root(self) -> Tensor:
        """The real covariance's root."""
        return self.real.root

    def kept(self) -> tuple[Tensor, Tensor]:
        """Features of the generated and of the real images."""
        if self.generated.features is None or self.real.features is None:
            raise RuntimeError("features were not kept for a measure that needs them")
        return self.generated.features, self.real.features

    def neighbours(self, k: int, strict: bool) -> NeighbourScores:
        """Of as many real features as there are generated ones, where there are."""
        generated, real = (features.to(self.extractor.device) for features in self.kept())
        return neighbour_scores(generated, real[: len(generated)], k, strict)


Found = tuple[str, float, str, str, tuple[float, float] | None, str]


def fid(pair: Pair) -> list[Found]:
    """Fréchet distance; biased upwards by few images."""
    value = distance_from_root(pair.generated.mean, pair.generated.covariance, pair.real.mean, pair.root)
    reach, note = None, ""
    if pair.generated.features is not None:
        error = frechet_standard_error(pair.generated.features, pair.real.mean, pair.root)
        reach, note = interval(value, error), "infinitesimal jackknife over images; the bias of finite n is not in it"
    return [(pair.extractor.figure("fid"), value, "squared feature units", "lower", reach, note)]


def fid_infinity(pair: Pair) -> list[Found]:
    """Fréchet distance at infinitely many images, by extrapolation in 1/n."""
    features, _ = pair.kept()
    value, of_line = frechet_infinity(features, pair.real.mean, pair.root)
    error = (of_line**2 + frechet_standard_error(features, pair.real.mean, pair.root) ** 2) ** 0.5
    note = "line in 1/n through 15 parts, from a tenth of the images to all"
    name = pair.extractor.figure("fid_infinity")
    return [(name, value, "squared feature units", "lower", interval(value, error), note)]


def kid(pair: Pair) -> list[Found]:
    """Kernel distance; unbiased, and a little below 0 at times."""
    generated, real = pair.kept()
    generated, real = generated.to(pair.extractor.device), real.to(pair.extractor.device)
    size = min(SUBSET_SIZE, len(generated), len(real))
    distances = kernel_distances(generated, real, size=size)
    value = distances.mean().item()
    note = f"{len(distances)} subsets of {size}"
    name = pair.extractor.figure("kid")
    reach = interval(value, kernel_standard_error(generated, real))
    return [(name, value, "squared kernel units", "lower", reach, note)]


def class_score(pair: Pair) -> list[Found]:
    """Class score: sure of each image, many classes over all."""
    scores = pair.generated.scores
    if scores is None:
        raise RuntimeError("class scores were not taken")
    value, splits = scores.mean().item(), len(scores)
    reach = None
    if splits == SPLITS:
        half = STUDENT_95 * scores.std().item() / splits**0.5
        reach = (value - half, value + half)
    return [(pair.extractor.figure("is"), value, "classes", "higher", reach, f"{splits} splits, between them")]


def precision_recall(pair: Pair) -> list[Found]:
    """Precision and recall, k = 3, closed balls (Kynkäänniemi et al. 2019)."""
    found = pair.neighbours(3, strict=False)
    return [
        ("precision", found.precision, "share", "higher", share_interval(found.precision, found.n_generated), "k = 3"),
        ("recall", found.recall, "share", "higher", share_interval(found.recall, found.n_real), "k = 3"),
    ]


def density_coverage(pair: Pair) -> list[Found]:
    """Density and coverage, k = 5, open balls (Naeem et al. 2020)."""
    found = pair.neighbours(5, strict=True)
    error = found.around.double().std().item() / found.k / found.n_generated**0.5
    reach = share_interval(found.coverage, found.n_real)
    return [
        ("density", found.density, "1 is as real", "higher", interval(found.density, error), "k = 5"),
        ("coverage", found.coverage, "share", "higher", reach, "k = 5"),
    ]


def intra_fid(pair: Pair) -> list[Found]:
    """Fréchet distance within each class, mean over classes."""
    generated, real = pair.kept()
    if pair.generated.labels is None or pair.real.labels is None:
        raise ValueError("intra-fid needs classes on both sides; these images have none")
    distances = intra_class_distances(generated, pair.generated.labels, real, pair.real.labels)
    known = distances[~distances.isnan()]
    if not len(known):
        raise ValueError("intra-fid needs at least 2 images of a class on both sides; draw more samples")
    name = pair.extractor.figure("intra_fid")
    reach = bootstrap_interval(known) if len(known) > 1 else None
    note = f"mean over {len(known)} of {len(distances)} classes" + (", bootstrap over them" if reach else "")
    return [(name, known.mean().item(), "squared feature units", "lower", reach, note)]


def memorization(pair: Pair) -> list[Found]:
    """Generated images as near to a training image as few of those are to each other, and those that are further."""
    generated, real = (features.to(pair.extractor.device) for features in pair.kept())
    found = pair.nearest = nearest_training_images(generated, real, min(K, len(real) - 1))
    share, authentic = found.duplicate.double().mean().item(), found.authentic.double().mean().item()
    n = len(found.duplicate)
    searched = f"{found.n_real} training images searched"
    note = f"new images would give {found.expected:.2g}, as {found.tried} training images do; {searched}"
    return [
        ("duplicates", share, "share", "lower", share_interval(share, n), note),
        ("authenticity", authentic, "share", "higher", share_interval(authentic, n), searched),
    ]


def reconstruction(pair: Pair) -> list[Found]:
    """Not to be had from images: ``poise.metrics.generators`` takes it of a generator."""
    raise ValueError("reconstruction needs a generator to seek latents of; give a run or a generator's file")


@dataclass(frozen=True)
class Metric:
    """How a metric is taken, and whether it needs features, of every real image, splits of a class score, or labels."""

    take: Callable[[Pair], list[Found]]
    features: bool = True
    splits: bool = False
    labels: bool = False
    every: bool = False


METRICS: Registry[Metric] = Registry(
    "metric",
    {
        "fid": Metric(fid, features=False),
        "kid": Metric(kid),
        "is": Metric(class_score, features=False, splits=True),
        "pr": Metric(precision_recall),
        "dc": Metric(density_coverage),
        "fid-infinity": Metric(fid_infinity),
        "intra-fid": Metric(intra_fid, labels=True, every=True),
        "memorization": Metric(memorization, every=True),
        "reconstruction": Metric(reconstruction, features=False),
        "reconstruction-2000": Metric(reconstruction, features=False),
    },
)
DEFAULT_METRICS = ("fid", "kid", "is", "pr", "dc")


def chosen(metrics: str | Iterable[str]) -> list[str]:
    """Names of metrics, of a list or of words between commas. ValueError for an unknown one, or none."""
    names = [name.strip() for name in metrics.split(",")] if isinstance(metrics, str) else list(metrics)
    names = list(dict.fromkeys(name for name in names if name))
    for name in names:
        METRICS[name]
    if not names:
        raise ValueError(f"no metric is named; known: {', '.join(METRICS)}")
    return names
