"""Latents and labels: their distributions, by tests of fit; the same sample whatever the batch; wrong ones refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from poise import noise
from poise.sampling import LATENTS, labels, latents, truncated

MANY = torch.arange(20_000)
EACH = pytest.mark.parametrize("name", LATENTS)


class Sizes(nn.Module):
    """What of a generator matters here."""

    def __init__(self, latent_dim: int = 3, num_classes: int = 0) -> None:
        super().__init__()
        self.latent_dim, self.num_classes = latent_dim, num_classes


def draw(name: str, width: int = 3, seed: int = 0, **options: Any) -> Tensor:
    return LATENTS.build(name, **options)(seed, "latent", MANY, width)


@EACH
def test_latents_are_float32_of_the_shape_asked_for(name: str) -> None:
    z = draw(name, width=5)
    assert (z.dtype, z.shape) == (torch.float32, (len(MANY), 5))
    assert z.isfinite().all()


@EACH
@given(start=st.integers(0, 2**40), total=st.integers(1, 30), data=st.data())
@settings(max_examples=15, deadline=None)
def test_a_latent_is_the_same_whatever_the_batch(name: str, start: int, total: int, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, total))

    def numbered(first: int, size: int) -> Tensor:
        return latents(Sizes(), 3, first, size, distribution=LATENTS.build(name))

    parts = [numbered(start, cut), numbered(start + cut, total - cut)]
    assert torch.equal(torch.cat(parts), numbered(start, total))


@EACH
def test_coordinates_seeds_and_streams_are_independent(name: str) -> None:
    latent = LATENTS.build(name)
    columns = torch.cat([latent(0, "latent", MANY, 3), latent(1, "latent", MANY, 3), latent(0, "other", MANY, 3)], 1)
    correlation = columns.double().T.corrcoef()
    assert (correlation - torch.eye(9)).abs().max() < 5 / len(MANY) ** 0.5


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("normal", {}, stats.norm()),
        ("uniform", {}, stats.uniform(-1, 2)),
        ("uniform", {"low": 2.0, "high": 5.0}, stats.uniform(2, 3)),
        *(("truncated-normal", {"threshold": t}, stats.truncnorm(-t, t)) for t in (0.01, 0.04, 0.5, 1.0, 2.0, 4.0)),
        ("truncated-normal", {"threshold": math.inf}, stats.norm()),
    ],
)
def test_continuous_latents_have_their_distribution(name: str, options: dict[str, Any], expected: Any) -> None:
    for column in draw(name, **options).double().numpy().T:
        assert stats.kstest(column, expected.cdf).pvalue > 0.005
        assert column.mean() == pytest.approx(expected.mean(), abs=4 * expected.std() / len(MANY) ** 0.5)
        assert column.std() == pytest.approx(expected.std(), rel=0.03)


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_bernoulli_latents_are_one_as_often_as_they_should(probability: float) -> None:
    z = draw("bernoulli", probability=probability)
    assert set(z.unique().tolist()) == {0.0, 1.0}
    for ones in z.sum(0).int().tolist():
        assert stats.binomtest(ones, len(MANY), probability).pvalue > 0.005


def test_censored_normal_latents_are_the_positive_part() -> None:
    z = draw("censored-normal")
    assert torch.equal(z, draw("normal").clamp_min(0))
    assert (z == 0).double().mean().item() == pytest.approx(0.5, abs=0.01)
    assert stats.kstest(z[z > 0].double().numpy(), stats.halfnorm.cdf).pvalue > 0.005
    assert z.mean().item() == pytest.approx(1 / math.sqrt(2 * math.pi), abs=0.01)


@given(threshold=st.floats(1e-30, 6), seed=st.integers(0, 100))
@settings(max_examples=60, deadline=None)
def test_no_truncated_latent_is_beyond_the_threshold(threshold: float, seed: int) -> None:
    z = noise.truncated_normal(seed, "latent", MANY[:500], 4, threshold)
    assert z.double().abs().max().item() <= threshold


@pytest.mark.parametrize("threshold", [0.1, 1.0, 2.0])
def test_truncation_draws_again_and_does_not_clip(threshold: float) -> None:
    plain, z = draw("normal"), draw("truncated-normal", threshold=threshold)
    inside = plain.abs() <= threshold
    assert torch.equal(z[inside], plain[inside])
    again = z[~inside]
    assert len(again.unique()) > 0.99 * len(again)
    expected = stats.truncnorm(-threshold, threshold)
    assert stats.kstest(again.double().numpy(), expected.cdf).pvalue > 0.005


def test_truncated_quantiles_are_scipys_to_the_last_digits() -> None:
    u = noise.uniform(0, "latent, drawn again", MANY[:200], 3, torch.float64)
    threshold = 1e-3  # hardly any latent is inside by itself
    z = noise.truncated_normal(0, "latent", MANY[:200], 3, threshold)
    outside = noise.normal(0, "latent", MANY[:200], 3).abs() > threshold
    exact = stats.truncnorm.ppf(u.numpy(), -threshold, threshold)
    np.testing.assert_allclose(z[outside].numpy(), exact[outside.numpy()], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("threshold", [0.0, -0.5, -math.inf, math.nan])
def test_thresholds_not_above_zero_are_refused(threshold: float) -> None:
    for refuse in (
        lambda: LATENTS.build("truncated-normal", threshold=threshold),
        lambda: noise.truncated_normal(0, "latent", MANY, 2, threshold),
        lambda: truncated(noise.normal, threshold),
    ):
        with pytest.raises(ValueError, match=rf"threshold is {threshold}; .*above 0"):
            refuse()


def test_only_normal_latents_can_be_truncated() -> None:
    with pytest.raises(ValueError, match=r"truncation is 0.5, but these latents are not normal"):
        truncated(LATENTS.build("uniform"), 0.5)
    uniform = LATENTS.build("uniform")
    assert truncated(uniform, None) is uniform


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("uniform", {"low": 1.0, "high": 1.0}, "low is 1.0 and high is 1.0; .*lower one first"),
        ("uniform", {"high": math.inf}, "high is inf; .*finite"),
        ("bernoulli", {"probability": 0.0}, "probability is 0.0; .*above 0 and below 1"),
        ("bernoulli", {"probability": 1.5}, "probability is 1.5; .*above 0 and below 1"),
        ("normal", {"threshold": 1.0}, "latent 'normal' has no option 'threshold'"),
        ("norml", {}, "unknown latent 'norml'; did you mean 'normal'"),
    ],
)
def test_wrong_options_are_refused(name: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LATENTS.build(name, **options)


# Labels.


def test_labels_are_uniform_and_independent_of_the_latents() -> None:
    g = Sizes(1, 7)
    y = labels(g, 0, 0, len(MANY))
    assert y is not None
    assert (y.dtype, y.shape) == (torch.int64, (len(MANY),))
    assert stats.chisquare(torch.bincount(y, minlength=7).numpy()).pvalue > 0.005
    groups = [latents(g, 0, 0, len(MANY))[y == c].flatten().numpy() for c in range(7)]
    assert stats.f_oneway(*groups).pvalue > 0.005


@pytest.mark.parametrize("given_labels", [None, 4, torch.tensor([3, 1, 4])])
def test_a_label_is_the_same_whatever_the_batch(given_labels: Any) -> None:
    g = Sizes(1, 7)
    whole = labels(g, 5, 0, 20, given_labels)
    assert whole is not None
    for start in (0, 1, 7, 19):
        part = labels(g, 5, start, 20 - start, given_labels)
        assert part is not None
        assert torch.equal(part, whole[start:])


def test_given_labels_are_used_in_turn() -> None:
    found = labels(Sizes(1, 7), 0, 2, 5, torch.tensor([3, 1, 4]))
    assert found is not None
    assert found.tolist() == [4, 3, 1, 4, 3]
    found = labels(Sizes(1, 7), 0, 0, 3, 6)
    assert found is not None
    assert found.tolist() == [6, 6, 6]


def test_a_generator_without_classes_gets_no_labels() -> None:
    assert labels(Sizes(), 0, 0, 3) is None
    with pytest.raises(ValueError, match="no classes; leave y out"):
        labels(Sizes(), 0, 0, 3, 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (7, "label is 7; .*0 to 6: nearest 6"),
        (-1, "label is -1; .*nearest 0"),
        (torch.tensor([0, 9]), "label is 9; .*nearest 6"),
        (torch.tensor([0.5]), r"labels are torch.float32 of shape \(1,\); .*integers"),
        (torch.tensor([], dtype=torch.int64), "at least one"),
    ],
)
def test_labels_the_generator_lacks_are_refused(wrong: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        labels(Sizes(1, 7), 0, 0, 3, wrong)
