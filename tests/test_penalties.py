"""Penalties against closed forms, explicit matrices and finite differences; through every norm; lazily, on the mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import poise
from poise.norms import NORMS
from poise.penalties import (
    PENALTIES,
    Lazy,
    dragan_penalty,
    input_gradient,
    interpolates,
    off_diagonal,
    off_diagonal_penalty,
    orthonormal,
    orthonormal_penalty,
    r1_penalty,
    r2_penalty,
    weight_matrices,
    wgan_gp_penalty,
    zero_centred_penalty,
)

GRADIENT_PENALTIES: dict[str, Callable[..., Tensor]] = {
    "r1": r1_penalty,
    "r2": r2_penalty,
    "wgan-gp": wgan_gp_penalty,
    "dragan": dragan_penalty,
    "zero-centred": zero_centred_penalty,
}
EACH = pytest.mark.parametrize("name", GRADIENT_PENALTIES)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(seed: int, n: int = 4, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(n, 3, 4, 4, generator=draws(seed), dtype=dtype) * 2 - 1


REAL, FAKE = images(1), images(2)


class Linear(nn.Module):
    """``D(x) = ⟨w, x⟩``, whose gradient is w at every x."""

    def __init__(self, size: float = 1.0) -> None:
        super().__init__()
        w = torch.randn(3, 4, 4, generator=draws(3), dtype=torch.float64)
        self.w = nn.Parameter(size * w / w.norm())

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        logits = (x * self.w).flatten(1).sum(1)
        return logits if y is None else logits * y


def small_discriminator(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Smooth, so that differences are derivatives: convolution, softplus, convolution, linear."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        d = nn.Sequential(
            *(nn.Conv2d(3, 4, 3, padding=1), nn.Softplus(), nn.Conv2d(4, 5, 4, stride=2, padding=1), nn.Softplus()),
            *(nn.Flatten(), nn.Linear(20, 1), nn.Flatten(0)),
        )
    return d.to(dtype)


# Values.


@pytest.mark.parametrize("size", [0.3, 1.0, 2.5])
@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("r1", {"gamma": 3.0}, lambda norm: 1.5 * norm**2),
        ("r2", {"gamma": 3.0}, lambda norm: 1.5 * norm**2),
        ("wgan-gp", {"weight": 4.0}, lambda norm: 4 * (norm - 1) ** 2),
        ("dragan", {"weight": 4.0, "target": 0.7}, lambda norm: 4 * (norm - 0.7) ** 2),
        ("zero-centred", {"weight": 4.0}, lambda norm: 4 * norm**2),
    ],
)
def test_of_a_linear_discriminator_the_gradient_is_its_weight(
    name: str, options: dict[str, float], expected: Callable[[float], float], size: float
) -> None:
    found = GRADIENT_PENALTIES[name](Linear(size), REAL, FAKE, **options)
    assert found.shape == ()
    assert found.item() == pytest.approx(expected(size), rel=1e-12)


class Square(nn.Module):
    """``D(x) = ‖x‖²/2``, whose gradient is x: a penalty tells where it was taken."""

    def forward(self, x: Tensor) -> Tensor:
        return x.square().flatten(1).sum(1) / 2


def squares(x: Tensor) -> Tensor:
    return x.flatten(1).square().sum(1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("r1", lambda: 5 * squares(REAL).mean()),
        ("r2", lambda: 5 * squares(FAKE).mean()),
        ("zero-centred", lambda: 10 * squares(between()).mean()),
        ("wgan-gp", lambda: 10 * (squares(between()).sqrt() - 1).square().mean()),
        ("dragan", lambda: 10 * (squares(around()).sqrt() - 1).square().mean()),
    ],
)
def test_penalties_are_taken_where_their_papers_say(name: str, expected: Callable[[], Tensor]) -> None:
    found = GRADIENT_PENALTIES[name](Square(), REAL, FAKE, generator=draws())
    torch.testing.assert_close(found, expected(), rtol=1e-12, atol=0)


def between() -> Tensor:
    epsilon = torch.rand(4, generator=draws(), dtype=torch.float64)[:, None, None, None]
    return epsilon * REAL + (1 - epsilon) * FAKE


def around() -> Tensor:
    pixels = REAL.flatten()
    deviation = (pixels - pixels.mean()).square().mean().sqrt()
    return REAL + 0.5 * deviation * torch.randn(REAL.shape, generator=draws(), dtype=torch.float64)


def test_interpolates_lie_between_each_pair_one_weight_a_sample() -> None:
    weights = ((interpolates(REAL, FAKE) - FAKE) / (REAL - FAKE)).flatten(1)
    torch.testing.assert_close(weights, weights[:, :1].expand_as(weights), rtol=1e-6, atol=1e-9)
    assert ((weights >= 0) & (weights < 1)).all()
    assert len(set(weights[:, 0].tolist())) == 4


@EACH
def test_a_random_generator_fixes_what_is_drawn(name: str) -> None:
    d, penalty = small_discriminator(), GRADIENT_PENALTIES[name]
    once, again = (penalty(d, REAL, FAKE, generator=draws(5)) for _ in range(2))
    assert torch.equal(once, again)
    if name not in ("r1", "r2"):
        assert not torch.equal(once, penalty(d, REAL, FAKE, generator=draws(6)))


def test_the_gradient_is_that_of_finite_differences() -> None:
    d = small_discriminator()
    found = input_gradient(d, REAL)
    step = 1e-5
    for place in [(0, 0, 0, 0), (1, 2, 3, 1), (3, 1, 2, 2)]:
        shift = torch.zeros_like(REAL)
        shift[place] = step
        difference = (d(REAL + shift) - d(REAL - shift))[place[0]] / (2 * step)
        assert found[place].item() == pytest.approx(difference.item(), rel=1e-6, abs=1e-9)


def test_labels_go_with_their_images() -> None:
    d, y, fake_y = Linear(2.0), torch.tensor([1.0, 2.0, 0.0, -1.0]), torch.tensor([3.0, 0.0, 0.0, 1.0])
    real, fake = 4 * y.square().mean(), 4 * fake_y.square().mean()
    for name, labels, expected in (("r1", y, real), ("r2", fake_y, fake), ("zero-centred", y, real * 2)):
        found = GRADIENT_PENALTIES[name](d, REAL, FAKE, y, fake_y, **_unit(name))
        assert found.item() == pytest.approx(expected.item(), rel=1e-12), labels
    assert r2_penalty(d, REAL, FAKE, y, gamma=2.0).item() == pytest.approx(real.item(), rel=1e-12)


def _unit(name: str) -> dict[str, float]:
    return {"weight": 2.0} if name == "zero-centred" else {"gamma": 2.0}


# Derivatives.


@EACH
def test_the_derivative_in_the_weights_is_that_of_finite_differences(name: str) -> None:
    d, penalty = small_discriminator(), GRADIENT_PENALTIES[name]
    names, weights = zip(*d.named_parameters(), strict=True)

    def of_weights(*values: Tensor) -> Tensor:
        class At(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return torch.func.functional_call(d, dict(zip(names, values, strict=True)), (x,))

        return penalty(At(), REAL[:2], FAKE[:2], generator=draws())

    assert torch.autograd.gradcheck(of_weights, weights, eps=1e-6, atol=1e-6, fast_mode=True)


@EACH
@pytest.mark.parametrize("norm", NORMS)
def test_double_backward_through_every_norm_is_that_of_finite_differences(norm: str, name: str) -> None:
    d = small_discriminator()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        poise.normalize(d, norm)
    d(REAL)
    d.eval()
    penalty = GRADIENT_PENALTIES[name]

    def value() -> Tensor:
        return penalty(d, REAL, FAKE, generator=draws())

    weights = list(d.parameters())
    gradients = torch.autograd.grad(value(), weights, allow_unused=True)
    directions = [torch.randn(w.shape, generator=draws(9), dtype=w.dtype) for w in weights]
    slope = sum((g * v).sum().item() for g, v in zip(gradients, directions, strict=True) if g is not None)
    assert abs(slope) > 1e-8

    def moved(step: float) -> float:
        # Through .data, which norms do not notice: singular vectors, constants to autograd, stay what they were.
        for weight, direction in zip(weights, directions, strict=True):
            weight.data.add_(direction, alpha=step)
        found = value().item()
        for weight, direction in zip(weights, directions, strict=True):
            weight.data.sub_(direction, alpha=step)
        return found

    step = 1e-6
    assert (moved(step) - moved(-step)) / (2 * step) == pytest.approx(slope, rel=1e-4)


@EACH
@pytest.mark.parametrize("norm", ["sn", "bssn", "wn", "orthogonal"])
def test_a_penalty_trains_every_layer_in_training_mode(norm: str, name: str) -> None:
    d = poise.normalize(small_discriminator(torch.float32), norm)
    optimizer = torch.optim.Adam(d.parameters(), 1e-3)
    for _ in range(2):
        loss = d(REAL.float()).mean() + GRADIENT_PENALTIES[name](d, REAL.float(), FAKE.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for weight in poise.norms.normalized_weights(d):
        assert weight.original.grad is not None
        assert weight.original.grad.isfinite().all()
        assert weight.original.grad.abs().sum() > 0


@EACH
def test_nothing_flows_back_to_what_made_the_fakes(name: str) -> None:
    real, fake = REAL.clone().requires_grad_(), FAKE.clone().requires_grad_()
    GRADIENT_PENALTIES[name](small_discriminator(), real, fake).backward()
    assert real.grad is None
    assert fake.grad is None


@EACH
def test_where_the_gradient_is_zero_so_is_its_derivative_and_not_nan(name: str) -> None:
    first = nn.Linear(48, 4).double()
    nn.init.constant_(first.bias, -100)  # every unit is off
    d = nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.Linear(4, 1).double(), nn.Flatten(0))
    GRADIENT_PENALTIES[name](d, REAL, FAKE).backward()
    assert all(w.grad is None or (w.grad == 0).all() for w in d.parameters())


@EACH
def test_without_gradients_a_penalty_is_only_a_number(name: str) -> None:
    d = small_discriminator()
    with torch.no_grad():
        plain = GRADIENT_PENALTIES[name](d, REAL, FAKE, generator=draws())
    assert not plain.requires_grad
    torch.testing.assert_close(plain, GRADIENT_PENALTIES[name](d, REAL, FAKE, generator=draws()).detach())


@EACH
@pytest.mark.parametrize("norm", ["none", "bssn"])
def test_under_autocast_penalties_are_float32_and_near_the_exact_ones(name: str, norm: str) -> None:
    d = poise.normalize(small_discriminator(torch.float32), norm)
    real, fake = REAL.float(), FAKE.float()
    exact = GRADIENT_PENALTIES[name](d, real, fake, generator=draws())
    with torch.autocast("cpu", torch.bfloat16):
        rough = GRADIENT_PENALTIES[name](d, real, fake, generator=draws())
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(exact.item(), rel=0.05)
    rough.backward()
    assert all(w.grad is None or w.grad.isfinite().all() for w in d.parameters())


class Attentive(nn.Module):
    """Attention over pixels with queries, keys and values alike, for which torch would take a fused kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.packed, self.out = nn.Linear(3, 24), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.packed(x.flatten(2).mT)[:, None].chunk(3, -1)
        attended = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.out(attended.mean((1, 2))).squeeze(1)


