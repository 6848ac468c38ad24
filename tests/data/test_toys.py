"""Toys: mixtures where they should be, and points of them that are a pure function of (seed, position)."""

from __future__ import annotations

import math

import pytest
import torch

from poise.data import SOURCES
from poise.data.toys import grid, ring


@pytest.mark.parametrize("modes", [1, 2, 8, 13])
def test_a_ring_has_its_modes_at_equal_distances_on_its_circle(modes):
    mixture = ring(modes, radius=3)
    centres = mixture.centres.double()
    assert centres.shape == (modes, 2)
    torch.testing.assert_close(centres.norm(dim=1), torch.full((modes,), 3.0).double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(centres[0], torch.tensor([3.0, 0.0]).double())
    chords = (centres - centres.roll(1, 0)).norm(dim=1)
    expected = torch.full((modes,), 6 * math.sin(math.pi / modes)).double()
    torch.testing.assert_close(chords, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", [1, 2, 5])
def test_a_grid_has_its_modes_a_spacing_apart_about_the_origin(side):
    centres = grid(side, spacing=3.0).centres
    assert centres.shape == (side**2, 2)
    assert centres.mean(0).abs().max() < 1e-6
    if side > 1:
        apart = torch.cdist(centres, centres) + 100 * torch.eye(side**2)
        torch.testing.assert_close(apart.min(1).values, torch.full((side**2,), 3.0))
    assert float(centres.abs().max()) == pytest.approx(3 * (side - 1) / 2)


def test_samples_have_the_mixtures_moments_and_its_generators_order():
    mixture = grid(2, spacing=10.0, std=0.5)
    points = mixture.sample(40_000, torch.Generator().manual_seed(1))
    assert torch.equal(points, mixture.sample(40_000, torch.Generator().manual_seed(1)))
    distance, nearest = torch.cdist(points, mixture.centres).min(1)
    assert torch.bincount(nearest).tolist() == pytest.approx([10_000] * 4, rel=0.05)
    assert float(distance.square().mean()) == pytest.approx(2 * 0.5**2, rel=0.03)


@pytest.mark.parametrize(("name", "modes", "mixture"), [("ring2d", 8, ring()), ("grid2d", 25, grid())])
def test_points_have_their_mixtures_moments_and_say_their_mode(name, modes, mixture):
    source = SOURCES.build(name, seed=3)
    assert (source.num_classes, source.resolution) == (modes, 0)
    points, labels = source.batch(0, 40_000)
    assert (points.shape, points.dtype, labels.dtype) == ((40_000, 2), torch.float32, torch.int64)
    assert torch.equal(torch.cdist(points, mixture.centres).argmin(1), labels)
    assert torch.bincount(labels).tolist() == pytest.approx([40_000 / modes] * modes, rel=0.1)
    residual = (points - mixture.centres[labels]) / mixture.std
    assert residual.mean(0).abs().max() < 0.02
    torch.testing.assert_close(residual.T.cov(), torch.eye(2), atol=0.03, rtol=0)


@pytest.mark.parametrize("name", ["ring2d", "grid2d"])
def test_points_depend_on_seed_and_position_alone(name):
    source = SOURCES.build(name, seed=1)
    whole, labels = source.batch(5, 10)
    parts = [source.batch(5, 3), SOURCES.build(name, seed=1).batch(8, 7)]
    assert torch.equal(whole, torch.cat([points for points, _ in parts]))
    assert torch.equal(labels, torch.cat([of for _, of in parts]))
    assert not torch.equal(whole, SOURCES.build(name, seed=2).batch(5, 10)[0])


@pytest.mark.parametrize(
    ("name", "options", "modes"), [("ring2d", {"modes": 5, "radius": 1.0, "std": 0.1}, 5), ("grid2d", {"side": 3}, 9)]
)
def test_a_toys_options_are_its_mixtures(name, options, modes):
    assert SOURCES.build(name, **options).num_classes == modes


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: ring(0), "^modes is 0; it must be at least 1"),
        (lambda: ring(radius=0.0), "^radius is 0.0; it must be above 0"),
        (lambda: ring(std=-1.0), "^std is -1.0; it must be above 0"),
        (lambda: grid(0), "^side is 0; it must be at least 1"),
        (lambda: grid(spacing=float("nan")), "^spacing is nan; it must be above 0"),
    ],
)
def test_wrong_toys_are_refused(call, told):
    with pytest.raises(ValueError, match=told):
        call()
