"""What is measured by showing samples to the networks, against explicit formulas; and that it leaves no trace."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import poise
from poise.monitor.samples import (
    LARGEST,
    NARROW,
    as_input,
    diversity,
    hidden_variances,
    latents_for,
    lipschitz,
    logit_signals,
)


def discriminator(norm: str = "bssn") -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(
        *(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.LeakyReLU(0.1), nn.Dropout(0.5)),
        *(nn.Flatten(), nn.Linear(6 * 4 * 4, 1)),
    )
    return poise.normalize(layers, norm)


def images(n: int = 10, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_logit_signals_are_as_defined() -> None:
    real, fake = torch.tensor([2.0, 5.0, 1.0]), torch.tensor([[1.0], [-6.0]])
    found = {name: value.item() for name, value in logit_signals(real, fake).items()}
    pairs = [(r > f) + 0.5 * (r == f) for r in (2, 5, 1) for f in (1, -6)]
    assert found == pytest.approx(
        {
            "real_logit": 8 / 3,
            "fake_logit": -2.5,
            "real_logit_std": np.std([2, 5, 1]),
            "fake_logit_std": 3.5,
            "logit_gap": 8 / 3 + 2.5,
            "ranking": np.mean(pairs),
            "saturation": 2 / 5,
        }
    )
    assert logit_signals(real, None).keys() == {"real_logit", "real_logit_std"}
    assert logit_signals(None, None) == {}


def test_diversity_is_that_of_pairwise_distances() -> None:
    real, fake = images(7).double(), 0.5 * images(9, seed=1).double()[:7]
    r, f = real.flatten(1).numpy(), fake.flatten(1).numpy()

    def between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.linalg.norm(a[:, None] - b[None], axis=2)

    def nearest(a: np.ndarray) -> float:
        distances = between(a, a) + np.diag(np.full(len(a), np.inf))
        return float(np.median(distances.min(1)))

    expected = {
        "copies": 0.0,
        "diversity": between(f, f).sum() / between(r, r).sum(),
        "neighbours": nearest(f) / nearest(r),
        "coverage": np.median(between(r, f).min(1)) / nearest(r),
    }
    found = {name: value.item() for name, value in diversity(real, fake).items()}
    assert found == pytest.approx(expected, rel=1e-3)


def test_diversity_of_equal_fakes_is_nothing_and_of_few_is_not_measured() -> None:
    same = torch.zeros(8, 3, 8, 8)
    assert diversity(images(8), same)["diversity"].item() == 0
    assert diversity(images(8), same)["neighbours"].item() == 0
    assert diversity(images(2), images(8)) == {}


def test_real_samples_that_are_alike_make_no_infinity() -> None:
    same = torch.zeros(8, 3, 8, 8)
    found = {name: value.item() for name, value in diversity(same, images(8)).items()}
    assert found == {"copies": 1.0, **dict.fromkeys(("diversity", "neighbours", "coverage"), LARGEST)}
    pairs = images(4).repeat(2, 1, 1, 1)  # each real sample has its copy
    other = images(8, seed=1)
    found = {name: value.item() for name, value in diversity(pairs, other).items()}
    assert found["copies"] == 1
    apart, near = torch.cdist(pairs.flatten(1), pairs.flatten(1)), torch.cdist(pairs.flatten(1), other.flatten(1))
    assert found["coverage"] == pytest.approx(near.amin(1).median().item() / (NARROW * apart.mean().item()), rel=1e-4)


def test_fakes_upon_narrow_modes_are_near() -> None:
    """Beside a mode of no width no fake is as near as its points are to each other; modes are to be covered."""
    draw = torch.Generator().manual_seed(0)
    centres = torch.tensor([[-1.0, -1], [-1, 1], [1, -1], [1, 1]]).repeat(16, 1)
    real = centres + 1e-3 * torch.randn(64, 2, generator=draw)
    apart = torch.cdist(real, real).mean().item()
    for off in (0.02, 0.5):  # of the mean distance between two real samples
        fake = centres + torch.tensor([off * apart, 0.0])
        assert diversity(real, fake)["coverage"].item() == pytest.approx(off / NARROW, rel=0.1)


def test_hidden_variance_is_that_of_each_layers_output_and_features_enter_the_last() -> None:
    module, x = discriminator(), images()
    found, features = hidden_variances(module, x)
    module.eval()
    with torch.no_grad():
        first = module[0](x)  # type: ignore[index]
        before_last = module[:5](x)  # type: ignore[index]
    assert found.keys() == {"0", "5"}
    assert found["0"].item() == pytest.approx(first.double().var(correction=0).item(), rel=1e-4)
    assert found["5"].item() == pytest.approx(module(x).double().var(correction=0).item(), rel=1e-4)
    assert features is not None
    torch.testing.assert_close(features, before_last)


def test_steepness_of_a_linear_function_is_its_weights_norm() -> None:
    linear = nn.Linear(192, 1)
    layer = nn.Sequential(nn.Flatten(), linear)
    weight = linear.weight.detach().double().norm().item()
    assert lipschitz(layer, images(), images(seed=1)).item() == pytest.approx(weight, rel=1e-4)


def test_steepness_is_the_largest_on_the_lines() -> None:
    """Of x² in one dimension, the slope is 2x: no more than at the lines' ends, no less than half of it somewhere."""

    class Square(nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            return [0.5 * x.square().sum(1), 0.5 * x.square()]

    real, fake = torch.zeros(50, 1), torch.full((50, 1), 3.0)
    assert 3.0 < lipschitz(Square(), real, fake).item() <= 6.0


@pytest.mark.parametrize("norm", ["none", "sn", "bssn", "sigma-clamp"])
def test_the_networks_do_not_notice(norm: str) -> None:
    """Not a weight, statistic, singular vector, gradient, mode or random number is another one after it."""
    module, x = discriminator(norm), images()
    module(x).sum().backward()
    module.get_submodule("1").eval()  # a frozen batch norm stays frozen
    modes = [one.training for one in module.modules()]
    state, random = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    gradients = [copy.deepcopy(p.grad) for p in module.parameters()]
    hidden_variances(module, x)
    lipschitz(module, x, images(seed=1))
    assert [one.training for one in module.modules()] == modes
    torch.testing.assert_close(module.state_dict(), state, rtol=0, atol=0)
    torch.testing.assert_close([p.grad for p in module.parameters()], gradients, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(one._forward_hooks for one in module.modules())


def test_uint8_images_are_scaled_and_latents_are_made_for_generators_that_say_how() -> None:
    module = discriminator()
    given = torch.tensor([[[[0]], [[255]], [[51]]]], dtype=torch.uint8)
    torch.testing.assert_close(as_input(given, module, 5).flatten(), torch.tensor([-1.0, 1.0, -0.6]))
    assert latents_for(module, 4) is None
    generator, _ = poise.models.create("mlp", width=8, latent_dim=5)
    latents = latents_for(generator, 4)
    assert latents is not None
    assert latents[0].shape == (4, 5)
