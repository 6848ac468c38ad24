"""What a run's generator can make: held-out images made again, truncated latents, and where it began."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from poise.data.digits import StackedDigits
from poise.metrics.classes import ClassScore
from poise.metrics.digits_classifier import digits_classifier
from poise.metrics.evaluation import evaluate, labelled
from poise.metrics.generators import held_out_images, held_out_source
from poise.metrics.reconstruction import FINAL, RUNNING, reconstruct
from poise.metrics.stacked_digits import judge_stacked_digits
from poise.metrics.truncation import truncation_curve
from poise.sampling import to_float
from poise.studies.measures.networks import kept, sampler_at
from poise.studies.trial import Measured
from poise.training import Run

THRESHOLDS = (0.3, 0.5, 0.7, 1.0, 1.4, 2.0)
"""of truncation, in σ"""
FULL = 10.0
"""a threshold that changes nothing"""
TRUNCATED_SAMPLES = 500
IMAGES = 10_000
"""drawn at each threshold of other data than stacked digits"""
STANDING = 4  # batches


def reconstruction(
    run: Run, device: torch.device, images: int = 64, running: int = RUNNING, final: int = 200
) -> Measured:
    """Error of held-out images made again, at each kept step, and a longer search at the last (Xiang & Li 2017).

    Figures: "final", after ``final`` steps of search with the last network; "first" and "last", after ``running``
    steps at the first checkpoint and the last; "wander", the mean ``|ln|`` of one checkpoint's error over that of the
    one before, in the later half of training. Curve "reconstruction".

    Args:
        images: held out, the same for all runs. running, final: steps of search.
    """
    source = held_out_source(run.recipe.data.name, run.recipe.data.options)
    curve, ending = [], math.nan
    points = kept(run)[1:]
    for step in points:
        sampler = sampler_at(run, step, device)
        targets, y = held_out_images(sampler, source, images)
        asked = {running, final} if step == points[-1] else {running}
        found = reconstruct(sampler.generator, targets, y, asked)
        curve.append((step, found.mean(running)[0]))
        if step == points[-1]:
            ending = found.mean(final)[0]
    values = [value for _, value in curve]
    late = values[len(values) // 2 :]
    wander = [abs(math.log(after / before)) for before, after in itertools.pairwise(late)]
    figures = {"final": ending, "first": values[0], "last": values[-1]}
    figures |= {"wander": sum(wander) / len(wander)} if wander else {}
    return Measured(figures, {"reconstruction": curve})


def reconstruction_final(run: Run, device: torch.device) -> Measured:
    """As ``reconstruction``, with the paper's 2,000 steps and 200 images."""
    return reconstruction(run, device, images=200, final=FINAL)


def truncation(run: Run, device: torch.device) -> Measured:
    """Class score and Fréchet distance of the last generator over the truncation of its latents.

    With standing statistics. Of stacked digits the score is that of the first plane's ten: with ``labels: first`` it is
    what the labels ask for, as classes are on ImageNet. Figures at each threshold, in σ: "is/0.5", "fd/0.5" …,
    "is/full", "fd/full". Curves "truncation/is", "truncation/fd": by 1000·threshold.
    """
    data = run.data()
    sampler = sampler_at(run, kept(run)[-1], device)
    figures: dict[str, float] = {}
    scores, distances = [], []
    for threshold in (*THRESHOLDS, FULL):
        if isinstance(data, StackedDigits):
            drawn = [images for images, _ in labelled(sampler, TRUNCATED_SAMPLES, 0, threshold, STANDING)]
            score = first_plane_score(drawn, data.resolution)
            distance = judge_stacked_digits(iter(drawn), data).values["fd_digits"]
        else:
            point = truncation_curve(sampler, data, threshold, samples=IMAGES, standing=STANDING)["points"][0][
                "metrics"
            ]
            distance, score = (
                next(one["value"] for name, one in point.items() if name.startswith(kinds))
                for kinds in (("fid", "fd"), ("is", "score"))
            )
        name = "full" if threshold == FULL else f"{threshold:g}"
        figures |= {f"is/{name}": score, f"fd/{name}": distance}
        if threshold != FULL:
            scores.append((round(1000 * threshold), score))
            distances.append((round(1000 * threshold), distance))
    return Measured(figures, {"truncation/is": scores, "truncation/fd": distances})


@torch.no_grad()
def first_plane_score(batches: list[Tensor], resolution: int) -> float:
    """Inception-style score, 1 to 10, of the digits in the first plane of uint8 images (n, 3, R, R)."""
    classifier, score = digits_classifier(resolution), ClassScore(10)
    for images in batches:
        score.add(classifier(to_float(images[:, :1].contiguous()))[1].softmax(1))
    return score.value


def untrained(run: Run, device: torch.device) -> Measured:
    """The figures of the generator before the first step, by the data's judge, of 1,000 images."""
    found = evaluate(sampler_at(run, 0, device), run.data(), samples=1_000)
    return Measured(found.values)
