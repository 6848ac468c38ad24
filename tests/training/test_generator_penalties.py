"""Penalties of the generator are in its gradient alone, when they are due, and are those of its weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import poise
from poise.losses import LOSSES
from poise.models import create
from poise.norms.normalization import NORMALIZED_LAYERS
from poise.penalties import PENALTIES, Lazy
from poise.training import Recipe, RecipeError
from poise.training.step import Players, discriminator_gradients, generator_gradients

N = 4
Z = torch.randn(N, 8, generator=torch.Generator().manual_seed(1))
REAL = torch.randint(0, 256, (N, 3, 16, 16), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)


def players(
    g_penalties: list[Lazy] | None = None, norm: str = "none", precision: str = "fp32", **options: Any
) -> Players:
    torch.manual_seed(0)
    g, d = create("sngan-cnn", resolution=16, width=4, latent_dim=8)
    poise.normalize(g, norm, **options)
    adams = torch.optim.Adam(g.parameters()), torch.optim.Adam(d.parameters())
    return Players(g, d, *adams, LOSSES["hinge"], torch.device("cpu"), precision, g_penalties=g_penalties or [])


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}


def off_diagonal(weight: Tensor) -> Tensor:
    """∂/∂W of Σ over pairs of different rows of (wᵢ·wⱼ)², row by row."""
    total = torch.zeros_like(weight)
    for i, row in enumerate(weight):
        for j, other in enumerate(weight):
            if i != j:
                total[i] += 4 * (row @ other) * other
    return total


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_off_diagonal_regularization_is_in_the_generators_gradient_when_due(precision: str) -> None:
    made, plain = players([PENALTIES.build("off-diagonal", weight=0.01, every=2)], precision=precision), players()
    if precision == "bf16":
        plain = players(precision=precision)
    for update, share in ((0, 2.0), (1, 0.0), (4, 2.0)):
        signals = [generator_gradients(one, Z, update=update) for one in (made, plain)]
        torch.testing.assert_close(*signals)
        found, without = gradients(made.generator), gradients(plain.generator)
        for name, layer in made.generator.named_modules():
            if not isinstance(layer, NORMALIZED_LAYERS):
                continue
            dim = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
            weight = layer.get_parameter("weight").detach().double()
            rows = weight.movedim(dim, 0)
            expected = off_diagonal(rows.flatten(1)).view(rows.shape).movedim(0, dim)
            added = (found[f"{name}.weight"] - without[f"{name}.weight"]).double()
            torch.testing.assert_close(added, share * 0.01 * expected, rtol=1e-3, atol=1e-5)
    assert not gradients(made.discriminator)


def test_the_discriminators_step_does_not_know_of_them() -> None:
    made, plain = players([PENALTIES.build("off-diagonal", weight=1.0)]), players()
    for one in (made, plain):
        discriminator_gradients(one, REAL, Z)
        assert not gradients(one.generator)
    torch.testing.assert_close(gradients(made.discriminator), gradients(plain.discriminator))


def test_the_penalty_of_the_generators_norm_is_in_its_gradient() -> None:
    made = players(norm="sigma-reg", sigma=3.0, coefficient=0.5)
    g, d = copy.deepcopy(made.generator), copy.deepcopy(made.discriminator)
    generator_gradients(made, Z)
    (made.loss.generator(d(g(Z))) + poise.weight_penalty(g)).backward()
    torch.testing.assert_close(gradients(made.generator), gradients(g), rtol=1e-4, atol=1e-6)
    plain = players()
    generator_gradients(plain, Z)
    first = gradients(made.generator)["linear.parametrizations.weight.original"]
    assert not torch.allclose(first, gradients(plain.generator)["linear.weight"], atol=1e-3)


@pytest.mark.parametrize("name", ["r1", "wgan-gp", "dragan"])
def test_penalties_of_images_are_refused_for_the_generator(name: str) -> None:
    with pytest.raises(RecipeError, match=f"g_penalties.0: '{name}' .* weights: orthonormal, off-diagonal"):
        Recipe.parse({"g_penalties": [name]})


def test_they_are_options_of_the_command_line_and_of_biggans_recipe() -> None:
    given = Recipe.load("stacked-digits", {"g_penalties": "[{name: orthonormal, weight: 1e-3}]"})
    assert given.g_penalties[0].options == {"weight": 1e-3}
    (penalty,) = Recipe.load("biggan-imagenet128").g_penalties
    assert (penalty.name, penalty.options) == ("off-diagonal", {"weight": 1e-4})
