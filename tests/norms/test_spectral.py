"""Spectral norms of one layer: the value and gradient, the rule of one round per update, and what survives a copy.

Reading ``layer.weight`` is what a forward does first, so most tests read it instead of making an input up.
"""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from poise.norms import SpectralNorm, normalize

SCALES = {"sn": 1.0, "ssn": 1.4, "bsn": 1.0, "bssn": 1.4}
LAYERS: dict[str, Any] = {
    "linear": lambda: nn.Linear(7, 5),
    "conv1d": lambda: nn.Conv1d(4, 6, 3),
    "conv2d": lambda: nn.Conv2d(4, 6, 3),
    "conv3d": lambda: nn.Conv3d(3, 4, 2),
    "grouped conv2d": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "depthwise conv2d": lambda: nn.Conv2d(4, 4, 3, groups=4),
    "dilated conv2d": lambda: nn.Conv2d(4, 6, (3, 2), dilation=2),
    "deconv1d": lambda: nn.ConvTranspose1d(4, 6, 3),
    "deconv2d": lambda: nn.ConvTranspose2d(4, 6, (2, 3), stride=2),
    "deconv3d": lambda: nn.ConvTranspose3d(3, 4, 2),
    "grouped deconv2d": lambda: nn.ConvTranspose2d(4, 6, 3, groups=2),
    "embedding": lambda: nn.Embedding(9, 5),
}
pytestmark = pytest.mark.usefixtures("arithmetic")
EACH_LAYER = pytest.mark.parametrize("kind", LAYERS)
EACH_NORM = pytest.mark.parametrize("norm", SCALES)


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


def row_dims(kind, norm):
    """By which dimensions of the weight σ is measured, as the papers say."""
    out = 1 if "deconv" in kind else 0
    return [out] if norm in ("sn", "ssn") or kind in ("linear", "embedding") else [out, 1 - out]


def true_sigma(weight, dims):
    """Mean of the largest singular values, by numpy's SVD in float64."""
    array = weight.detach().double().contiguous().numpy()
    matrices = [np.moveaxis(array, dim, 0).reshape(array.shape[dim], -1) for dim in dims]
    return np.mean([np.linalg.svd(matrix, compute_uv=False)[0] for matrix in matrices])


def parts(layer):
    """The raw weight and the norm of a normalized layer."""
    return layer.parametrizations.weight.original, layer.parametrizations.weight[0]


def normalized(kind, norm="sn"):
    layer = LAYERS[kind]()
    normalize(layer, norm)
    return layer, *parts(layer)


def touch(weight):
    """An update that changes no value."""
    with torch.no_grad():
        weight.mul_(1)


def converge(layer, rounds=150):
    for _ in range(rounds):
        touch(parts(layer)[0])
        _ = layer.weight


def one_round(weight, u):
    matrix = weight.detach()
    v = matrix.mT @ u / (matrix.mT @ u).norm()
    return matrix @ v / (matrix @ v).norm()


def unconverged(shape=(7, 5)):
    """A normalized linear layer that has far to go to its singular vectors, so that every round shows."""
    layer = normalize(nn.Linear(*shape), "sn")
    _ = layer.weight
    original, step = parts(layer)
    step.u_out = nn.functional.normalize(torch.randn(shape[1]), dim=0)
    return layer, original, step


# Value


@EACH_NORM
@EACH_LAYER
def test_weight_is_divided_by_the_largest_singular_value(kind, norm):
    layer, original, step = normalized(kind, norm)
    converge(layer)
    sigma = true_sigma(original, row_dims(kind, norm))
    torch.testing.assert_close(layer.weight, original * (SCALES[norm] / sigma), rtol=1e-5, atol=0)
    assert step.sigma(original).item() == pytest.approx(sigma, rel=1e-5)


@EACH_NORM
def test_one_estimate_at_the_start_is_already_near(norm):
    layer, original, _ = normalized("conv2d", norm)
    sigma = true_sigma(original, row_dims("conv2d", norm))
    torch.testing.assert_close(layer.weight, original * (SCALES[norm] / sigma), rtol=1e-2, atol=0)


@pytest.mark.parametrize("scale", [0.7, 1.0, 4.0])
@pytest.mark.parametrize("norm", ["ssn", "bssn"])
def test_scale_multiplies_the_weight(norm, scale):
    plain = nn.Conv2d(4, 6, 3)
    layers = [copy.deepcopy(plain), copy.deepcopy(plain)]
    for layer, options in zip(layers, ({"scale": scale}, {"scale": 1.0}), strict=True):
        normalize(layer, norm, **options)
        converge(layer)
    torch.testing.assert_close(layers[0].weight, scale * layers[1].weight)


