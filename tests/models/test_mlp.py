"""Perceptrons for points in the plane, the mixtures they are to learn, and that they learn one."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from poise.models.mlp import ACTIVATIONS, mlp
from poise.models.toys import MODES, Mixture, covered, grid, ring
from poise.norms import NORMS, normalize


def pair(*sizes, **options):
    """The networks, whose parts mypy need not know."""
    return mlp(*sizes, **options)


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("depth", [1, 3])
def test_shapes_counts_and_gradients(depth, activation):
    g, d = pair(width=7, depth=depth, latent_dim=4, activation=activation)
    assert (g.latent_dim, g.num_classes, g.resolution, d.num_classes, d.resolution) == (4, 0, 0, 0, 0)
    points = g(torch.randn(20, 4))
    assert points.shape == (20, 2)
    assert d(points).shape == (20,)
    hidden = (depth - 1) * (7 * 7 + 7)
    assert sum(w.numel() for w in g.parameters()) == 4 * 7 + 7 + hidden + 7 * 2 + 2
    assert sum(w.numel() for w in d.parameters()) == 2 * 7 + 7 + hidden + 7 + 1
    d(points).square().sum().backward()
    assert all(weight.grad.abs().max() > 0 for weight in [*g.parameters(), *d.parameters()])


def test_the_discriminator_is_its_formula():
    _, d = pair(width=5, depth=2, activation="tanh")
    first, _, second, _, last = d.double().layers
    points = torch.randn(6, 2, dtype=torch.float64)
    h = (points @ first.weight.T + first.bias).tanh()
    h = (h @ second.weight.T + second.bias).tanh()
    torch.testing.assert_close(d(points), h @ last.weight[0] + last.bias)


@pytest.mark.parametrize("norm", NORMS)
def test_the_discriminator_runs_under_every_norm(norm):
    _, d = pair(width=8)
    normalize(d, norm)
    logits = d(torch.randn(5, 2))
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in d.parameters())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"width": 0}, "^width is 0; it must be at least 1"),
        ({"depth": 0}, "^depth is 0; it must be at least 1"),
        ({"latent_dim": 0}, "^latent_dim is 0; it must be at least 1"),
        ({"activation": "relo"}, r"^unknown activation 'relo'; did you mean 'relu'\?"),
    ],
)
def test_wrong_options_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        pair(**options)


def test_wrong_points_and_labels_are_refused():
    g, d = pair(width=2, latent_dim=3)
    with pytest.raises(ValueError, match=r"^points have shape \(2, 3\); this discriminator takes \(n, 2\)"):
        d(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"^latents have shape \(2, 2\)"):
        g(torch.zeros(2, 2))
    for player, inputs in ((g, torch.zeros(2, 3)), (d, torch.zeros(2, 2))):
        with pytest.raises(ValueError, match="labels were given"):
            player(inputs, torch.zeros(2, dtype=torch.int64))


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


def test_the_usual_toys_have_8_and_25_modes():
    assert MODES == {"ring": len(ring().centres), "grid": len(grid().centres)} == {"ring": 8, "grid": 25}


def test_samples_have_the_mixtures_moments_and_its_generators_order():
    mixture = grid(2, spacing=10.0, std=0.5)
    points = mixture.sample(40_000, torch.Generator().manual_seed(1))
    assert torch.equal(points, mixture.sample(40_000, torch.Generator().manual_seed(1)))
    distance, nearest = torch.cdist(points, mixture.centres).min(1)
    assert torch.bincount(nearest).tolist() == pytest.approx([10_000] * 4, rel=0.05)
    assert float(distance.square().mean()) == pytest.approx(2 * 0.5**2, rel=0.03)


def test_covered_counts_modes_with_a_good_point():
    mixture = Mixture(torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]), std=1.0)
    points = torch.tensor([[2.9, 0.0], [0.0, -2.0], [10.0, 3.1], [0.0, 9.0]])  # good, good, too far, good
    found = covered(points, mixture)
    assert (found.modes, found.of, found.good) == (2, 3, 0.75)


def test_the_target_itself_covers_all_modes_and_is_as_good_as_theory_says():
    for mixture in (ring(), grid()):
        found = covered(mixture.sample(20_000, torch.Generator().manual_seed(0)), mixture)
        assert found.modes == found.of
        assert found.good == pytest.approx(1 - math.exp(-(3**2) / 2), abs=0.003)  # a Rayleigh distance


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: ring(0), "^modes is 0; it must be at least 1"),
        (lambda: ring(radius=0.0), "^radius is 0.0; it must be above 0"),
        (lambda: ring(std=-1.0), "^std is -1.0; it must be above 0"),
        (lambda: grid(0), "^side is 0; it must be at least 1"),
        (lambda: grid(spacing=float("nan")), "^spacing is nan; it must be above 0"),
        (lambda: covered(torch.zeros(3), ring()), r"^points have shape \(3,\); give \(n, 2\)"),
        (lambda: covered(torch.zeros(0, 2), ring()), r"^points have shape \(0, 2\); .* n at least 1"),
    ],
)
def test_wrong_toys_and_points_are_refused(call, told):
    with pytest.raises(ValueError, match=told):
        call()


def test_a_pair_learns_a_ring_it_did_not_cover():
    # Relativistic pairing with R1 and R2, which balance the players whatever the seed (Huang et al. 2025).
    mixture = ring(4, radius=1.0, std=0.15)
    g, d = pair(width=64, latent_dim=8, activation="leaky")
    z = torch.randn(2000, 8)
    assert covered(g(z).detach(), mixture).good < 0.2
    of_g, of_d = (torch.optim.Adam(player.parameters(), lr=2e-3, betas=(0.0, 0.9)) for player in (g, d))
    for _ in range(400):
        real = mixture.sample(128)
        points = torch.cat([real, g(torch.randn(128, 8)).detach()]).requires_grad_()
        logits = d(points)
        (slope,) = torch.autograd.grad(logits.sum(), points, create_graph=True)
        of_real, of_fake = logits.chunk(2)
        _step(of_d, F.softplus(of_fake - of_real).mean() + 0.1 * slope.square().sum(1).mean())
        _step(of_g, F.softplus(d(real) - d(g(torch.randn(128, 8)))).mean())
    found = covered(g(z).detach(), mixture)
    assert found.modes == 4
    assert found.good > 0.6


def _step(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def test_layers_are_plain_so_that_any_norm_finds_them():
    for player in pair():
        assert [type(layer) for layer in player.layers if list(layer.parameters())] == [nn.Linear] * 3
