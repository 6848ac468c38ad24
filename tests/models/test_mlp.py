"""Perceptrons for points in the plane: their formula, what they refuse, and that they learn a ring."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from poise.data.toys import ring
from poise.metrics.coverage import covered
from poise.models.mlp import ACTIVATIONS, mlp
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
