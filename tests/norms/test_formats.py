"""Memory formats, devices without memory, and number formats of whole networks."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import poise
from poise.norms import normalized_weights

NORMS: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        name: (name, {}) for name in ("sn", "ssn", "bsn", "bssn", "wn", "wn-strict", "frobenius", "clip", "sigma-clamp")
    },
    "γ per layer": ("bssn", {"gamma": "per-layer"}),
    "γ shared": ("sn", {"gamma": "shared"}),
    "operator": ("sn", {"operator": "conv"}),
    "operator, known size": ("ssn", {"operator": "conv", "input_size": 4}),
}
SLOW = pytest.mark.slow
QUICK = ("bssn", "γ shared")  # the others take as long again, and more
EACH_NORM = pytest.mark.parametrize(
    "norm",
    [pytest.param(norm, id=name, marks=() if name in QUICK else pytest.mark.slow) for name, norm in NORMS.items()],
)
CHANNELS_LAST = torch.channels_last


def images(n: int = 4) -> Tensor:
    return torch.randn(n, 3, 4, 4, generator=torch.Generator().manual_seed(n))


def kernels(network: nn.Module) -> list[nn.Module]:
    return [part for part in network.modules() if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d))]


def train(network: nn.Module, steps: int = 3, memory_format: torch.memory_format = torch.contiguous_format) -> None:
    torch.manual_seed(3)  # an operator norm begins at random at its first forward
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        dtype = next(network.parameters()).dtype
        real = images().to(dtype).contiguous(memory_format=memory_format).requires_grad_()
        logits = network(real)
        (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
        (logits.sigmoid().sum() + gradient.square().sum()).backward()
        optimizer.step()


@EACH_NORM
@pytest.mark.parametrize("when", ["before", "after", "in training"])
def test_channels_last_is_kept_and_trains_as_contiguous_does(network, norm, when):
    network.double()
    if when == "before":
        network.to(memory_format=CHANNELS_LAST)
    poise.normalize(network, norm[0], **norm[1])
    contiguous = copy.deepcopy(network)
    contiguous.to(memory_format=torch.contiguous_format)
    for parameter in contiguous.parameters():
        parameter.data = parameter.data.contiguous()
    if when == "in training":
        train(contiguous, 2)
        train(network, 2)
    if when != "before":
        network.to(memory_format=CHANNELS_LAST)
    train(contiguous)
    train(network, memory_format=CHANNELS_LAST)
    found, wanted = dict(network.state_dict()), dict(contiguous.state_dict())
    if norm[1] == {"operator": "conv"}:  # begun by Lanczos iteration at the first forward: to 1e-5, of either sign
        found, wanted = dict(network.named_parameters()), dict(contiguous.named_parameters())
    rtol = 1e-4 if "operator" in norm[1] else 1e-8
    torch.testing.assert_close(found, wanted, rtol=rtol, atol=rtol, check_stride=False)
    for mode in (True, False):
        network.train(mode)(images().double())
        for layer in kernels(network):
            weight: Any = layer.weight
            assert weight.is_contiguous(memory_format=CHANNELS_LAST)
            if mode:
                assert weight.requires_grad
    for parameter in network.parameters():
        if parameter.ndim == 4:
            assert parameter.is_contiguous(memory_format=CHANNELS_LAST)
            assert parameter.grad is not None
            assert parameter.grad.is_contiguous(memory_format=CHANNELS_LAST)
    for name, sigma in poise.norms.sigmas(network).items():
        torch.testing.assert_close(sigma, poise.norms.sigmas(contiguous)[name])


def emptied(network: nn.Module, norm: tuple[str, dict[str, Any]]) -> nn.Module:
    """The network built on no device, and then given memory full of NaN."""
    poise.normalize(network.to("meta"), norm[0], **norm[1])
    network.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in [*network.parameters(), *network.buffers()]:
            tensor.fill_(float("nan") if tensor.is_floating_point() else 0)
    return network


EACH_NORM_ON_META = pytest.mark.parametrize(
    "norm",
    [pytest.param(norm, id=name, marks=[] if name in QUICK else SLOW) for name, norm in NORMS.items()],
)


@EACH_NORM_ON_META
@pytest.mark.parametrize("assign", [True, False], ids=["assigned", "copied"])
def test_a_network_from_meta_is_the_one_loaded(network, norm, assign):
    source = copy.deepcopy(network)
    poise.normalize(source, norm[0], **norm[1])
    train(source)
    source(images())
    emptied(network, norm).load_state_dict(
        {name: tensor.clone() for name, tensor in source.state_dict().items()}, assign=assign
    )
    torch.testing.assert_close(network(images()), source(images()))
    train(network)
    train(source)
    torch.testing.assert_close(dict(network.state_dict()), dict(source.state_dict()), rtol=1e-4, atol=1e-5)


@EACH_NORM_ON_META
def test_a_network_from_meta_is_measured_anew_when_its_weights_are_filled(network, norm):
    plain = copy.deepcopy(network)
    emptied(network, norm)
    filled = poise.normalize(plain, norm[0], **norm[1])
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(filled.get_parameter(name))
    for mode in (True, False):
        torch.testing.assert_close(network.train(mode)(images()), filled.train(mode)(images()), rtol=0.1, atol=0.05)
    train(network)
    assert all(tensor.isfinite().all() for tensor in network.state_dict().values())


@EACH_NORM
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_no_vector_and_gradients_little(network, norm, dtype):
    poise.normalize(network, norm[0], **norm[1])
    train(network)
    twin = copy.deepcopy(network)
    real = images(64)
    with torch.autocast("cpu", dtype):
        output = network(real)
        assert output.dtype == dtype
        output.float().sigmoid().sum().backward()  # the backward pass too
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all()
    network.zero_grad()
    twin(real)
    for name, tensor in twin.named_buffers():
        assert torch.equal(network.get_buffer(name), tensor)
    upstream = {weight.name: torch.randn_like(weight.original) for weight in normalized_weights(network)}
    for each, enabled in ((network, True), (twin, False)):
        with torch.autocast("cpu", dtype, enabled=enabled):
            for weight in normalized_weights(each):
                (getattr(weight.layer, weight.parameter) * upstream[weight.name]).sum().backward()
    for weight, plain in zip(normalized_weights(network), normalized_weights(twin), strict=True):
        with torch.autocast("cpu", dtype):
            effective = getattr(weight.layer, weight.parameter)
        torch.testing.assert_close(effective, getattr(plain.layer, plain.parameter), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(weight.original.grad, plain.original.grad, rtol=1e-5, atol=1e-6)
