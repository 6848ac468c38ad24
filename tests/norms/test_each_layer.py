"""Norms that work on singular values, on every kind of layer: what they make of them, and that it travels."""

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import poise
from poise.norms import normalized_weights

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "tall": lambda: nn.Linear(4, 7),
    "wide": lambda: nn.Linear(7, 4),
    "square": lambda: nn.Linear(5, 5),
    "1 × 1": lambda: nn.Linear(1, 1),
    "one row": lambda: nn.Linear(6, 1),
    "bilinear": lambda: nn.Bilinear(3, 2, 4),
    "embedding": lambda: nn.Embedding(6, 3),
    "conv1d": lambda: nn.Conv1d(4, 6, 3, stride=2),
    "conv2d, grouped": lambda: nn.Conv2d(4, 6, 3, groups=2, dilation=2),
    "conv3d": lambda: nn.Conv3d(2, 3, 2),
    "deconv1d": lambda: nn.ConvTranspose1d(4, 6, 4, stride=2),
    "deconv2d, grouped": lambda: nn.ConvTranspose2d(4, 6, (4, 3), stride=2, groups=2),
    "deconv3d": lambda: nn.ConvTranspose3d(2, 3, 2),
    "attention": lambda: nn.MultiheadAttention(4, 2),
    "attention, three inputs": lambda: nn.MultiheadAttention(4, 2, kdim=3, vdim=6),
    "channels last": lambda: nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last),
    "float64": lambda: nn.Conv2d(4, 6, 3).double(),
}
Spectrum = np.ndarray


def lifted(values: Spectrum, count: int) -> Spectrum:
    return np.where(np.arange(len(values)) < max(count, 1), 1.0, values / values[0])


