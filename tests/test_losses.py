"""Adversarial losses against closed forms in float64, the signs of their gradients, and extreme logits."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.losses import (
    LOSSES,
    auxiliary_classifier_discriminator,
    auxiliary_classifier_generator,
)

LOGITS = st.lists(st.floats(-30, 30), min_size=1, max_size=6)
EACH_LOSS = pytest.mark.parametrize("name", LOSSES)
PAIRED = {"relativistic"}
RELATIVISTIC = LOSSES["relativistic"]


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
    "minimax": (
        lambda real, fake: -mean([log_sigmoid(x) for x in real]) - mean([log_sigmoid(-x) for x in fake]),
        lambda fake: mean([log_sigmoid(-x) for x in fake]),
    ),
    "least-squares": (
        lambda real, fake: mean([(x - 1) ** 2 / 2 for x in real]) + mean([x**2 / 2 for x in fake]),
        lambda fake: mean([(x - 1) ** 2 / 2 for x in fake]),
    ),
}


def test_every_loss_is_known_here():
    assert set(BY_HAND) | PAIRED == set(LOSSES)


def test_only_paired_losses_need_real_logits_for_the_generator():
    assert {name for name, loss in LOSSES.items() if loss.needs_real} == PAIRED


def generator_loss(name, fake, real):
    return LOSSES[name].generator(fake, *([real] if LOSSES[name].needs_real else []))


@pytest.mark.parametrize("name", BY_HAND)
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
    # Least squares pull to 1 and to 0, every other loss without end: logits in between are on the same side of both.
    least_squares = name == "least-squares"
    real = tensor([-3.0, -0.5, 0.0, 0.5])
    fake = tensor([0.9, 0.6, 0.3, 0.1] if least_squares else [3.0, 0.5, 0.0, -0.5])
    real_gradient, fake_gradient = torch.autograd.grad(LOSSES[name].discriminator(real, fake), (real, fake))
    assert (real_gradient < 0).all()
    assert (fake_gradient > 0).all()
    (generator_gradient,) = torch.autograd.grad(generator_loss(name, fake, real), fake)
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
    for loss in (LOSSES[name].discriminator(real, fake), generator_loss(name, fake, real)):
        assert loss.isfinite()
        for gradient in torch.autograd.grad(loss, (real, fake), allow_unused=True):
            assert gradient is None or gradient.isfinite().all()


def test_an_unknown_loss_is_told_the_nearest():
    with pytest.raises(ValueError, match=r"^unknown loss 'hing'; did you mean 'hinge'\?$"):
        LOSSES["hing"]


def test_minimax_is_a_zero_sum_game():
    fake = tensor([-2.0, 0.3, 5.0])
    certain = tensor([1e3])  # real images D is sure of cost it nothing
    loss = LOSSES["minimax"]
    torch.testing.assert_close(loss.generator(fake), -loss.discriminator(certain, fake))


def test_minimax_saturates_where_non_saturating_does_not():
    fake = tensor([-30.0])
    (saturated,), (strong,) = (
        torch.autograd.grad(LOSSES[n].generator(fake), fake) for n in ("minimax", "non-saturating")
    )
    assert 0 < -saturated.item() < 1e-12
    assert strong.item() == pytest.approx(-1)


@given(data=st.data(), n=st.integers(1, 6))
@settings(deadline=None, max_examples=50)
def test_relativistic_pairing_is_its_formula(data, n):
    real, fake = (data.draw(st.lists(st.floats(-15, 15), min_size=n, max_size=n)) for _ in range(2))
    differences = [a - b for a, b in zip(real, fake, strict=True)]
    found = RELATIVISTIC.discriminator(tensor(real), tensor(fake)).item()
    assert found == pytest.approx(-mean([log_sigmoid(d) for d in differences]), rel=1e-9, abs=1e-8)
    found = RELATIVISTIC.generator(tensor(fake), tensor(real)).item()
    assert found == pytest.approx(-mean([log_sigmoid(-d) for d in differences]), rel=1e-9, abs=1e-8)


def test_relativistic_players_pull_against_each_other_on_both_sides():
    real, fake = tensor([-3.0, 0.0, 2.0]), tensor([3.0, 0.5, -1.0])
    for loss, sign in (
        (RELATIVISTIC.discriminator(real, fake), 1),
        (RELATIVISTIC.generator(fake, real), -1),
    ):
        real_gradient, fake_gradient = torch.autograd.grad(loss, (real, fake))
        assert (sign * real_gradient < 0).all()
        torch.testing.assert_close(fake_gradient, -real_gradient)


def test_relativistic_losses_do_not_see_a_shift_of_all_logits():
    real, fake = tensor([-3.0, 0.0, 2.0]), tensor([3.0, 0.5, -1.0])
    for shift in (-7.0, 40.0):
        torch.testing.assert_close(
            RELATIVISTIC.discriminator(real + shift, fake + shift), RELATIVISTIC.discriminator(real, fake)
        )
        torch.testing.assert_close(
            RELATIVISTIC.generator(fake + shift, real + shift), RELATIVISTIC.generator(fake, real)
        )


def test_relativistic_losses_need_pairs():
    with pytest.raises(ValueError, match=r"shapes \(3,\) and \(2,\); .*one to one"):
        RELATIVISTIC.discriminator(torch.zeros(3), torch.zeros(2))
    with pytest.raises(ValueError, match=r"shapes \(1,\) and \(2,\); .*one to one"):
        RELATIVISTIC.generator(torch.zeros(2), torch.zeros(1))


def test_the_auxiliary_classifiers_loss_is_minus_the_log_likelihoods():
    real, fake = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    real_y, fake_y = torch.tensor([0, 1, 2, 1, 0]), torch.tensor([2, 2, 0, 1, 0])

    def surprise(logits, y):
        p = [[math.exp(x) for x in row] for row in logits.tolist()]
        return mean([-math.log(row[label] / sum(row)) for row, label in zip(p, y.tolist(), strict=True)])

    found = auxiliary_classifier_discriminator(real, real_y, fake, fake_y).item()
    assert found == pytest.approx(surprise(real, real_y) + surprise(fake, fake_y))
    assert auxiliary_classifier_generator(fake, fake_y).item() == pytest.approx(surprise(fake, fake_y))
