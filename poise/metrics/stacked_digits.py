"""How well images of stacked digits cover the 1000 modes and look like digits (Metz et al. 2017, section 3.3.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from poise.data.digits import StackedDigits
from poise.metrics.classes import ClassScore, mode_kl, modes_covered
from poise.metrics.coverage import Measured
from poise.metrics.digits_classifier import FEATURES, digits_classifier
from poise.metrics.frechet import GaussianStatistics, frechet_distance
from poise.metrics.uncertainty import (
    frechet_standard_error,
    interval,
    kl_standard_error,
    modes_interval,
    score_interval,
    square_root,
)
from poise.sampling import to_float

MODES = 1000


@torch.no_grad()
def judge_stacked_digits(batches: Iterator[Tensor], data: StackedDigits) -> Measured:
    """Modes covered, KL, Inception-style score and Fréchet distance, with their intervals over drawn images.

    Images are never kept; of each its 192 features and 30 log-probabilities are.

    Args:
        batches: uint8 images (n, 3, R, R).
        data: the source whose modes and statistics are the measure.
    """
    classifier = digits_classifier(data.resolution)
    counts = torch.zeros(MODES, dtype=torch.int64)
    score = ClassScore(MODES)
    fitted = GaussianStatistics(3 * FEATURES)
    kept: list[Tensor] = []
    planes: list[Tensor] = []
    for images in batches:
        features, logits = _by_plane(classifier, images)
        digit = logits.argmax(2)
        counts += torch.bincount(digit @ torch.tensor([100, 10, 1]), minlength=MODES)
        planes.append(logits.log_softmax(2))
        score.add(_stacks(planes[-1]).exp())
        fitted.add(features)
        kept.append(features)
    n, (mean, covariance) = score.n, _exact_statistics(classifier, data)
    values = {
        "modes": modes_covered(counts),
        "kl": mode_kl(counts, data.mode_distribution()),
        "score_digits": score.value,
        "fd_digits": frechet_distance(fitted.mean, fitted.covariance, mean, covariance),
    }
    if n < 2:
        return Measured(values, {})
    log_marginal = score.marginal.clamp_min(1e-300).log()
    gains = []
    for part in planes:
        log_p = _stacks(part).double()
        gains.append((log_p.exp() * (log_p - log_marginal)).sum(1))
    error = frechet_standard_error(torch.cat(kept), mean, square_root(covariance))
    return Measured(
        values,
        {
            "modes": modes_interval(counts),
            "kl": interval(values["kl"], kl_standard_error(counts, data.mode_distribution())),
            "score_digits": score_interval(values["score_digits"], torch.cat(gains)),
            "fd_digits": interval(values["fd_digits"], error),
        },
    )


def _stacks(planes: Tensor) -> Tensor:
    """Log-probabilities of digits (n, 3, 10) ↦ of stacks (n, 1000): the planes are independent."""
    r, g, b = planes.unbind(1)
    return (r[:, :, None, None] + g[:, None, :, None] + b[:, None, None, :]).flatten(1)


def _by_plane(classifier: Callable[[Tensor], tuple[Tensor, Tensor]], images: Tensor) -> tuple[Tensor, Tensor]:
    """Features (n, 3·64) and logits (n, 3, 10) of stacked images."""
    features, logits = classifier(to_float(images.contiguous()).flatten(0, 1).unsqueeze(1))
    return features.unflatten(0, (-1, 3)).flatten(1), logits.unflatten(0, (-1, 3))


def _exact_statistics(
    classifier: Callable[[Tensor], tuple[Tensor, Tensor]], data: StackedDigits
) -> tuple[Tensor, Tensor]:
    """Mean and covariance of all stacks' features: the planes are independent, so no sampling is needed."""
    single = classifier(to_float(data.planes[:, None]))[0].double()
    return single.mean(0).repeat(3), torch.block_diag(*[single.T.cov(correction=0)] * 3)
