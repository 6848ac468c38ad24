"""Batch norm over processes: as torch's own on the whole batch, where every process is given the same half of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from poise import replicas
from poise.layers import ClassBatchNorm, CrossReplicaBatchNorm, cross_replica

KINDS: dict[str, Any] = {
    "2-D": lambda: nn.BatchNorm2d(3),
    "plain": lambda: nn.BatchNorm2d(3, affine=False),
    "mean of all": lambda: nn.BatchNorm2d(3, momentum=None),
    "untracked": lambda: nn.BatchNorm2d(3, track_running_stats=False),
    "1-D": lambda: nn.BatchNorm1d(3),
    "3-D": lambda: nn.BatchNorm3d(3),
}
DIMENSIONS = {"1-D": (4, 3), "3-D": (4, 3, 2, 2, 2)}


@pytest.fixture
def two_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two replicas that hold equal tensors: their mean is that of either."""
    monkeypatch.setattr(replicas, "place", lambda: (0, 2))
    monkeypatch.setattr(replicas, "mean", lambda x: x)


@pytest.mark.parametrize("kind", KINDS)
def test_two_equal_halves_are_normalized_as_the_whole(kind: str, two_alike: None) -> None:
    torch.manual_seed(0)
    whole = KINDS[kind]().double()
    for parameter in whole.parameters():
        nn.init.normal_(parameter)
    parted = cross_replica(copy.deepcopy(whole))
    assert isinstance(parted, CrossReplicaBatchNorm)
    for _ in range(2):
        x = (torch.randn(DIMENSIONS.get(kind, (4, 3, 5, 5)), dtype=torch.float64) + 3).requires_grad_()
        outer = torch.randn_like(x)
        found, expected = parted(x), whole(torch.cat([x, x]))[:4]
        torch.testing.assert_close(found, expected)
        (slope,) = torch.autograd.grad((found * outer).sum(), x, create_graph=True)
        curved = torch.autograd.grad(slope.square().sum(), x)[0]
        (wanted,) = torch.autograd.grad((whole.__class__.forward(copy.deepcopy(whole), x) * outer).sum(), x)
        torch.testing.assert_close(slope, wanted)  # of a half that is the whole
        assert curved.abs().max() > 0
    torch.testing.assert_close(dict(parted.state_dict()), dict(whole.state_dict()))
    torch.testing.assert_close(parted.eval()(x), whole.eval()(x) if whole.track_running_stats else found)


@pytest.mark.parametrize("training", [True, False])
def test_alone_it_is_torchs_own_bit_for_bit(training: bool) -> None:
    torch.manual_seed(0)
    own = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train(training)
    converted = cross_replica(copy.deepcopy(own))
    x = torch.randn(4, 3, 6, 6)
    with replicas.together():  # of no process group
        assert torch.equal(converted(x), own(x))
    torch.testing.assert_close(dict(converted.state_dict()), dict(own.state_dict()), rtol=0, atol=0)


def test_statistics_are_found_in_float32_and_the_output_keeps_its_type(two_alike: None) -> None:
    layer = cross_replica(ClassBatchNorm(3, 2)).bfloat16()
    x = (100 + torch.randn(8, 3, 4, 4)).bfloat16()
    found = layer.get_submodule("norm")(x)
    assert found.dtype == torch.bfloat16
    wide = x.double()
    expected = (wide - wide.mean((0, 2, 3), keepdim=True)) / wide.var((0, 2, 3), correction=0, keepdim=True).sqrt()
    torch.testing.assert_close(found.double(), expected, rtol=1e-2, atol=1e-2)


def test_layers_stay_what_they_were_and_others_are_left_alone() -> None:
    class Own(nn.BatchNorm2d):
        pass

    module = nn.Sequential(nn.BatchNorm2d(2), Own(2), nn.SyncBatchNorm(2), nn.InstanceNorm2d(2))
    layers = list(module)
    assert cross_replica(module) is module
    assert list(module) == layers
    assert [type(layer) for layer in module] == [CrossReplicaBatchNorm, Own, nn.SyncBatchNorm, nn.InstanceNorm2d]
