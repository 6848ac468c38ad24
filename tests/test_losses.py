"""Adversarial losses against closed forms in float64, the signs of their gradients, and extreme logits."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.losses import LOSSES

LOGITS = st.lists(st.floats(-30, 30), min_size=1, max_size=6)
EACH_LOSS = pytest.mark.parametrize("name", LOSSES)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def mean(values):
    return sum(values) / len(values)


def log_sigmoid(x):
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


BY_HAND = {
    "non-saturating": (
        lambda real, fake: -mean([log_sigmoid(x) for x in real]) - mean([log_sigmoid(-x) for x in fake]),
        lambda fake: -mean([log_sigmoid(x) for x in fake]),
    ),
    "hinge": (
        lambda real, fake: mean([max(0.0, 1 - x) for x in real]) + mean([max(0.0, 1 + x) for x in fake]),
        lambda fake: -mean(fake),
    ),
    "wasserstein": (lambda real, fake: mean(fake) - mean(real), lambda fake: -mean(fake)),
}


def test_every_loss_is_known_here():
    assert set(BY_HAND) == set(LOSSES)


@EACH_LOSS
@given(real=LOGITS, fake=LOGITS)
@settings(deadline=None, max_examples=50)
def test_losses_are_their_formulas(name, real, fake):
    discriminator, generator = BY_HAND[name]
    loss = LOSSES[name]
    # softplus drops a term of 2e-9 above 20.
    found = loss.discriminator(tensor(real), tensor(fake))
    assert found.shape == ()
    assert found.item() == pytest.approx(discriminator(real, fake), rel=1e-9, abs=1e-8)
    assert loss.generator(tensor(fake)).item() == pytest.approx(generator(fake), rel=1e-9, abs=1e-8)


@given(real=LOGITS, fake=LOGITS)
@settings(deadline=None, max_examples=25)
def test_non_saturating_is_binary_cross_entropy(real, fake):
    real_logits, fake_logits = tensor(real), tensor(fake)
    ones, zeros = torch.ones_like, torch.zeros_like
    cross_entropy = F.binary_cross_entropy_with_logits
    discriminator = cross_entropy(real_logits, ones(real_logits)) + cross_entropy(fake_logits, zeros(fake_logits))
    loss = LOSSES["non-saturating"]
    torch.testing.assert_close(loss.discriminator(real_logits, fake_logits), discriminator, rtol=1e-7, atol=1e-8)
    generator = cross_entropy(fake_logits, ones(fake_logits))
    torch.testing.assert_close(loss.generator(fake_logits), generator, rtol=1e-7, atol=1e-8)


@EACH_LOSS
def test_both_players_pull_the_right_way(name):
    real, fake = tensor([-3.0, -0.5, 0.0, 0.5]), tensor([3.0, 0.5, 0.0, -0.5])
    real_gradient, fake_gradient = torch.autograd.grad(LOSSES[name].discriminator(real, fake), (real, fake))
    assert (real_gradient < 0).all()
    assert (fake_gradient > 0).all()
    (generator_gradient,) = torch.autograd.grad(LOSSES[name].generator(fake), fake)
    assert (generator_gradient < 0).all()


def test_hinge_has_no_gradient_beyond_the_margin():
    real, fake = tensor([1.5, 40.0]), tensor([-1.5, -40.0])
    loss = LOSSES["hinge"].discriminator(real, fake)
    assert loss == 0
    assert all((gradient == 0).all() for gradient in torch.autograd.grad(loss, (real, fake)))


def test_non_saturating_generator_learns_most_where_it_is_worst():
    fake = tensor([-20.0, 0.0, 20.0])
    (gradient,) = torch.autograd.grad(LOSSES["non-saturating"].generator(fake), fake)
    expected = -torch.sigmoid(-fake.detach()) / 3
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


@EACH_LOSS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_extreme_logits_stay_finite(name, dtype, size):
    real = torch.full((3,), size, dtype=dtype, requires_grad=True)
    fake = torch.full((3,), -size, dtype=dtype, requires_grad=True)
    for loss in (LOSSES[name].discriminator(real, fake), LOSSES[name].generator(fake)):
        assert loss.isfinite()
        for gradient in torch.autograd.grad(loss, (real, fake), allow_unused=True):
            assert gradient is None or gradient.isfinite().all()


def test_an_unknown_loss_is_told_the_nearest():
    with pytest.raises(ValueError, match=r"^unknown loss 'hing'; did you mean 'hinge'\?$"):
        LOSSES["hing"]
