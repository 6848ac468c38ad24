"""A generator's figures over the truncation of its latents: fidelity against variety (Brock et al. 2019, figure 17)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any

from poise.data import Images
from poise.data.digits import StackedDigits
from poise.data.toys import Points
from poise.metrics.coverage import judge_points
from poise.metrics.evaluation import MEASURES, labelled
from poise.metrics.extractor import Extractor
from poise.metrics.extractors import extractor_named
from poise.metrics.features import Features
from poise.metrics.judging import is_images, judge
from poise.metrics.stacked_digits import judge_stacked_digits
from poise.sampling import Sampler

CURVE_METRICS = ("fid", "is")
ELLIPSES = ("…", "...")
MOST_THRESHOLDS = 200


def thresholds(given: str | float | Iterable[float]) -> list[float]:
    """Thresholds in σ, rising, each once: of numbers, or of words such as ``0.1,0.2,…,2``.

    Dots stand for all numbers from the two before them to the one after them, in equal steps.

    Raises:
        ValueError: no number, one that is not above 0, or dots without two numbers before and one after them.
    """
    if isinstance(given, str):
        found = _read(given)
    else:
        found = [float(given)] if isinstance(given, int | float) else [float(value) for value in given]
    wrong = [value for value in found if not (value > 0 and math.isfinite(value))]
    if wrong or not found:
        raise ValueError(f"truncation is {given!r}; give thresholds above 0, in σ, such as 0.1,0.2,…,2")
    if len(set(found)) > MOST_THRESHOLDS:
        raise ValueError(f"truncation has {len(set(found))} thresholds; at most {MOST_THRESHOLDS}")
    return sorted(set(found))


def _read(given: str) -> list[float]:
    words = [word.strip() for word in given.split(",") if word.strip()]
    found: list[float] = []
    for place, word in enumerate(words):
        if word not in ELLIPSES:
            try:
                found.append(float(word))
            except ValueError:
                raise ValueError(f"truncation has {word!r}; give numbers with commas, as 0.1,0.2,…,2") from None
            continue
        try:
            first, second, last = found[-2], found[-1], float(words[place + 1])
            steps = round((last - second) / (second - first))
        except (IndexError, ValueError, ZeroDivisionError, OverflowError):
            steps = -1
        if not 0 <= steps <= MOST_THRESHOLDS or not math.isclose(second + steps * (second - first), last, rel_tol=1e-6):
            raise ValueError(
                f"truncation is {given!r}; dots need two numbers before them and one after that their step leads to, "
                f"at most {MOST_THRESHOLDS} in all, as 0.1,0.2,…,2"
            )
        found += [round(second + step * (second - first), 9) for step in range(1, steps)]
    return found


def truncation_curve(
    sampler: Sampler,
    data: Images,
    truncation: str | float | Iterable[float],
    samples: int = 10_000,
    seed: int = 0,
    metrics: str | Iterable[str] | None = None,
    extractor: str | Extractor | None = None,
    precision: str = "fp32",
    standing: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Judge a generator at each threshold, all from the same seed, against real images that are looked at once.

    Args:
        sampler: the generator, with or without classes; its latents must be normal.
        data: what it is compared with. Stacked digits and points have measures of their own, unless metrics are named.
        truncation: as ``thresholds`` takes it.
        samples: images at each threshold. seed: which.
        metrics: of ``METRICS``; "fid" and "is" by default. extractor, precision: as ``judge`` takes them.
        standing: batches for batch norm's standing statistics, drawn at each threshold; 0 for the running averages.
        say: told of each threshold that is done.

    Returns:
        As kept in ``truncation.json``: what is equal for all points, and of each its threshold and metrics as
        ``evaluation.json`` holds them.
    """
    started = time.perf_counter()
    wanted = thresholds(truncation)
    if samples < 2:
        raise ValueError(f"samples is {samples}; a judgement needs at least 2 images")
    in_features = metrics is not None or extractor is not None or not isinstance(data, StackedDigits | Points)
    if in_features and not is_images(data):
        raise ValueError(
            f"{type(data).__name__} is not judged in an extractor's features; leave metrics and extractor out"
        )
    made: str | Extractor | None = extractor
    real: Features | None = None
    about: dict[str, Any] = {"extractor": "digits-classifier" if isinstance(data, StackedDigits) else "nearest centre"}
    if in_features and not isinstance(extractor, Extractor):
        made = extractor_named(extractor)
    points = []
    for threshold in wanted:
        if in_features:
            shown = labelled(sampler, samples, seed, threshold, standing)
            asked = CURVE_METRICS if metrics is None else metrics
            found = judge(shown, samples, data, asked, made, precision, sampler.device, real=real)
            real, told = found.real, found.to_json()
            figures = told.pop("metrics")
            about = {key: value for key, value in told.items() if key not in ("samples", "seconds")}
        else:
            figures = _own(sampler, data, samples, seed, threshold, standing)
        points.append({"threshold": threshold, "metrics": figures})
        say(f"truncation {threshold:g}: " + ", ".join(f"{name} {one['value']:.4g}" for name, one in figures.items()))
    seconds = round(time.perf_counter() - started, 3)
    return {"samples": samples, "seed": seed, "standing": standing, **about, "seconds": seconds, "points": points}


def _own(
    sampler: Sampler, data: Images, samples: int, seed: int, threshold: float, standing: int
) -> dict[str, dict[str, Any]]:
    """Figures of stacked digits or of points, by their own measures."""
    if isinstance(data, Points):
        drawn = sampler.sample(samples, seed=seed, truncation=threshold, standing=standing)
        values, intervals = judge_points(drawn, data.mixture)
        told = {"modes": (f"of {data.num_classes}", "higher"), "good": ("share within 3σ", "higher")}
    elif isinstance(data, StackedDigits):
        images = (part for part, _ in labelled(sampler, samples, seed, threshold, standing))
        values, intervals = judge_stacked_digits(images, data)
        told = {name: (measure.unit, measure.better) for name, measure in MEASURES.items()}
    else:
        raise TypeError(f"{type(data).__name__} has no measures of its own")
    return {
        name: {"value": float(value), "unit": told[name][0], "better": told[name][1], "n": samples}
        | ({"interval": list(intervals[name])} if name in intervals else {})
        for name, value in values.items()
    }
