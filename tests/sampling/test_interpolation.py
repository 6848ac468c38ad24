"""Paths: ends exact, slerp on the sphere, no NaN for parallel or opposite ends; classes met at their own images."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from poise.layers import ClassBatchNorm, ConditionBatchNorm
from poise.sampling import class_path, interpolation, linear, spherical

Path = Callable[[Tensor, Tensor, int], Tensor]


def vectors(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("path", [linear, spherical])
@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 5)])
@pytest.mark.parametrize("steps", [2, 3, 9])
def test_a_path_has_its_steps_and_its_ends(path: Path, shape: tuple[int, ...], steps: int) -> None:
    a, b = vectors(0, *shape).float(), vectors(1, *shape).float()
    found = path(a, b, steps)
    assert (found.shape, found.dtype) == ((steps, *shape), torch.float32)
    assert torch.equal(found[0], a)
    assert torch.equal(found[-1], b)


def test_linear_is_its_formula() -> None:
    a, b = vectors(0, 4, 5), vectors(1, 4, 5)
    for t, between in zip((0, 0.25, 0.5, 0.75, 1), linear(a, b, 5), strict=True):
        torch.testing.assert_close(between, (1 - t) * a + t * b)


@pytest.mark.parametrize("dim", [2, 3, 128])
def test_of_equal_norms_spherical_is_slerp(dim: int) -> None:
    a, b = vectors(0, 6, dim), vectors(1, 6, dim)
    b = b / b.norm(dim=1, keepdim=True) * a.norm(dim=1, keepdim=True)
    angle = torch.nn.functional.cosine_similarity(a, b).acos()[:, None]
    for t, between in zip(torch.linspace(0, 1, 7).tolist(), spherical(a, b, 7), strict=True):
        slerp = (((1 - t) * angle).sin() * a + (t * angle).sin() * b) / angle.sin()
        torch.testing.assert_close(between, slerp, rtol=1e-6, atol=1e-6)


@given(
    seed=st.integers(0, 10**6), nearness=st.sampled_from([0.0, 1e-12, 1e-8, 1e-3, 1.0]), sign=st.sampled_from([1, -1])
)
@settings(max_examples=60, deadline=None)
def test_spherical_turns_evenly_and_its_norm_changes_evenly(seed: int, nearness: float, sign: int) -> None:
    a = vectors(seed, 7)
    b = sign * 2 * (a + nearness * vectors(seed + 1, 7))
    path = spherical(a, b, 9)
    assert path.isfinite().all()
    lengths = path.norm(dim=1)
    torch.testing.assert_close(
        lengths, torch.linspace(1, 0, 9).double() * a.norm() + torch.linspace(0, 1, 9) * b.norm()
    )
    directions = path / lengths[:, None]
    chords = (directions[1:] - directions[:-1]).norm(dim=1)
    torch.testing.assert_close(chords, chords[:1].expand(8), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_between_opposite_ends_the_path_goes_round_and_not_through_zero(dtype: torch.dtype) -> None:
    a = vectors(0, 8).to(dtype)
    path = spherical(a, -a, 5)
    torch.testing.assert_close(path.norm(dim=1), a.norm().expand(5))
    assert (path[2] @ a).abs() < 1e-5 * a.norm() ** 2  # halfway it is at a right angle


def test_between_equal_ends_the_path_stays() -> None:
    a = vectors(0, 3, 8)
    torch.testing.assert_close(spherical(a, a.clone(), 5), a.expand(5, 3, 8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_spherical_from_or_to_zero_is_finite_and_grows_evenly(dtype: torch.dtype) -> None:
    a, zero = vectors(0, 8).to(dtype), torch.zeros(8, dtype=dtype)
    for path in (spherical(zero, a, 5), spherical(a, zero, 5).flip(0)):
        assert path.isfinite().all()
        assert (path.norm(dim=1).diff() > 0).all()


@pytest.mark.parametrize("path", [linear, spherical])
def test_wrong_paths_are_refused(path: Path) -> None:
    with pytest.raises(ValueError, match=r"steps is 1; .*2 ends"):
        path(torch.zeros(3), torch.zeros(3), 1)
    with pytest.raises(ValueError, match=r"shapes \(3,\) and \(4,\)"):
        path(torch.zeros(3), torch.zeros(4), 5)


# Classes.


class Shared(nn.Module):
    """A generator with one class embedding for its batch norm, as BigGAN's."""

    latent_dim, num_classes, resolution = 4, 5, 2

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 6)
        self.linear = nn.Linear(4, 12)
        self.norm = ConditionBatchNorm(3, 6)

    def images(self, z: Tensor, e: Tensor) -> Tensor:
        return self.norm(self.linear(z).unflatten(1, (3, 2, 2)), e)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return self.images(z, self.embedding(y))


