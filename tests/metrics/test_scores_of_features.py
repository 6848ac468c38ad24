"""Class score, kernel distance and Fréchet distance on random features against torch-fidelity and pytorch-fid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from poise.metrics import GaussianStatistics, frechet_distance
from poise.metrics.inception_score import SplitScores
from poise.metrics.intra_class import frechet_distance_of_features, intra_class_distances
from poise.metrics.kernel_distance import kernel_distances, kernel_standard_error, squared_mmd
from poise.metrics.uncertainty import distance_from_root, square_root


def drawn(n: int, dim: int, seed: int, shift: float = 0.0) -> Tensor:
    """Correlated features that are never below 0, as a network's."""
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(dim, dim)) / dim**0.5
    return torch.tensor(np.maximum(random.normal(size=(n, dim)) @ mixing + shift, 0), dtype=torch.float32)


def statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    found = GaussianStatistics(features.shape[1])
    for part in features.split(37):
        found.add(part)
    return found.mean, found.covariance


@pytest.mark.parametrize(("n", "dim"), [(300, 64), (100, 200)])
def test_the_frechet_distance_is_torch_fidelitys_and_pytorch_fids(n: int, dim: int) -> None:
    room = pytest.importorskip("torch_fidelity.metric_fid")
    a, b = drawn(n, dim, 0), drawn(n, dim, 1, 0.1)
    stats = [room.fid_features_to_statistics(x.double()) for x in (a, b)]
    theirs = room.fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]
    mean, covariance = statistics(a)
    real_mean, real_covariance = statistics(b)
    expected = pytest.approx(theirs, rel=1e-5)
    assert frechet_distance(mean, covariance, real_mean, real_covariance) == expected
    assert distance_from_root(mean, covariance, real_mean, square_root(real_covariance)) == expected
    assert frechet_distance_of_features(a, b) == expected
    fid_score = pytest.importorskip("pytorch_fid.fid_score", reason="pytorch-fid is not installed")
    if n > dim:  # its root of a singular product is not finite, and is replaced by another
        arguments = [part for x in stats for part in (x["mu"], x["sigma"])]
        assert fid_score.calculate_frechet_distance(*arguments) == expected


@pytest.mark.parametrize(("n", "splits"), [(500, 10), (503, 10), (64, 1)])
def test_the_class_score_is_torch_fidelitys(n: int, splits: int) -> None:
    room = pytest.importorskip("torch_fidelity.metric_isc")
    logits = 3 * drawn(n, 40, 0)
    theirs = room.isc_features_to_metric(logits, splits=splits)
    scores = SplitScores(n, 40, splits)
    for part in logits.split(41):
        scores.add(part)
    assert scores.values().mean().item() == pytest.approx(theirs["inception_score_mean"], rel=1e-9)
    assert scores.values().std(correction=0).item() == pytest.approx(theirs["inception_score_std"], rel=1e-6, abs=1e-12)


def test_a_class_score_before_all_images_is_refused() -> None:
    scores = SplitScores(10, 3, 2)
    scores.add(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="4 of 10 images were added"):
        scores.values()
    with pytest.raises(ValueError, match="splits is 11; allowed: 1 to the number of images, 10"):
        SplitScores(10, 3, 11)


def test_the_kernel_distance_is_torch_fidelitys() -> None:
    room = pytest.importorskip("torch_fidelity.metric_kid")
    a, b = drawn(400, 64, 0), drawn(300, 64, 1, 0.05)
    theirs = room.kid_features_to_metric(a, b, kid_subsets=20, kid_subset_size=100, verbose=False)
    ours = kernel_distances(a, b, 20, 100)
    assert ours.mean().item() == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)
    assert ours.std(correction=0).item() == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-3)


def test_the_kernel_distance_is_the_unbiased_formula() -> None:
    x, y = drawn(7, 5, 0).double(), drawn(7, 5, 1).double()

    def kernel(a: Tensor, b: Tensor) -> float:
        return float((a @ b / 5 + 1) ** 3)

    pairs = [(i, j) for i in range(7) for j in range(7)]
    within = sum(kernel(z[i], z[j]) for z in (x, y) for i, j in pairs if i != j) / 42
    between = sum(kernel(x[i], y[j]) for i, j in pairs) / 49
    assert squared_mmd(x, y).item() == pytest.approx(within - 2 * between, rel=1e-9)


def test_the_kernel_distances_error_is_what_fresh_draws_of_the_generator_vary_by() -> None:
    real = drawn(400, 16, 1000, 0.3)
    draws = [drawn(400, 16, seed) for seed in range(80)]
    errors = [kernel_standard_error(generated, real, block=150) for generated in draws]
    spread = torch.stack([squared_mmd(generated, real) for generated in draws]).std().item()
    assert np.mean(errors) == pytest.approx(spread, rel=0.2)


def test_a_subset_larger_than_the_features_is_refused() -> None:
    with pytest.raises(ValueError, match=r"size is 8; .* 9 generated, 7 real"):
        kernel_distances(drawn(9, 3, 0), drawn(7, 3, 0), size=8)


def test_within_classes_each_distance_is_that_of_the_classs_features() -> None:
    a, b = drawn(90, 8, 0), drawn(120, 8, 1, 0.2)
    of_a, of_b = torch.arange(90) % 3, torch.arange(120) % 4
    found = intra_class_distances(a, of_a, b, of_b)
    for label in range(3):
        expected = frechet_distance_of_features(a[of_a == label], b[of_b == label])
        assert found[label].item() == pytest.approx(expected)
    assert found[3].isnan()
