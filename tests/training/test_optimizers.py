"""Optimizers by torch's names, and learning rates as a function of the step."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from poise.training.optimizers import OPTIMIZERS, build_optimizer, rate_factor

MATRICES_ONLY = {"Muon"}  # torch's takes no biases


@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - MATRICES_ONLY))
def test_every_optimizer_makes_a_loss_smaller(name: str) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 4), torch.randn(8, 4)
    optimizer = build_optimizer(layer, name, 1e-2, (0.5, 0.9), {})
    losses = []
    for _ in range(5):
        loss = layer(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert optimizer.param_groups[0].get("betas", (0.5, 0.9)) == (0.5, 0.9)


def test_options_reach_torch() -> None:
    layer = nn.Linear(2, 2)
    assert build_optimizer(layer, "RMSprop", 1e-3, (0.0, 0.9), {"alpha": 0.9}).param_groups[0]["alpha"] == 0.9
    assert (
        build_optimizer(layer, "AdamW", 1e-3, (0.0, 0.9), {"weight_decay": 0.3}).param_groups[0]["weight_decay"] == 0.3
    )
    assert build_optimizer(layer, "Adam", 1e-3, (0.1, 0.2), {}).param_groups[0]["fused"]


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_rates_begin_whole_and_decay_to_nothing(schedule: str) -> None:
    factors = [rate_factor(step, 100, schedule) for step in range(1, 101)]
    assert factors[0] == 1
    assert factors == sorted(factors, reverse=True)
    expected = {"constant": 1.0, "linear": 0.5, "cosine": 0.5}[schedule]
    assert factors[50] == pytest.approx(expected)
    assert factors[25] == pytest.approx({"constant": 1, "linear": 0.75, "cosine": (1 + math.sqrt(0.5)) / 2}[schedule])


def test_a_warm_up_rises_evenly_and_then_leaves_the_schedule_alone() -> None:
    assert [rate_factor(step, 100, "constant", warmup=4) for step in range(1, 7)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert rate_factor(50, 100, "linear", warmup=4) == rate_factor(50, 100, "linear")