@pytest.mark.parametrize("scale", [0.0, -1.4, float("nan"), float("inf")])
def test_scale_must_be_positive(scale):
    with pytest.raises(ValueError, match=f"scale is {scale}; it must be above 0"):
        SpectralNorm(torch.eye(2), scale=scale)


@pytest.mark.parametrize("shape", [(), (3,)])
def test_a_vector_has_no_spectral_norm(shape):
    with pytest.raises(ValueError, match="needs at least 2 dimensions"):
        SpectralNorm(torch.ones(shape))


@EACH_NORM
def test_the_network_computes_with_the_normalized_weight(norm):
    layer, original, _ = normalized("conv2d", norm)
    converge(layer)
    weight = original.double() * (SCALES[norm] / true_sigma(original, row_dims("conv2d", norm)))
    images = torch.randn(2, 4, 8, 8)
    expected = nn.functional.conv2d(images.double(), weight, layer.bias.double())
    torch.testing.assert_close(layer(images).double(), expected, rtol=1e-4, atol=1e-5)


# Gradient


def papers_gradient(layer, step, upstream, dims):
    """Eq. 11 of the SN paper with σ the mean over directions: s/σ · (G − ⟨G, W⟩/σ · mean of u vᵀ)."""
    weight = layer.parametrizations.weight.original.detach()
    names = ["out", "in"][: len(dims)]
    outers = []
    for name, dim in zip(names, dims, strict=True):
        outer = torch.outer(getattr(step, f"u_{name}").double(), getattr(step, f"v_{name}").double())
        rest = [size for d, size in enumerate(weight.shape) if d != dim]
        outers.append(outer.reshape(weight.shape[dim], *rest).movedim(0, dim))
    direction = sum(outers) / len(outers)
    sigma = (weight * direction).sum()
    return step.scale / sigma * (upstream - (upstream * weight).sum() / sigma * direction)


@EACH_NORM
@EACH_LAYER
def test_gradient_is_eq_11(kind, norm):
    layer, original, step = normalized(kind, norm)
    layer.double()
    upstream = torch.randn_like(original)
    (layer.weight * upstream).sum().backward()
    expected = papers_gradient(layer, step, upstream, row_dims(kind, norm))
    torch.testing.assert_close(original.grad, expected, rtol=1e-10, atol=1e-12)


@EACH_NORM
def test_gradient_is_orthogonal_to_the_weight(norm):
    # The effective weight does not change when W is scaled, whatever u and v.
    layer, original, _ = normalized("conv2d", norm)
    layer.double()
    (layer.weight * torch.randn_like(original)).sum().backward()
    assert abs((original.grad * original).sum()) < 1e-12 * original.grad.norm() * original.norm()


@EACH_NORM
@pytest.mark.parametrize("kind", ["linear", "grouped conv2d", "deconv2d"])
def test_first_and_second_derivatives_match_differences(kind, norm):
    _, original, step = normalized(kind, norm)
    # Eval holds u and v still, as autograd takes them to be, while the weight is moved about.
    step.double().eval()
    weight = original.detach().double()[:3, :2].clone().requires_grad_()
    small = SpectralNorm(weight, step.directions, scale=step.scale)
    small.double().eval()
    assert torch.autograd.gradcheck(small, (weight,))
    assert torch.autograd.gradgradcheck(small, (weight,))


