"""One update in several parts is the update of the whole batch; batch sizes and averages are as the recipe says."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import poise
from poise.data.digits import StackedDigits
from poise.losses import LOSSES
from poise.models import create
from poise.penalties import PENALTIES
from poise.training.ema import Ema
from poise.training.recipe import Recipe
from poise.training.step import Players
from poise.training.update import discriminator_update, generator_update

DATA = StackedDigits(resolution=16)


def players(loss: str, norm: str = "sn") -> Players:
    """Without batch norm, which sees a part at a time."""
    torch.manual_seed(0)
    g, d = create("r3gan", resolution=16, width=16, latent_dim=8, blocks=1, norm=norm)
    for parameter in [*g.parameters(), *d.parameters()]:  # its branches begin at zero
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    g_sgd, d_sgd = (torch.optim.SGD(network.parameters(), 1e-2) for network in (g, d))
    penalties = [PENALTIES.build("r1", gamma=1.0)]
    return Players(g, d, g_sgd, d_sgd, LOSSES[loss], torch.device("cpu"), "fp32", penalties)


def weights(made: Players) -> list[Tensor]:
    return [p.detach() for network in (made.generator, made.discriminator) for p in network.parameters()]


@pytest.mark.parametrize("loss", ["hinge", "relativistic"])
@pytest.mark.parametrize("norm", ["sn", "sigma-reg"])
def test_accumulated_gradients_are_the_whole_batchs(loss: str, norm: str) -> None:
    found, signals = [], []
    for accumulate in (1, 4):
        made, recipe = players(loss, norm), Recipe(batch_size=8, g_batch_size=12, accumulate=accumulate)
        for update in range(2):
            told = discriminator_update(made, DATA, recipe, update) | generator_update(made, DATA, recipe, update)
        found.append(weights(made))
        signals.append(told)
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(signals[0], signals[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("g_batch_size", "expected"), [(None, 6), (10, 10)])
def test_each_network_has_its_batch_size(g_batch_size: int | None, expected: int) -> None:
    made, recipe = players("hinge"), Recipe(batch_size=6, g_batch_size=g_batch_size)
    sizes: list[int] = []
    made.generator.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    discriminator_update(made, DATA, recipe, 0)
    generator_update(made, DATA, recipe, 0)
    assert sizes == [6, expected]


def test_the_average_is_the_generator_itself_until_it_starts() -> None:
    network: Any = nn.Linear(3, 3)
    late, early = Ema(network, 10.0, start=4), Ema(network, 10.0)
    averaged: Any = late.module
    other: Any = early.module
    for step in range(1, 8):
        network.weight.data.normal_(generator=torch.Generator().manual_seed(step))
        before = copy.deepcopy(averaged.weight.data)
        late.update(network, step)
        early.update(network, step)
        if step <= 4:
            assert torch.equal(averaged.weight, network.weight)
        else:
            decay = early.decay(step - 4)
            torch.testing.assert_close(averaged.weight, decay * before + (1 - decay) * network.weight)
    assert not torch.equal(other.weight, averaged.weight)


def test_projections_act_after_the_whole_update_only() -> None:
    made = players("hinge", "clip")
    discriminator_update(made, DATA, Recipe(batch_size=8, accumulate=4), 0)
    assert poise.norms.normalized_weights(made.discriminator)
    assert max(float(w.original.abs().max()) for w in poise.norms.normalized_weights(made.discriminator)) <= 0.01 + 1e-6
