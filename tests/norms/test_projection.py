"""Weights put back after each optimizer step: clipping, and BigGAN's clamp of the largest singular value."""

import copy
import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

import poise
from poise.norms import SigmaClamp

OPTIMIZERS = {
    "SGD": lambda weights: torch.optim.SGD(weights, 0.5),
    "Adam": lambda weights: torch.optim.Adam(weights, 0.1),
    "fused Adam": lambda weights: torch.optim.Adam(weights, 0.1, fused=True),
    "RMSprop": lambda weights: torch.optim.RMSprop(weights, 0.1),
}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.ConvTranspose2d(6, 4, 2), nn.Flatten(), nn.LazyLinear(2))


def steps(net: nn.Module, optimizer: torch.optim.Optimizer, n: int) -> None:
    for _ in range(n):
        optimizer.zero_grad()
        net(torch.randn(4, 3, 5, 5)).square().sum().backward()
        optimizer.step()


def weights(net: nn.Module) -> list[Tensor]:
    return [p.detach() for name, p in net.named_parameters() if name.endswith("original")]


def parameters(net: nn.Module, kind: str) -> list[Tensor]:
    """Plain weights or biases of the three layers, in order."""
    return [p.detach() for name, p in net.named_parameters() if name.endswith(kind) and "parametr" not in name]


def sigma(weight: Tensor, row_dim: int) -> float:
    return torch.linalg.svdvals(weight.movedim(row_dim, 0).flatten(1).double())[0].item()


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=list(OPTIMIZERS))
def test_every_step_ends_inside_the_bound(optimizer):
    net = network()
    net(torch.zeros(1, 3, 5, 5))
    poise.normalize(net, "clip", bound=0.05)
    biases = [bias.clone() for bias in parameters(net, "bias")]
    steps(net, optimizer(net.parameters()), 1)
    assert all(weight.abs().max() <= 0.05 for weight in weights(net))
    assert max(weight.abs().max().item() for weight in weights(net)) == pytest.approx(0.05)
    assert not any(torch.equal(a, b) for a, b in zip(parameters(net, "bias"), biases, strict=True))


def test_the_clamp_subtracts_the_excess_along_the_leading_pair():
    torch.manual_seed(0)
    u, _ = torch.linalg.qr(torch.randn(6, 4, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(9, 4, dtype=torch.float64))
    weight = (u * torch.tensor([5.0, 2.0, 1.0, 0.5])) @ v.T
    SigmaClamp(weight, 0, 3.0).project_(weight)
    torch.testing.assert_close(torch.linalg.svdvals(weight)[:4], torch.tensor([3.0, 2.0, 1.0, 0.5]).double())
    before = weight.clone()
    SigmaClamp(weight, 0, 3.5).project_(weight)
    assert torch.equal(weight, before)


def test_the_clamp_holds_sigma_through_training_that_would_raise_it():
    free, held = network(), network()
    for net in (free, held):
        net(torch.zeros(1, 3, 5, 5))
    held.load_state_dict(free.state_dict())
    poise.normalize(held, "sigma-clamp", sigma=1.0)
    for net in (free, held):
        torch.manual_seed(1)
        steps(net, torch.optim.Adam(net.parameters(), 0.002, maximize=True), 150)
    rows = (0, 1, 0)
    risen = [sigma(weight, row) for weight, row in zip(parameters(free, "weight"), rows, strict=True)]
    kept = [sigma(weight, row) for weight, row in zip(weights(held), rows, strict=True)]
    assert min(risen) > 1.5
    # Only σ₀ is clamped: one that another has just overtaken stands above the clamp until its turn comes.
    assert all(low < 1 + 0.2 * (high - 1) for low, high in zip(kept, risen, strict=True))


@pytest.mark.parametrize(("norm", "options"), [("clip", {"bound": 0.05}), ("sigma-clamp", {"sigma": 0.5})])
def test_copies_are_projected_on_their_own_and_baking_ends_it(norm, options):
    net = network()
    net(torch.zeros(1, 3, 5, 5))
    poise.normalize(net, norm, **options)
    twin = copy.deepcopy(net)
    before = [weight.clone() for weight in weights(net)]
    steps(twin, torch.optim.SGD(twin.parameters(), 0.5), 2)
    assert all(torch.equal(a, b) for a, b in zip(weights(net), before, strict=True))
    if norm == "clip":
        assert all(weight.abs().max() <= 0.05 for weight in weights(twin))
    poise.denormalize(twin)
    assert not any("parametrizations" in name for name, _ in twin.named_parameters())
    steps(twin, torch.optim.SGD(twin.parameters(), 0.5), 1)
    assert max(weight.abs().max().item() for weight in parameters(twin, "weight")) > 0.05


def test_weights_without_a_gradient_are_left_alone():
    net = network()
    net(torch.zeros(1, 3, 5, 5))
    poise.normalize(net, "clip", bound=1e-3)
    before = [weight.clone() for weight in weights(net)]
    torch.optim.SGD(net.parameters(), 0.5).step()
    assert all(torch.equal(a, b) for a, b in zip(weights(net), before, strict=True))


def test_a_projected_network_can_be_freed():
    net = network()
    net(torch.zeros(1, 3, 5, 5))
    poise.normalize(net, "clip")
    gone = weakref.ref(net[0])
    del net
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("norm", "options", "said"),
    [
        ("clip", {"bound": 0.0}, "bound is 0.0; it must be above 0"),
        ("clip", {"bound": float("nan")}, "bound is nan"),
        ("sigma-clamp", {"sigma": -1.0}, "sigma is -1.0; it must be above 0"),
        ("clip", {"sigma": 1.0}, "norm 'clip' has no option 'sigma'; known: bound"),
    ],
)
def test_a_bad_option_is_refused(norm, options, said):
    with pytest.raises(ValueError, match=said):
        poise.normalize(nn.Linear(2, 2), norm, **options)
