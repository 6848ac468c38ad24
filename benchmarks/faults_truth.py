"""What really became of a run: mode coverage and a Fréchet distance at fixed steps, never the monitor's word.

A mode of a toy is covered if it has at least a fifth of its fair share of good points (within 3 standard deviations of
the centre). Stacked digits are named by the digits' classifier; a mode is covered if a sample has its three digits.
The Fréchet distance is taken on the classifier's features, or for points on fixed random cosines of several lengths,
because a ring and a blob share mean and covariance.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from poise.data.digits import StackedDigits
from poise.data.toys import Mixture, grid, ring
from poise.metrics.frechet import GaussianStatistics, frechet_distance
from poise.metrics.stacked_digits import judge_stacked_digits
from poise.sampling.images import to_float

POINTS, IMAGES = 2000, 500
"""samples a judgement of a toy and of stacked digits draws"""
FEATURES = 64
LOST_COVERAGE, LOST_DISTANCE = 0.5, {"ring": 5.0, "grid": 5.0, "digits": 3.0}
"""failed: less than this share of the reference's coverage, or more than so many times its distance"""
KEPT_COVERAGE, KEPT_DISTANCE = 0.75, {"ring": 3.0, "grid": 3.0, "digits": 2.0}
"""healthy: at least, at most; a run between the two is neither, and its setting is to be changed"""


@functools.cache
def mixture(name: str) -> Mixture:
    """The toys, wider than their papers' so that a run of a few seconds can learn them."""
    return {"ring": lambda: ring(radius=1.0, std=0.08), "grid": lambda: grid(3, 1.0, std=0.1)}[name]()


@dataclass(frozen=True)
class Judgement:
    """Attributes: step; coverage, modes covered from 0 to 1; good, share of good samples; distance, Fréchet's."""

    step: int
    coverage: float
    good: float
    distance: float


def judge(data: str, step: int, samples: Tensor) -> Judgement:
    """Judge samples: points (n, 2), or images (n, 3, 16, 16) in [−1, 1]. What is not finite covers nothing."""
    if not samples.isfinite().all():
        return Judgement(step, 0.0, 0.0, math.inf)
    if data == "digits":
        pixels = ((samples.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        found = judge_stacked_digits(iter([pixels]), _digits()).values
        return Judgement(step, found["modes"] / 1000, 1.0, found["fd_digits"])
    target = mixture(data)
    distance, nearest = torch.cdist(samples.double(), target.centres.double()).min(1)
    good = distance <= 3 * target.std
    share = torch.bincount(nearest[good], minlength=len(target.centres)) / len(samples)
    covered = (share >= 0.2 / len(target.centres)).float().mean().item()
    fitted = _statistics(samples)
    frechet = frechet_distance(fitted.mean, fitted.covariance, *_of_data(data))
    return Judgement(step, covered, good.float().mean().item(), frechet)


def real_batch(data: str, first: int, size: int, draw: torch.Generator) -> Tensor:
    """Real samples as the networks take them."""
    if data == "digits":
        return to_float(_digits().batch(first, size)[0])
    return mixture(data).sample(size, draw)


@functools.cache
def _digits() -> StackedDigits:
    return StackedDigits("train", 16, 0)


def _statistics(points: Tensor) -> GaussianStatistics:
    draw = torch.Generator().manual_seed(0)
    lengths = torch.tensor([0.5, 1.0, 2.0, 4.0]).repeat(FEATURES // 4)
    directions = torch.randn(2, FEATURES, generator=draw, dtype=torch.float64) * lengths
    phases = 2 * math.pi * torch.rand(FEATURES, generator=draw, dtype=torch.float64)
    fitted = GaussianStatistics(FEATURES)
    fitted.add((points.double() @ directions + phases).cos())
    return fitted


@functools.cache
def _of_data(data: str) -> tuple[Tensor, Tensor]:
    fitted = _statistics(mixture(data).sample(50_000, torch.Generator().manual_seed(1)))
    return fitted.mean, fitted.covariance


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        state: "failed", "healthy" or "unclear".
        halved_at: the judged step from which on coverage stays less than half of the healthy runs'; None: never.
        lost_at: the judged step from which on the run stays lost: coverage halved or distance grown past the limit,
            against the healthy runs at that step; or the first step with a number that is not finite; None: never.
        coverage, distance: at the end.
    """

    state: str
    halved_at: int | None
    lost_at: int | None
    coverage: float
    distance: float


def reference(healthy: Iterable[Mapping[str, Any]]) -> dict[float, tuple[float, float]]:
    """Median coverage and distance of one data's healthy runs, by the share of the run that is done."""
    by_share: dict[float, list[tuple[float, float]]] = {}
    for run in healthy:
        for entry in run["truth"]:
            key = round(entry["step"] / run["steps"], 3)
            by_share.setdefault(key, []).append((entry["coverage"], entry["distance"]))
    return {
        share: (statistics.median(c for c, _ in found), statistics.median(d for _, d in found))
        for share, found in sorted(by_share.items())
    }


def outcome(run: Mapping[str, Any], of_healthy: Mapping[float, tuple[float, float]]) -> Outcome:
    """What became of a run, against the healthy ones on the same data."""
    nothing = {"coverage": 0.0, "distance": math.inf}
    last = nothing if run["not_finite_at"] is not None else run["truth"][-1]
    coverage, distance = of_healthy[1.0]
    halved_at, lost_at = _since(run, of_healthy, lost_distance=math.inf), _since(run, of_healthy)
    if run["not_finite_at"] is not None:
        lost_at = min(lost_at or run["not_finite_at"], run["not_finite_at"])
    if lost_at is not None:
        state = "failed"
    elif last["coverage"] >= KEPT_COVERAGE * coverage and last["distance"] <= KEPT_DISTANCE[run["data"]] * distance:
        state = "healthy"
    else:
        state = "unclear"
    return Outcome(state, halved_at, lost_at, last["coverage"], last["distance"])


def _since(
    run: Mapping[str, Any], of_healthy: Mapping[float, tuple[float, float]], lost_distance: float | None = None
) -> int | None:
    """The judged step from which on coverage is halved, or the distance is as many times the healthy one's."""
    times = LOST_DISTANCE[run["data"]] if lost_distance is None else lost_distance
    found = None
    for entry in reversed(run["truth"]):
        coverage, distance = of_healthy[round(entry["step"] / run["steps"], 3)]
        if entry["coverage"] >= LOST_COVERAGE * coverage and entry["distance"] <= times * distance:
            break
        found = entry["step"]
    return found