def test_gradient_penalty_reaches_the_weights_by_double_backward():
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 1))
    plain = copy.deepcopy(network).double()
    normalize(network, "bssn").double()
    images = torch.randn(3, 2, 4, 4, dtype=torch.float64, requires_grad=True)

    def penalty(logits):
        (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        return gradient.square().sum(dim=(1, 2, 3)).mean() + logits.square().mean()

    penalty(network(images)).backward()
    # The same function by hand: plain weights times s/σ, written out with the vectors that the norm holds.
    leaves, effective = {}, {}
    for name in ("0", "3"):
        _, step = parts(network.get_submodule(name))
        weight = plain.get_parameter(f"{name}.weight")
        leaves[name] = weight
        sigma = step.u_out @ weight.flatten(1) @ step.v_out
        if name == "0":
            sigma = (sigma + step.u_in @ weight.transpose(0, 1).flatten(1) @ step.v_in) / 2
        effective[f"{name}.weight"] = 1.4 * weight / sigma
    penalty(functional_call(plain, effective, (images,))).backward()
    for name, leaf in leaves.items():
        original, _ = parts(network.get_submodule(name))
        torch.testing.assert_close(original.grad, leaf.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("forwards", [2, 10])
def test_forwards_before_one_backward_sum_their_gradients(forwards):
    layer, original, _ = unconverged()
    touch(original)  # the first forward iterates: the graphs of the others must not mind, nor its own
    inputs = torch.randn(forwards, 3, 7)
    outputs = [layer(part).square().sum() for part in inputs]
    separate = [torch.autograd.grad(output, original, retain_graph=True)[0] for output in outputs]
    sum(outputs).backward()
    torch.testing.assert_close(original.grad, torch.stack(separate).sum(0))
    layer.zero_grad()
    layer(inputs.flatten(0, 1)).square().sum().backward()
    torch.testing.assert_close(original.grad, torch.stack(separate).sum(0), rtol=1e-5, atol=1e-5)


def test_a_graph_outlives_a_round_of_iteration():
    layer, original, step = unconverged()
    first = layer(torch.ones(1, 7)).sum()
    (before,) = torch.autograd.grad(first, original, retain_graph=True)
    u = step.u_out
    step.iterate(original.detach())
    assert not torch.equal(step.u_out, u)
    (after,) = torch.autograd.grad(first, original)
    assert torch.equal(before, after)


# One round per update


def optimized(kind, **options):
    """An update by a torch.optim optimizer, with a random gradient."""

    def update(weight):
        weight.grad = torch.randn_like(weight)
        kind([weight], lr=0.1, **options).step()
        weight.grad = None

    return update


def in_place(weight):
    with torch.no_grad():
        weight.add_(torch.randn_like(weight))


UPDATES = {
    "SGD": optimized(torch.optim.SGD),
    "SGD momentum": optimized(torch.optim.SGD, momentum=0.9),
    "SGD fused": optimized(torch.optim.SGD, fused=True),
    "Adam loop": optimized(torch.optim.Adam, foreach=False),
    "Adam foreach": optimized(torch.optim.Adam, foreach=True),
    "Adam fused": optimized(torch.optim.Adam, fused=True),
    "AdamW fused": optimized(torch.optim.AdamW, fused=True),
    "RMSprop": optimized(torch.optim.RMSprop),
    "in place": in_place,
    "nn.init": nn.init.normal_,
}
EACH_UPDATE = pytest.mark.parametrize("update", UPDATES.values(), ids=list(UPDATES))


def vectors(step):
    return [step.u_out, step.v_out]


def assert_same_objects(found, expected):
    assert all(a is b for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("made", [unconverged, lambda: normalized("linear")], ids=["used before", "just normalized"])
def test_forwards_without_an_update_leave_the_vectors_alone(made):
    layer, _, step = made()
    before = vectors(step)
    values = [tensor.clone() for tensor in before]
    outputs = [layer(torch.ones(1, 7)) for _ in range(10)]
    assert_same_objects(vectors(step), before)
    assert all(torch.equal(a, b) for a, b in zip(before, values, strict=True))
    assert all(torch.equal(output, outputs[0]) for output in outputs)


@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
@EACH_UPDATE
def test_an_update_is_followed_by_exactly_one_round(update, frozen):
    layer, original, step = unconverged()
    for _ in range(4):
        u = step.u_out
        update(original)
        expected = one_round(original, u)
        layer.requires_grad_(not frozen)
        for _ in range(10):
            _ = layer.weight
        torch.testing.assert_close(step.u_out, expected)
        assert not torch.allclose(step.u_out, u, rtol=1e-3)
        # Frozen for the generator's step and thawed after it: neither is an update.
        after = vectors(step)
        for trainable in (True, False, True):
            layer.requires_grad_(trainable)
            _ = layer.weight
        assert_same_objects(vectors(step), after)


@EACH_UPDATE
def test_two_updates_before_a_forward_are_one_round(update):
    layer, original, step = unconverged()
    u = step.u_out
    update(original)
    update(original)
    _ = layer.weight
    torch.testing.assert_close(step.u_out, one_round(original, u))


def test_both_directions_iterate_once():
    layer, original, step = normalized("deconv2d", "bsn")
    step.u_out, step.u_in = torch.ones(6) / 6**0.5, torch.ones(4) / 2
    in_place(original)
    _ = layer.weight
    torch.testing.assert_close(step.u_out, one_round(original.transpose(0, 1).flatten(1), torch.ones(6)))
    torch.testing.assert_close(step.u_in, one_round(original.flatten(1), torch.ones(4)))


def test_an_optimizer_of_other_weights_causes_no_round():
    layer, _, step = unconverged()
    before = vectors(step)
    other = nn.Parameter(torch.ones(3))
    optimized(torch.optim.Adam, fused=True)(other)
    _ = layer.weight
    assert_same_objects(vectors(step), before)


def test_a_weight_without_gradient_is_not_updated_by_its_optimizer():
    layer, original, step = unconverged()
    before = vectors(step)
    torch.optim.Adam([original], fused=True).step()
    _ = layer.weight
    assert_same_objects(vectors(step), before)


def test_eval_never_iterates_and_leaves_the_round_to_training():
    layer, original, step = unconverged()
    before = vectors(step)
    u = step.u_out
    in_place(original)
    layer.eval()
    outputs = [layer(torch.ones(1, 7)) for _ in range(3)]
    assert_same_objects(vectors(step), before)
    assert torch.equal(outputs[0], outputs[2])
    layer.train()
    _ = layer.weight
    torch.testing.assert_close(step.u_out, one_round(original, u))


def test_inference_mode_never_iterates_and_does_no_harm_to_training():
    layer, original, step = unconverged()
    before, u = vectors(step), step.u_out
    in_place(original)
    with torch.inference_mode():
        for _ in range(2):
            layer(torch.ones(1, 7))
    assert_same_objects(vectors(step), before)
    layer(torch.ones(1, 7)).sum().backward()
    torch.testing.assert_close(step.u_out, one_round(original, u))
    assert original.grad.isfinite().all()
    assert not any(vector.is_inference() for vector in vectors(step))


def test_no_grad_forwards_iterate_as_others_do():
    # The trainer makes the fakes of the discriminator's step without a graph.
    layer, original, step = unconverged()
    u = step.u_out
    in_place(original)
    with torch.no_grad():
        _ = layer.weight
    torch.testing.assert_close(step.u_out, one_round(original, u))
    after = vectors(step)
    layer(torch.ones(1, 7)).sum().backward()
    assert_same_objects(vectors(step), after)


# Beside PyTorch's own


def pair_with_torch_parametrization():
    """PyTorch's parametrization, on Linear layers as matrices of n_in rows.

    It improves v before u within a round, poise u's partner v first, as the paper writes it: the same algorithm on the
    transposed matrix, with u and v exchanged.
    """
    ours = nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(0.1), nn.Linear(8, 1))
    theirs = copy.deepcopy(ours).double()
    normalize(ours, "sn").double()
    for mine, other in ((ours[0], theirs[0]), (ours[2], theirs[2])):
        nn.utils.parametrizations.spectral_norm(other, dim=1)
        (_, step), (_, torchs) = parts(mine), parts(other)
        torchs._u.copy_(step.v_out)
        torchs._v.copy_(step.u_out)
    weights = [(parts(ours[i])[0], parts(theirs[i])[0]) for i in (0, 2)]
    return ours, theirs, weights, torch.randn(64, 6, dtype=torch.float64)


def pair_with_torch_hook():
    """PyTorch's older hook, whose round has the paper's order, on convolutions."""
    ours = nn.Sequential(nn.Conv2d(2, 4, 3), nn.LeakyReLU(0.1), nn.ConvTranspose2d(4, 3, 2), nn.Flatten())
    theirs = copy.deepcopy(ours).double()
    normalize(ours, "sn").double()
    for mine, other in ((ours[0], theirs[0]), (ours[2], theirs[2])):
        nn.utils.spectral_norm(other)
        _, step = parts(mine)
        other.get_buffer("weight_u").copy_(step.u_out)
        other.get_buffer("weight_v").copy_(step.v_out)
    weights = [(parts(ours[i])[0], theirs[i].get_parameter("weight_orig")) for i in (0, 2)]
    return ours, theirs, weights, torch.randn(32, 2, 5, 5, dtype=torch.float64)


@pytest.mark.filterwarnings("ignore:.*spectral_norm.*is deprecated")
@pytest.mark.parametrize("pair", [pair_with_torch_parametrization, pair_with_torch_hook])
def test_fifty_steps_are_those_of_torch(pair):
    ours, theirs, weights, inputs = pair()
    # PyTorch iterates at every training forward, poise at the first one after a change. With one forward per step they
    # agree from the second step on; this touch makes poise iterate at the first forward too.
    for mine, _ in weights:
        touch(mine)
    optimizers = [torch.optim.SGD(network.parameters(), lr=0.05) for network in (ours, theirs)]
    start = weights[0][0].clone()
    for step in range(50):
        batch = inputs[step % 4 :: 4]
        for network, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            (network(batch) - batch.flatten(1).sum(1, keepdim=True).sin()).square().mean().backward()
            optimizer.step()
        for mine, other in weights:
            torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-9)
    assert (weights[0][0] - start).norm() > 0.05 * start.norm()
    torch.testing.assert_close(ours.eval()(inputs), theirs.eval()(inputs), rtol=1e-6, atol=1e-9)


# Zero weights


@EACH_NORM
@pytest.mark.parametrize("kind", ["linear", "conv2d", "deconv2d"])
def test_a_zero_weight_stays_zero_with_a_finite_gradient_and_recovers(kind, norm):
    layer = LAYERS[kind]()
    values = layer.weight.detach().clone()
    nn.init.zeros_(layer.weight)
    normalize(layer, norm)
    original, _ = parts(layer)
    upstream = torch.randn_like(original)
    for _ in range(3):
        touch(original)
        layer.zero_grad()
        (layer.weight * upstream).sum().backward()
        assert torch.equal(layer.weight, torch.zeros_like(original))
        torch.testing.assert_close(original.grad, SCALES[norm] * upstream)
    with torch.no_grad():
        original.copy_(values)
    converge(layer)
    sigma = true_sigma(values, row_dims(kind, norm))
    torch.testing.assert_close(layer.weight, values * (SCALES[norm] / sigma), rtol=1e-5, atol=0)


# Copies and checkpoints


def trained(seed):
    torch.manual_seed(seed)
    layer = normalize(nn.Conv2d(3, 4, 2), "bssn")
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        layer(torch.randn(2, 3, 4, 4)).square().sum().backward()
        optimizer.step()
    return layer


@pytest.mark.parametrize("assign", [False, True], ids=["copied", "assigned"])
@pytest.mark.parametrize("last", ["forward", "update"])
def test_a_loaded_module_continues_as_the_saved_one(last, assign):
    saved, loaded = trained(1), trained(2)
    if last == "forward":
        _ = saved.weight
    state = {name: tensor.clone() for name, tensor in saved.state_dict().items()}
    loaded.load_state_dict(state, assign=assign)
    for _ in range(3):
        assert torch.equal(loaded.weight, saved.weight)
        for layer in (saved, loaded):
            touch(parts(layer)[0])


@pytest.mark.parametrize("before", ["nothing", "pending update", "earlier load"])
def test_loading_causes_no_round_and_hides_none(before):
    saved, loaded = trained(1), trained(2)
    _ = saved.weight
    if before == "nothing":
        _ = loaded.weight
    if before == "earlier load":
        loaded.load_state_dict(trained(3).state_dict())
    loaded.load_state_dict(saved.state_dict())
    weight, step = parts(loaded)
    loaded.eval()
    _ = loaded.weight
    loaded.train()
    for _ in range(3):
        assert torch.equal(loaded.weight, saved.weight)
    assert torch.equal(step.u_out, saved.state_dict()["parametrizations.weight.0.u_out"])
    u = step.u_out
    in_place(weight)
    _ = loaded.weight
    torch.testing.assert_close(step.u_out, one_round(weight.flatten(1), u))


def test_weights_loaded_without_their_vectors_are_measured():
    layer, original, step = unconverged()
    u, weight = step.u_out, torch.randn_like(original)
    layer.load_state_dict({"parametrizations.weight.original": weight}, strict=False)
    _ = layer.weight
    torch.testing.assert_close(step.u_out, one_round(weight, u))


def test_saving_in_inference_mode_does_no_harm_to_training():
    layer = trained(1)
    with torch.inference_mode():
        layer.state_dict()
    layer(torch.ones(1, 3, 4, 4)).sum().backward()
    assert all(vector.isfinite().all() for vector in vectors(parts(layer)[1]))
    assert not any(vector.is_inference() for vector in vectors(parts(layer)[1]))


@pytest.mark.parametrize("last", ["forward", "update"])
def test_a_copy_continues_as_its_original(last):
    layer = trained(1)
    if last == "forward":
        _ = layer.weight
    twin = copy.deepcopy(layer)
    for _ in range(3):
        assert torch.equal(twin.weight, layer.weight)
        for each in (layer, twin):
            touch(parts(each)[0])


def test_a_copy_is_equal_and_independent():
    layer = trained(1)
    _ = layer.weight
    twin = copy.deepcopy(layer)
    assert torch.equal(twin.eval().weight, layer.weight)
    twin.train()
    frozen = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    _ = twin.weight
    weight, step = parts(twin)
    u = step.u_out
    UPDATES["Adam fused"](weight)
    for _ in range(3):
        _ = twin.weight
    torch.testing.assert_close(step.u_out, one_round(weight.flatten(1), u))
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor, frozen[name])


