"""Mode coverage, KL and class score against scipy and the formulas written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from poise.metrics import ClassScore, mode_kl, modes_covered

counts_of_modes = st.lists(st.integers(0, 50), min_size=2, max_size=20).filter(any)


def predictions(n: int, classes: int, seed: int) -> Tensor:
    return torch.tensor(np.random.default_rng(seed).dirichlet(np.full(classes, 0.3), n))


def score(*batches: Tensor) -> float:
    streamed = ClassScore(batches[0].shape[1])
    for batch in batches:
        streamed.add(batch)
    return streamed.value


@given(counts_of_modes)
def test_a_mode_is_covered_by_one_sample(counts: list[int]) -> None:
    assert modes_covered(torch.tensor(counts)) == sum(1 for count in counts if count)


@given(counts_of_modes, st.integers(0, 2**32 - 1))
def test_mode_kl_is_the_relative_entropy(counts: list[int], seed: int) -> None:
    data = np.random.default_rng(seed).dirichlet(np.ones(len(counts)))
    expected = scipy.stats.entropy(counts, data)
    assert mode_kl(torch.tensor(counts), torch.tensor(data)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(counts_of_modes)
def test_mode_kl_is_zero_where_the_modes_are_the_datas(counts: list[int]) -> None:
    data = torch.tensor(counts).double() / sum(counts)
    assert mode_kl(torch.tensor(counts), data) == pytest.approx(0, abs=1e-12)


def test_a_mode_that_the_data_lacks_is_infinitely_far() -> None:
    assert mode_kl(torch.tensor([3, 1]), torch.tensor([1.0, 0.0])) == math.inf


@given(st.integers(2, 30), st.integers(2, 12), st.integers(0, 2**32 - 1))
def test_class_score_is_its_formula_however_batched(n: int, classes: int, seed: int) -> None:
    p = predictions(n, classes, seed)
    divergences = scipy.stats.entropy(p.numpy(), p.numpy().mean(0, keepdims=True), axis=1)
    expected = math.exp(divergences.mean())
    assert score(p) == pytest.approx(expected, rel=1e-9)
    assert score(p[: n // 2], p[n // 2 :]) == pytest.approx(expected, rel=1e-9)


@given(st.integers(2, 12), st.integers(0, 2**32 - 1))
def test_class_score_of_constant_predictions_is_one(classes: int, seed: int) -> None:
    assert score(predictions(1, classes, seed).repeat(9, 1)) == pytest.approx(1)


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_class_score_of_certain_and_even_predictions_is_the_number_of_classes(classes: int) -> None:
    assert score(torch.eye(classes)) == pytest.approx(classes)