class PerClass(nn.Module):
    """A generator whose batch norm has a gain and a bias for each class, as SNGAN's."""

    latent_dim, num_classes, resolution = 4, 5, 2

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 12)
        self.norm = ClassBatchNorm(3, 5)
        nn.init.normal_(self.norm.gain.weight)
        nn.init.normal_(self.norm.bias.weight)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return self.norm(self.linear(z).unflatten(1, (3, 2, 2)), y)


@pytest.fixture(params=[Shared, PerClass])
def generator(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return request.param().eval()


Y_FROM, Y_TO = torch.tensor([0, 3, 2]), torch.tensor([4, 1, 2])


def test_a_class_path_begins_and_ends_at_the_classes_images(generator: nn.Module) -> None:
    z = vectors(0, 3, 4).float()
    path = class_path(generator, z, Y_FROM, Y_TO, 5)
    assert path.shape == (5, 3, 3, 2, 2)
    torch.testing.assert_close(path[0], generator(z, Y_FROM))
    torch.testing.assert_close(path[-1], generator(z, Y_TO))
    torch.testing.assert_close(path[2, 2], path[0, 2])  # from a class to itself


def test_between_classes_the_embedding_is_interpolated() -> None:
    torch.manual_seed(0)
    generator, z = Shared().eval(), vectors(0, 3, 4).float()
    path = class_path(generator, z, Y_FROM, Y_TO, 5)
    first, last = generator.embedding(Y_FROM), generator.embedding(Y_TO)
    for t, images in zip((0, 0.25, 0.5, 0.75, 1), path, strict=True):
        torch.testing.assert_close(images, generator.images(z, (1 - t) * first + t * last))


def test_between_classes_gains_and_biases_are_interpolated() -> None:
    torch.manual_seed(0)
    generator, z = PerClass().eval(), vectors(0, 2, 4).float()
    path = class_path(generator, z, 0, 3, 3)
    gain, bias = ((e.weight[0] + e.weight[3]) / 2 for e in (generator.norm.gain, generator.norm.bias))
    h = generator.norm.norm(generator.linear(z).unflatten(1, (3, 2, 2)))
    torch.testing.assert_close(path[1], gain[:, None, None] * h + bias[:, None, None])


def test_a_class_path_is_the_same_in_any_batches_and_leaves_no_trace(
    generator: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    z = vectors(0, 3, 4).float()
    whole = class_path(generator, z, Y_FROM, Y_TO, 4)
    monkeypatch.setattr(interpolation, "BATCH", 5)
    torch.testing.assert_close(class_path(generator, z, Y_FROM, Y_TO, 4), whole)
    assert not any(layer._forward_hooks for layer in generator.modules())
    torch.testing.assert_close(generator(z, Y_TO), whole[-1])


class Deaf(Shared):
    """Has an embedding and does not look at it."""

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return self.images(z, torch.zeros(len(z), 6) + y.sum())


class Bare(nn.Module):
    latent_dim, num_classes, resolution = 4, 5, 2


class Unconditional(nn.Module):
    latent_dim, num_classes, resolution = 4, 0, 2


@pytest.mark.parametrize(
    ("kind", "y", "steps", "message"),
    [
        (Unconditional, 1, 3, "Unconditional has no classes"),
        (Bare, 1, 3, "Bare has no class embedding"),
        (Deaf, 1, 3, "Deaf looked no label up"),
        (Shared, 5, 3, "label is 5; .*nearest 4"),
        (Shared, 1, 1, "steps is 1; .*2 ends"),
    ],
)
def test_paths_that_cannot_be_are_refused(kind: type[nn.Module], y: int, steps: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_path(kind(), torch.zeros(2, 4), 0, y, steps)


def test_the_angle_of_a_quarter_turn() -> None:
    path = spherical(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 3)
    torch.testing.assert_close(path[1], torch.full((2,), math.sqrt(0.5)))