# Number formats


@pytest.mark.parametrize("order", ["double, normalize", "normalize, double"])
@EACH_NORM
def test_float64_is_exact_to_float64(norm, order):
    layer = LAYERS["conv2d"]()
    for word in order.split(", "):
        layer = layer.double() if word == "double" else normalize(layer, norm)
    converge(layer, rounds=300)
    original, _ = parts(layer)
    assert layer.weight.dtype == torch.float64
    sigma = true_sigma(original, row_dims("conv2d", norm))
    torch.testing.assert_close(layer.weight, original * (SCALES[norm] / sigma), rtol=1e-11, atol=0)


@EACH_NORM
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_narrow_weight_is_divided_in_float32(dtype, norm):
    layer = LAYERS["conv2d"]().to(dtype)
    normalize(layer, norm)
    converge(layer)
    original, _ = parts(layer)
    expected = original.float() * (SCALES[norm] / true_sigma(original, row_dims("conv2d", norm)))
    assert layer.weight.dtype == dtype
    # One rounding, at the end.
    torch.testing.assert_close(layer.weight.float(), expected, rtol=torch.finfo(dtype).eps / 2 + 1e-5, atol=1e-6)
    (layer.weight * torch.randn_like(original)).sum().backward()
    assert original.grad.isfinite().all()
    assert original.grad.dtype == dtype


