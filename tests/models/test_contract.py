"""What holds for every architecture: shapes, ranges, labels, errors that help, and every norm on every D."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import poise
from poise.models import MODELS, create, sizes
from poise.models.network import Discriminator, Generator
from poise.norms import NORMS, weight_penalty

TINY: dict[str, dict[str, Any]] = {
    "mlp": {"width": 8, "latent_dim": 3},
    "dcgan": {"resolution": 32, "width": 4, "latent_dim": 5, "layer_norm": "none"},
    "sngan-cnn": {"resolution": 16, "width": 4, "latent_dim": 5},
    "sngan": {"resolution": 32, "width": 4, "latent_dim": 5, "num_classes": 3},
    "wngan": {"resolution": 32, "width": 4, "blocks": 1, "latent_dim": 5, "layer_norm": "none"},
    "sagan": {"resolution": 32, "width": 16, "latent_dim": 5, "num_classes": 3},
    "biggan": {"resolution": 32, "width": 8, "num_classes": 3},
    "biggan-deep": {"resolution": 128, "width": 8, "latent_dim": 5, "num_classes": 3},
    "r3gan": {"resolution": 8, "width": 16, "latent_dim": 5, "num_classes": 3},
}
EACH_MODEL = pytest.mark.parametrize("name", MODELS)
N = 2


def pair(name: str, **options: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    return create(name, **{**TINY[name], **options})


def inputs(g: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    z = torch.randn(N, g.latent_dim, generator=torch.Generator().manual_seed(1))
    return z, (torch.tensor([0, 2]),) if g.num_classes else ()


@EACH_MODEL
def test_images_and_logits_keep_the_contract(name: str) -> None:
    g, d = pair(name)
    z, y = inputs(g)
    images = g(z, *y)
    if g.resolution:
        assert images.shape == (N, 3, g.resolution, g.resolution)
        assert images.abs().max() <= 1
    else:
        assert images.shape == (N, 2)
    assert d(images, *y).shape == (N,)
    assert (g.num_classes, g.resolution) == (d.num_classes, d.resolution)


@EACH_MODEL
def test_sizes_count_parameters_and_are_the_same_without_memory(name: str) -> None:
    with torch.device("meta"):
        counted = [sizes(network) for network in pair(name)]
    real = pair(name)
    assert counted == [sizes(network) for network in real]
    assert [found.parameters for found in counted] == [sum(p.numel() for p in network.parameters()) for network in real]
    assert all(found.macs > 0 for found in counted)


@EACH_MODEL
def test_the_generator_is_drawn_first(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what a seed draws for it does not depend on the discriminator's options."""
    begun: list[type] = []
    for kind in (Generator, Discriminator):
        monkeypatch.setattr(kind, "__init__", _noted(kind, begun))
    pair(name)
    assert begun == [Generator, Discriminator]


def _noted(kind: Any, begun: list[type]) -> Any:
    build = kind.__init__

    def noted(self: Any, *args: Any) -> None:
        begun.append(kind)
        build(self, *args)

    return noted


@EACH_MODEL
def test_the_same_seed_builds_the_same_networks_and_they_copy(name: str) -> None:
    for one, other in zip(pair(name), pair(name), strict=True):
        torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)
    g, _ = pair(name)
    z, y = inputs(g)
    torch.testing.assert_close(copy.deepcopy(g).eval()(z, *y), g.eval()(z, *y), rtol=0, atol=0)


@EACH_MODEL
def test_what_does_not_fit_is_refused(name: str) -> None:
    g, d = pair(name)
    z, y = inputs(g)
    x = g(z, *y).detach()
    with pytest.raises(ValueError, match=rf"\(2, {g.latent_dim + 1}\).*\(n, {g.latent_dim}\)"):
        g(torch.zeros(2, g.latent_dim + 1), *y)
    with pytest.raises(ValueError, match=r"takes|points"):
        d(torch.zeros(2, 3, 7, 7), *y)
    for network, given in ((g, z), (d, x)):
        if not g.num_classes:
            with pytest.raises(ValueError, match="labels were given"):
                network(given, torch.zeros(N, dtype=torch.int64))
            continue
        with pytest.raises(ValueError, match=r"has 3 classes; give labels y of shape \(2,\)"):
            network(given)
        for wrong, near in ((3, 2), (-1, 0), (40, 2)):
            with pytest.raises(ValueError, match=rf"a label is {wrong}; .* labels 0 to 2: nearest {near}"):
                network(given, torch.tensor([0, wrong]))
        with pytest.raises(ValueError, match=r"labels are float32 of shape \(2,\)"):
            network(given, torch.zeros(2))
        with pytest.raises(ValueError, match=r"labels are int64 of shape \(3,\)"):
            network(given, torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize("name", [name for name in MODELS if "resolution" in MODELS.options(name)])
def test_a_resolution_that_it_does_not_have_is_told_with_the_nearest(name: str) -> None:
    with pytest.raises(ValueError, match=r"resolution is 37; .*nearest"):
        pair(name, resolution=37)


@EACH_MODEL
@pytest.mark.parametrize(
    "norm", [pytest.param(norm, marks=[] if norm == "bssn" else pytest.mark.slow) for norm in NORMS]
)
def test_every_discriminator_takes_every_norm(name: str, norm: str) -> None:
    g, d = pair(name)
    z, y = inputs(g)
    x = g(z, *y).detach()
    poise.normalize(d, norm)
    optimizer = torch.optim.Adam(d.parameters(), 1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        (nn.functional.softplus(-d(x, *y)).mean() + weight_penalty(d)).backward()
        optimizer.step()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in d.parameters())
    assert d.eval()(x, *y).isfinite().all()


def test_norms_are_put_on_by_create() -> None:
    g, d = create("sngan-cnn", resolution=16, width=4, norm={"name": "bssn", "scale": 1.2}, g_norm="sn")
    for network, norm in ((g, "sn"), (d, "bssn")):
        by_hand = poise.normalize(create("sngan-cnn", resolution=16, width=4)[network is d], norm)
        assert network.state_dict().keys() == by_hand.state_dict().keys()
    with pytest.raises(ValueError, match="unknown norm 'snn'; did you mean 'sn'"):
        create("sngan-cnn", norm="snn")
    with pytest.raises(ValueError, match="has no option 'scale'"):
        create("sngan-cnn", norm={"name": "sn", "scale": 2.0})
    with pytest.raises(ValueError, match="a mapping with the key 'name'"):
        create("sngan-cnn", norm={"scale": 2.0})