@EACH
@pytest.mark.parametrize("norm", ["none", "bssn"])
def test_attention_has_the_second_derivative(name: str, norm: str) -> None:
    d = poise.normalize(Attentive(), norm)
    GRADIENT_PENALTIES[name](d, REAL.float(), FAKE.float()).backward()
    packed = d.packed.get_parameter("weight" if norm == "none" else "parametrizations.weight.original")  # type: ignore[union-attr]
    assert packed.grad is not None
    assert packed.grad.abs().sum() > 0


@EACH
def test_channels_last_changes_nothing(name: str) -> None:
    d = small_discriminator()
    plain = GRADIENT_PENALTIES[name](d, REAL, FAKE, generator=draws())
    last = [x.contiguous(memory_format=torch.channels_last) for x in (REAL, FAKE)]
    torch.testing.assert_close(GRADIENT_PENALTIES[name](d, *last, generator=draws()), plain)


@pytest.mark.parametrize("name", ["wgan-gp", "zero-centred"])
def test_interpolates_need_pairs(name: str) -> None:
    with pytest.raises(ValueError, match=r"\(4, 3, 4, 4\) and \(3, 3, 4, 4\); .*pairs"):
        GRADIENT_PENALTIES[name](Linear(), REAL, FAKE[:3])


# Weights.


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4), (1, 6)])
def test_orthonormal_is_its_explicit_matrix(shape: tuple[int, int]) -> None:
    w = torch.randn(*shape, generator=draws(), dtype=torch.float64)
    explicit = (w.T @ w - torch.eye(shape[1])).square().sum()
    torch.testing.assert_close(orthonormal(w), explicit, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (1, 6)])
