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


@pytest.mark.parametrize(
    ("ratio", "clamped"),
    [
        (1.0, [2.0, 2.0, 1.0, 0.5]),
        (1.5, [3.0, 2.0, 1.0, 0.5]),
        (2.5, [5.0, 2.0, 1.0, 0.5]),
        (4.0, [5.0, 2.0, 1.0, 0.5]),
    ],
)
def test_by_ratio_the_clamp_is_at_a_multiple_of_the_second_singular_value(ratio, clamped):
    torch.manual_seed(0)
    u, _ = torch.linalg.qr(torch.randn(6, 4, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(9, 4, dtype=torch.float64))
    weight = (u * torch.tensor([5.0, 2.0, 1.0, 0.5])) @ v.T
    SigmaClamp(weight, 0, ratio=ratio).project_(weight)
    expected = (u * torch.tensor(clamped)) @ v.T
    torch.testing.assert_close(weight, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "weight", [torch.zeros(3, 4), torch.ones(3, 4), torch.ones(1, 4), torch.ones(4, 1), torch.ones(1, 1)]
)
def test_by_ratio_a_weight_without_a_second_singular_value_is_left_alone(weight):
    before = weight.clone()
    SigmaClamp(weight, 0, ratio=1.0).project_(weight)
    assert torch.equal(weight, before)


def test_by_ratio_the_clamp_follows_training():
    free, held = network(), network()
    for net in (free, held):
        net(torch.zeros(1, 3, 5, 5))
    held.load_state_dict(free.state_dict())
    poise.normalize(held, "sigma-clamp", ratio=1.1)
    for net in (free, held):
        torch.manual_seed(1)
        steps(net, torch.optim.Adam(net.parameters(), 0.002, maximize=True), 150)
    for loose, kept, row in zip(parameters(free, "weight"), weights(held), (0, 1, 0), strict=True):
        first, second = (torch.linalg.svdvals(w.movedim(row, 0).flatten(1).double())[:2] for w in (loose, kept))
        assert first[0] > 1.2 * first[1]
        assert second[0] < 1.15 * second[1]


def test_each_map_of_a_packed_weight_is_clamped_for_itself():
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(4, 2)
    with torch.no_grad():
        attention.in_proj_weight.mul_(torch.tensor([1.0, 3.0, 10.0]).repeat_interleave(4).unsqueeze(1))
    before = [torch.linalg.svdvals(piece) for piece in attention.in_proj_weight.detach().chunk(3)]
    poise.normalize(attention, "sigma-clamp", sigma=1.5)
    attention.in_proj_weight.sum().backward()
    torch.optim.SGD(attention.parameters(), 1e-9).step()
    for piece, values in zip(attention.in_proj_weight.detach().chunk(3), before, strict=True):
        values[0] = values[0].clamp_max(1.5)
        torch.testing.assert_close(torch.linalg.svdvals(piece), values.sort(descending=True).values)


def test_a_weight_that_is_not_finite_is_left_alone_and_clamped_when_it_is_mended():
    torch.manual_seed(0)
    weight = 10 * torch.randn(4, 5)
    clamp = SigmaClamp(weight, 0, 2.0)
    mended = weight.clone()
    weight[1, 1] = float("nan")
    before = weight.clone()
    clamp.project_(weight)
    torch.testing.assert_close(weight, before, equal_nan=True)
    expected = torch.linalg.svdvals(mended)
    expected[0] = 2.0
    clamp.project_(mended)
    torch.testing.assert_close(torch.linalg.svdvals(mended), expected.sort(descending=True).values)


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