@EACH_NORM
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_module_made_narrow_afterwards_still_works(dtype, norm):
    layer, original, _ = normalized("conv2d", norm)
    layer.to(dtype)
    converge(layer)
    expected = original.float() * (SCALES[norm] / true_sigma(original, row_dims("conv2d", norm)))
    torch.testing.assert_close(layer.weight.float(), expected, rtol=4 * torch.finfo(dtype).eps, atol=1e-6)


@EACH_NORM
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))]
)
def test_autocast_does_not_touch_sigma(dtype, norm, device):
    layer, original, _ = normalized("conv2d", norm)
    twin = copy.deepcopy(layer.to(device))
    in_place(original)
    with torch.no_grad():
        parts(twin)[0].copy_(original)
    _ = twin.weight
    images = torch.randn(2, 4, 8, 8, device=device)
    with torch.autocast(device, dtype):
        weight = layer.weight
        output = layer(images)
        output.float().square().sum().backward()
    assert output.dtype == dtype
    assert torch.equal(weight, twin.weight)
    assert torch.equal(layer.weight, twin.weight)
    assert original.grad.dtype == torch.float32


@EACH_NORM
@pytest.mark.parametrize("kind", ["conv2d", "deconv2d"])
def test_channels_last_is_kept_and_changes_nothing(kind, norm):
    layer, _, _ = normalized(kind, norm)
    _ = layer.weight
    twin = copy.deepcopy(layer).to(memory_format=torch.channels_last)
    for _ in range(3):
        for each in (layer, twin):
            touch(parts(each)[0])
        torch.testing.assert_close(twin.weight, layer.weight)
        assert twin.weight.is_contiguous(memory_format=torch.channels_last)
    twin.weight.square().sum().backward()
    assert parts(twin)[0].grad.is_contiguous(memory_format=torch.channels_last)


@EACH_NORM
def test_moving_a_module_between_formats_is_no_update(norm):
    layer, _, step = normalized("conv2d", norm)
    _ = layer.weight
    layer.to(memory_format=torch.channels_last).double()
    before = vectors(step)
    _ = layer.weight
    assert_same_objects(vectors(step), before)