# name: norm, options, and the singular values of the normalized weight from those of the trained one
CASES: dict[str, tuple[str, dict[str, Any], Callable[[Spectrum], Spectrum]]] = {
    "cayley": ("orthogonal", {}, np.ones_like),
    "torch's choice": ("orthogonal", {"orthogonal_map": None}, np.ones_like),
    "householder": ("orthogonal", {"orthogonal_map": "householder", "use_trivialization": False}, np.ones_like),
    "matrix_exp": ("orthogonal", {"orthogonal_map": "matrix_exp", "use_trivialization": False}, np.ones_like),
    "static": ("spectral-compensation", {}, lambda s: lifted(s, len(s) // 2)),
    "static, none": ("spectral-compensation", {"fraction": 0}, lambda s: s / s[0]),
    "static, all": ("spectral-compensation", {"fraction": 1}, np.ones_like),
    "sigma-reg": ("sigma-reg", {}, lambda s: s),
    "sigma-reg, ratio": ("sigma-reg", {"ratio": 1.5}, lambda s: s),
    "sigma-clamp": ("sigma-clamp", {"sigma": 0.7}, lambda s: s),
    "sigma-clamp, ratio": ("sigma-clamp", {"ratio": 1.5}, lambda s: s),
}
DYNAMIC = ("spectral-compensation", {"form": "dynamic"}, None)
FORMS = {name: CASES[name] for name in ("cayley", "householder", "static", "sigma-reg, ratio", "sigma-clamp, ratio")}
KINDS = ("wide", "deconv2d, grouped", "attention", "channels last")


@pytest.fixture(params=KINDS)
def layer(request: pytest.FixtureRequest) -> nn.Module:
    return LAYERS[request.param]()


@pytest.fixture(params=[*FORMS.values(), DYNAMIC], ids=[*FORMS, "dynamic"])
def case(request: pytest.FixtureRequest) -> Any:
    return request.param


def normalized(layer: nn.Module, case: Any) -> nn.Module:
    return poise.normalize(layer, case[0], **case[1])


def effective(layer: nn.Module) -> list[Tensor]:
    return [getattr(weight.layer, weight.parameter) for weight in normalized_weights(layer)]


def spectra(layer: nn.Module, trained: bool = False) -> Iterator[Spectrum]:
    """Singular values, descending, of every map among the layer's weights, output units × all else."""
    for weight in normalized_weights(layer):
        tensor = weight.original if trained else getattr(weight.layer, weight.parameter)
        array = tensor.detach().double().numpy()
        if "Transpose" in type(weight.layer).__name__:
            array = np.moveaxis(array, 1, 0)
        for piece in np.split(array, 3 if weight.parameter == "in_proj_weight" else 1):
            yield np.linalg.svd(piece.reshape(len(piece), -1), compute_uv=False)


def train(layer: nn.Module, steps: int = 4) -> None:
    optimizer = torch.optim.Adam(layer.parameters(), 0.05)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        terms = [
            (weight * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)).sum()
            for weight in effective(layer)
        ]
        (sum(terms) + poise.weight_penalty(layer)).backward()
        optimizer.step()


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
@pytest.mark.parametrize("make", LAYERS.values(), ids=list(LAYERS))
def test_the_normalized_weight_has_the_singular_values_it_should(make, case):
    layer = normalized(make(), case)
    for _ in range(2):
        for found, trained in zip(spectra(layer), spectra(layer, trained=True), strict=True):
            np.testing.assert_allclose(found, case[2](trained), atol=1e-5)
        train(layer)
    assert {name for name, weight in layer.named_parameters() if weight.ndim > 1 and weight.grad is not None} == {
        name for name, weight in layer.named_parameters() if weight.ndim > 1 and "original" in name
    }


def through_a_state_dict(layer: nn.Module) -> nn.Module:
    twin = copy.deepcopy(layer)
    for parameter in twin.parameters():
        nn.init.normal_(parameter)
    train(twin, 1)  # what it holds besides is another's too
    twin.load_state_dict(layer.state_dict())
    return twin


WAYS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "state dict": through_a_state_dict,
}


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
def test_what_arrives_is_the_same_and_trains_the_same(layer, case, way):
    train(normalized(layer, case))
    arrived = way(layer)
    assert list(arrived.state_dict()) == list(layer.state_dict())
    for steps in (0, 2):
        train(layer, steps)
        train(arrived, steps)
        assert torch.equal(poise.weight_penalty(arrived), poise.weight_penalty(layer))
        for ours, theirs in zip(effective(arrived), effective(layer), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_baking_keeps_the_weights_and_leaves_a_plain_layer(layer, case, training):
    plain = copy.deepcopy(layer)
    train(normalized(layer, case))
    layer.train(training)
    places = [(weight.layer, weight.parameter) for weight in normalized_weights(layer)]
    before = [weight.detach().clone() for weight in effective(layer)]
    poise.denormalize(layer)
    assert [type(part) for part in layer.modules()] == [type(part) for part in plain.modules()]
    for (part, name), weight in zip(places, before, strict=True):
        assert type(part.get_parameter(name)) is nn.Parameter
        assert torch.equal(part.get_parameter(name), weight)
    plain.load_state_dict(layer.state_dict())


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("kind", ["tall", "wide", "1 × 1", "one row", "conv2d, grouped", "attention"])
def test_a_weight_of_low_rank_gives_finite_weights_and_gradients(kind, case, rank):
    layer = LAYERS[kind]()
    with torch.no_grad():
        for weight in layer.parameters():
            weight.fill_(float(rank))
    normalized(layer, case)
    train(layer)
    gradients = [weight.grad for weight in layer.parameters() if weight.grad is not None]
    for tensor in [*effective(layer), *layer.parameters(), *gradients]:
        assert tensor.isfinite().all()


def test_eval_changes_nothing_that_is_kept(layer, case):
    train(normalized(layer, case).train())
    layer.state_dict()  # what is due for the last update is done before it is saved
    layer.eval()
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    with torch.no_grad():
        effective(layer)
        poise.weight_penalty(layer)
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_a_weight_of_fewer_bits_is_measured_in_more(case, kind):
    layer = nn.Conv2d(4, 6, 3).to(kind)
    normalized(layer, case)
    (found,), (trained,) = spectra(layer), spectra(layer, trained=True)
    assert layer.weight.dtype == kind
    if case[2] is not None:
        np.testing.assert_allclose(found, case[2](trained), atol=1e-2)
    after = copy.deepcopy(layer).float()
    assert after.weight.dtype == torch.float32
    torch.testing.assert_close(after.weight, layer.weight.float(), atol=1e-2, rtol=0)


def test_autocast_changes_nothing(layer, case):
    train(normalized(layer, case))
    layer.eval()
    with torch.autocast("cpu", torch.bfloat16):
        inside, penalty = effective(layer), poise.weight_penalty(layer)
    assert torch.equal(penalty, poise.weight_penalty(layer))
    assert all(torch.equal(a, b) for a, b in zip(inside, effective(layer), strict=True))
