"""After ``poise.denormalize`` a network is plain torch, for every tool that takes one."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import poise
from poise.norms import normalized_weights

NORMS: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        name: (name, {}) for name in ("sn", "ssn", "bsn", "bssn", "wn", "wn-strict", "frobenius", "clip", "sigma-clamp")
    },
    "γ per layer": ("bssn", {"gamma": "per-layer"}),
    "γ shared": ("sn", {"gamma": "shared"}),
    "operator": ("sn", {"operator": "conv"}),
    "checked": ("bssn", {"check_finite": True}),
}
SLOW = pytest.mark.slow  # an export takes a second
MOST_SLOW = pytest.mark.parametrize(
    "norm",
    [pytest.param(norm, marks=[] if name == "bssn" else SLOW, id=name) for name, norm in NORMS.items()],
)
QUICK = ("bssn", "wn", "γ shared")  # the others take as long again, and more
EACH_NORM = pytest.mark.parametrize(
    "norm",
    [pytest.param(norm, id=name, marks=() if name in QUICK else pytest.mark.slow) for name, norm in NORMS.items()],
)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_state_dict_hooks", "_load_state_dict_pre_hooks")


def images() -> Tensor:
    return torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def trained(network: nn.Module, norm: tuple[str, dict[str, Any]]) -> nn.Module:
    poise.normalize(network, norm[0], **norm[1])
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    for _ in range(2):
        network(images()).square().sum().backward()
        optimizer.step()
    network(images())
    return network.eval()


@EACH_NORM
def test_a_baked_network_is_plain_torch(network, norm):
    plain = copy.deepcopy(network)
    trained(network, norm)
    wanted = network(images())
    assert poise.denormalize(network) is network
    assert [type(part) for part in network.modules()] == [type(part) for part in plain.modules()]
    keys = {key for key in plain.state_dict() if norm[0] != "wn-strict" or "weight" in key}
    assert set(network.state_dict()) == keys
    assert {name for name, _ in network.named_parameters()} == keys
    for part in network.modules():
        assert not any(getattr(part, hooks) for hooks in HOOKS)
        assert not parametrize.is_parametrized(part)
    assert list(normalized_weights(network)) == []
    torch.testing.assert_close(network(images()), wanted, rtol=1e-6, atol=1e-6)
    arrived = pickle.loads(pickle.dumps(network))
    assert torch.equal(arrived(images()), network(images()))
    assert b"poise" not in pickle.dumps(network)


@MOST_SLOW
def test_a_baked_network_is_exported_traced_and_scripted(network, norm):
    trained(network, norm)
    wanted = network(images())
    poise.denormalize(network)
    exported = torch.export.export(network, (images(),))
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    for made in (
        exported.module(),
        torch.export.load(file).module(),
        torch.jit.trace(network, images()),
        torch.jit.script(network),
    ):
        torch.testing.assert_close(made(images()), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_a_baked_network_goes_to_onnx(network, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    trained(network, ("bssn", {}))
    wanted = network(images()).detach()
    torch.onnx.export(poise.denormalize(network), (images(),), tmp_path / "network.onnx", dynamo=True)
    session = runtime.InferenceSession(tmp_path / "network.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: images().numpy()})
    torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-5, atol=1e-5)


@MOST_SLOW
def test_a_normalized_network_is_exported_as_it_is(network, norm):
    trained(network, norm)
    exported = torch.export.export(network, (images(),))
    torch.testing.assert_close(exported.module()(images()), network(images()), rtol=1e-5, atol=1e-6)


@EACH_NORM
def test_a_baked_network_trains_on_and_is_normalized_again(network, norm):
    trained(network, norm)
    poise.denormalize(network).train()
    before = [p.detach().clone() for p in network.parameters()]
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    network(images()).square().sum().backward()
    optimizer.step()
    assert all(not torch.equal(p, old) for p, old in zip(network.parameters(), before, strict=True))
    if norm[0] == "clip":
        assert max(p.abs().max().item() for p in network.parameters()) > 0.01  # nobody clips any more
    network(images())
    poise.normalize(network, norm[0], **norm[1])
    assert network(images()).isfinite().all()