def test_off_diagonal_sums_the_squared_products_of_all_pairs_of_filters(shape: tuple[int, int]) -> None:
    w = torch.randn(*shape, generator=draws(), dtype=torch.float64)
    pairs = [(w[i] @ w[j]).item() ** 2 for i in range(shape[0]) for j in range(shape[0]) if i != j]
    assert off_diagonal(w).item() == pytest.approx(sum(pairs), rel=1e-12)


def test_off_diagonal_lets_filters_keep_their_length_and_orthonormal_does_not() -> None:
    filters = torch.linalg.qr(torch.randn(6, 6, generator=draws(), dtype=torch.float64))[0][:3]
    assert orthonormal(filters).item() == pytest.approx(3, abs=1e-12)  # columns − rows: WᵀW has rank 3 of 6
    for size in (0.1, 7.0):
        assert off_diagonal(size * filters).item() == pytest.approx(0, abs=1e-12)
        assert orthonormal(size * filters) > 3.5


@pytest.mark.parametrize("form", [orthonormal, off_diagonal])
def test_orthogonal_forms_have_their_derivatives(form: Callable[[Tensor], Tensor]) -> None:
    for shape in ((3, 5), (5, 3)):
        w = torch.randn(*shape, generator=draws(), dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(form, w)


class Mixed(nn.Module):
    """A layer of each kind, and a class embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.linear = nn.Linear(4, 6)
        self.conv = nn.Conv2d(4, 6, 3)
        self.transposed = nn.ConvTranspose2d(4, 6, 2)
        self.attention = nn.MultiheadAttention(4, 1)
        self.norm = nn.BatchNorm2d(6)


def explicit_matrices(m: Mixed) -> list[Tensor]:
    packed = m.attention.in_proj_weight
    return [
        m.linear.weight,
        m.conv.weight.reshape(6, 36),
        torch.stack([m.transposed.weight[:, i].flatten() for i in range(6)]),
        *(packed[:4], packed[4:8], packed[8:], m.attention.out_proj.weight),
    ]


def test_every_weight_is_a_matrix_of_its_filters_and_embeddings_are_left_out() -> None:
    module = Mixed()
    found = list(weight_matrices(module))
    assert len(found) == 7
    for matrix, explicit in zip(found, explicit_matrices(module), strict=True):
        torch.testing.assert_close(matrix, explicit, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("penalty", "form"), [(orthonormal_penalty, orthonormal), (off_diagonal_penalty, off_diagonal)]
)
def test_a_modules_penalty_is_the_sum_of_its_weights(penalty: Any, form: Callable[[Tensor], Tensor]) -> None:
    module = Mixed()
    expected = 0.3 * sum(form(matrix.double()).item() for matrix in explicit_matrices(module))
    assert penalty(module, weight=0.3).item() == pytest.approx(expected, rel=1e-5)
    penalty(module, weight=0.3).backward()
    assert module.embedding.weight.grad is None
    assert module.transposed.weight.grad is not None


def test_of_a_normalized_weight_the_trained_tensor_counts() -> None:
    d = small_discriminator()
    before = off_diagonal_penalty(d).item()
    assert off_diagonal_penalty(poise.normalize(d, "sn")).item() == pytest.approx(before)


@pytest.mark.parametrize("penalty", [orthonormal_penalty, off_diagonal_penalty])
def test_under_autocast_weights_are_penalized_in_float32(penalty: Any) -> None:
    d = small_discriminator(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        rough = penalty(d)
    assert torch.equal(rough, penalty(d))


def test_a_module_without_weights_cannot_be_penalized() -> None:
    with pytest.raises(ValueError, match="ReLU has no linear or convolution weight"):
        orthonormal_penalty(nn.ReLU())


# By name, and lazily.


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("every", [1, 3, 16])
def test_a_lazy_penalty_has_the_sum_of_the_one_always_evaluated(name: str, every: int) -> None:
    d = small_discriminator()
    lazy, always = PENALTIES.build(name, every=every), PENALTIES.build(name)

    def total(penalty: Lazy) -> float:
        return sum(penalty(step, d, REAL, FAKE, generator=draws()).item() for step in range(48))

    assert total(lazy) == pytest.approx(total(always), rel=1e-9)


def test_between_its_steps_a_lazy_penalty_computes_nothing() -> None:
    steps: list[int] = []
    step = 0

    def penalty(*_: object) -> Tensor:
        steps.append(step)
        return torch.tensor(2.0)

    values = []
    for step in range(9):
        values.append(Lazy(penalty, 4)(step, nn.Identity(), REAL).item())
    assert steps == [0, 4, 8]
    assert values == [8, 0, 0, 0, 8, 0, 0, 0, 8]


def test_names_build_their_formulas() -> None:
    d = small_discriminator()
    for name, penalty in GRADIENT_PENALTIES.items():
        built = PENALTIES.build(name)(0, d, REAL, FAKE, generator=draws())
        torch.testing.assert_close(built, penalty(d, REAL, FAKE, generator=draws()))
    gan_gp, wgan_gp = (
        PENALTIES.build(n, weight=3.0)(0, d, REAL, FAKE, generator=draws()) for n in ("gan-gp", "wgan-gp")
    )
    assert torch.equal(gan_gp, wgan_gp)
    torch.testing.assert_close(
        PENALTIES.build("off-diagonal", weight=2.0)(0, d, REAL), off_diagonal_penalty(d, weight=2.0)
    )


def test_doubling_gamma_or_weight_doubles_the_penalty() -> None:
    d = small_discriminator()
    for name in PENALTIES:
        option = "gamma" if name in ("r1", "r2") else "weight"
        one, two = (PENALTIES.build(name, **{option: v})(0, d, REAL, FAKE, generator=draws()) for v in (1.5, 3.0))
        torch.testing.assert_close(2 * one, two)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("r3", {}, r"unknown penalty 'r3'; did you mean 'r1'|'r2'"),
        ("r1", {"gama": 1.0}, r"penalty 'r1' has no option 'gama'; did you mean 'gamma'\?"),
        ("r1", {"gamma": -1.0}, r"gamma is -1.0; it must be at least 0"),
        ("dragan", {"deviation": math.inf}, r"deviation is inf; .*finite"),
        ("wgan-gp", {"weight": math.nan}, r"weight is nan; .*finite"),
        ("r1", {"every": 0}, r"every is 0; .*1"),
    ],
)
def test_wrong_settings_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PENALTIES.build(name, **options)
