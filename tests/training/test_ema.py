"""The moving average against its recursion in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from poise.training.ema import Ema

LATE = 10**9  # a step by which the warm-up is long over


def linear(value: float) -> nn.Linear:
    layer = nn.Linear(1, 1, bias=False).double()
    layer.weight.data.fill_(value)
    return layer


def value(ema: Ema) -> float:
    return next(ema.module.parameters()).item()


@given(st.floats(0.1, 1000), st.lists(st.floats(-10, 10), min_size=1, max_size=30))
def test_is_its_recursion(half_life: float, weights: list[float]) -> None:
    module = linear(weights[0])
    ema, expected = Ema(module, half_life), weights[0]
    for step, weight in enumerate(weights, 1):
        module.weight.data.fill_(weight)
        ema.update(module, step)
        decay = min(0.5 ** (1 / half_life), (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
    assert value(ema) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(st.integers(1, 200))
def test_after_its_half_life_a_weight_counts_half(half_life: int) -> None:
    ema = Ema(linear(1.0), half_life)
    for step in range(half_life):
        ema.update(linear(0.0), LATE + step)
    assert value(ema) == pytest.approx(0.5, rel=1e-6)


@given(st.floats(1e-3, 1e6))
def test_decay_rises_from_a_low_start_to_that_of_the_half_life(half_life: float) -> None:
    decays = [Ema(linear(0), half_life).decay(step) for step in (0, 1, 10, 1000, LATE)]
    assert decays == sorted(decays)
    assert 0 <= decays[0] <= 0.1
    assert decays[-1] == pytest.approx(0.5 ** (1 / half_life), abs=1e-8)


def test_every_tensor_of_a_network_follows_by_its_kind() -> None:
    """Weights and running statistics are averaged, whole numbers copied."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    ema = Ema(module, 5)
    start = {name: tensor.numpy().copy() for name, tensor in ema.module.state_dict().items()}
    for parameter in module.parameters():
        parameter.data.normal_()
    module(torch.randn(4, 2, 5, 5))
    ema.update(module, LATE)
    for name, new in module.state_dict().items():
        found = ema.module.state_dict()[name].numpy()
        if np.issubdtype(found.dtype, np.integer):
            assert found == new.numpy() == 1
        else:
            expected = start[name] + (1 - 0.5**0.2) * (new.numpy() - start[name])
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_is_a_copy_that_is_never_trained() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).train()
    ema = Ema(module, 5)
    assert not any(part.training for part in ema.module.modules())
    assert not any(weight.requires_grad for weight in ema.module.parameters())
    assert all(part.training for part in module.modules())
    assert all(weight.requires_grad for weight in module.parameters())
    shared = {t.data_ptr() for t in module.state_dict().values()} & {
        t.data_ptr() for t in ema.module.state_dict().values()
    }
    assert not shared


def test_updating_leaves_the_followed_network_alone() -> None:
    module = linear(3.0)
    Ema(linear(0.0), 5).update(module, 1)
    assert module.weight.item() == 3.0
    assert module.weight.grad is None
