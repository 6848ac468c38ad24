"""The strict spectral norms, ``operator="conv"``: against the convolution written out as a matrix, in float64."""

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call

from poise.norms import denormalize, describe, normalize, normalized_weights, sigmas

# class, (in, out, kernel), options, input size
CASES: list[tuple[Any, tuple, dict[str, Any], tuple[int, ...]]] = [
    (nn.Conv1d, (2, 3, 3), {}, (7,)),
    (nn.Conv1d, (4, 6, 3), {"stride": 2, "padding": 1, "groups": 2}, (8,)),
    (nn.Conv1d, (1, 2, 2), {"padding": "same", "dilation": 3}, (6,)),
    (nn.Conv1d, (2, 1, 3), {"padding": 2, "padding_mode": "reflect", "stride": 3}, (6,)),
    (nn.Conv2d, (2, 3, 3), {"padding": 1}, (5, 4)),
    (nn.Conv2d, (3, 2, 1), {}, (3, 3)),
    (nn.Conv2d, (2, 2, 2), {"padding": "valid"}, (3, 4)),
    (nn.Conv2d, (2, 2, 4), {"stride": 2, "padding": 1}, (6, 5)),
    (nn.Conv2d, (2, 2, 2), {"stride": 3}, (6, 7)),  # strides over pixels it never reads
    (nn.Conv2d, (2, 3, (3, 2)), {"stride": (3, 2), "padding": (2, 0), "dilation": (1, 2)}, (6, 7)),
    (nn.Conv2d, (4, 6, 3), {"groups": 2, "padding": 1}, (4, 4)),
    (nn.Conv2d, (4, 4, 3), {"groups": 4, "padding": 1}, (4, 4)),
    (nn.Conv2d, (2, 2, (3, 4)), {"padding": "same", "padding_mode": "circular"}, (4, 5)),
    (nn.Conv2d, (2, 2, 3), {"padding": (1, 2), "padding_mode": "reflect", "stride": 2}, (4, 5)),
    (nn.Conv2d, (2, 2, 3), {"padding": (2, 1), "padding_mode": "replicate", "groups": 2}, (4, 3)),
    (nn.Conv3d, (2, 2, 2), {"stride": 2, "padding": 1}, (3, 4, 3)),
    (nn.Conv3d, (2, 4, (1, 3, 2)), {"groups": 2, "dilation": (1, 1, 2), "padding": "same"}, (2, 3, 4)),
    (nn.Conv3d, (1, 2, 3), {"padding": (1, 0, 1), "padding_mode": "circular"}, (2, 3, 2)),
    (nn.ConvTranspose1d, (2, 3, 3), {}, (5,)),
    (nn.ConvTranspose1d, (4, 2, 3), {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}, (4,)),
    (nn.ConvTranspose1d, (2, 2, 2), {"dilation": 3, "output_padding": 2}, (4,)),  # output padding above the stride
    (nn.ConvTranspose2d, (3, 2, 4), {"stride": 2, "padding": 1}, (3, 4)),
    (nn.ConvTranspose2d, (2, 3, (2, 3)), {"stride": (3, 1), "dilation": (1, 2), "output_padding": (2, 1)}, (3, 2)),
    (nn.ConvTranspose2d, (4, 4, 4), {"stride": 2, "padding": 1, "groups": 4}, (3, 3)),
    (nn.ConvTranspose3d, (2, 2, 3), {"stride": 2, "padding": 1, "output_padding": (1, 0, 1)}, (2, 2, 3)),
    (nn.ConvTranspose3d, (2, 4, (1, 2, 3)), {"groups": 2, "dilation": (1, 2, 1)}, (2, 2, 2)),
]


def name_of(case):
    kind, _, options, size = case
    words = [f"{key}={value}".replace(" ", "") for key, value in options.items()]
    return "-".join([kind.__name__, *words, "x".join(map(str, size))])


EACH_CASE = pytest.mark.parametrize("case", CASES, ids=name_of)
FIRST = "parametrizations.weight.0."  # of a layer, where its norm keeps u, v and the size
EARLY = "depends on its input size, which is not known yet: run one batch .* or give input_size"

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


def conv(**options):
    """A strictly normalized convolution of 2 to 3 channels that has seen no input."""
    return normalize(nn.Conv2d(2, 3, 3, stride=2, padding=1), "sn", operator="conv", **options)


def images(size=6, n=2):
    return torch.randn(n, 2, size, size)


def used(size=6):
    """One that has seen an input of this size."""
    layer = conv()
    layer(images(size))
    return layer


def original(layer):
    return layer.parametrizations.weight.original


def update(layer, by=0.05):
    """A step of an optimizer, with a random gradient."""
    weight = original(layer)
    weight.grad = by * torch.randn(weight.shape, dtype=weight.dtype)
    torch.optim.SGD([weight], lr=1.0).step()
    weight.grad = None


def touch(layer):
    """An update that changes no value."""
    with torch.no_grad():
        original(layer).mul_(1)


def matrix(layer, size):
    """The layer, as evaluation uses it, without its bias: its map from images to images written out, float64."""
    plain: Any = denormalize(copy.deepcopy(layer)).double().requires_grad_(False)
    plain.bias = None
    units = torch.eye(plain.in_channels * math.prod(size), dtype=torch.float64)
    return plain(units.view(-1, plain.in_channels, *size)).flatten(1).t()


def operator_norm(layer, size):
    return torch.linalg.matrix_norm(matrix(layer, size), 2).item()


def vectors(layer):
    """u and v, where eval keeps them."""
    state = layer.eval().state_dict()
    layer.train()
    return state[f"{FIRST}u_out"], state[f"{FIRST}v_out"]


# Value and gradient


@pytest.mark.parametrize(("norm", "scale", "dtype"), [("sn", 1.0, torch.float32), ("bssn", 1.3, torch.float64)])
@EACH_CASE
def test_the_weight_is_divided_by_the_norm_of_the_convolution_itself(case, norm, scale, dtype):
    kind, channels, options, size = case
    layer = kind(*channels, **options).to(dtype)
    sigma = operator_norm(layer, size)
    normalize(layer, norm, operator="conv", **({"scale": scale} if norm == "bssn" else {}))
    x = torch.randn(2, channels[0], *size, dtype=dtype)
    for rounds in (1, 20):  # Lanczos iteration finds it at once, power iteration keeps it
        for _ in range(rounds):
            layer(x)
            touch(layer)
        assert sigmas(layer)[""].item() == pytest.approx(sigma, rel=1e-4)
        assert operator_norm(layer, size) == pytest.approx(scale, rel=1e-4)


@EACH_CASE
def test_the_gradient_is_that_of_the_bilinear_form(case):
    kind, channels, options, size = case
    layer = kind(*channels, **options).double()
    plain, weight = copy.deepcopy(layer), layer.weight.detach().clone().requires_grad_()
    plain.bias = None
    normalize(layer, "ssn", scale=1.3, operator="conv", input_size=size)
    u, v = vectors(layer)
    # σ = uᵀ conv(v), with u and v constants to autograd.
    image = functional_call(plain, {"weight": weight}, (v.view(1, channels[0], *size),))
    sigma = torch.dot(u, image.flatten())
    upstream = torch.randn_like(weight)
    (1.3 * weight / sigma * upstream).sum().backward()
    for training in (True, False):
        (found,) = torch.autograd.grad((layer.train(training).weight * upstream).sum(), original(layer))
        torch.testing.assert_close(found, weight.grad, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("case", [CASES[1], CASES[13], CASES[19], CASES[22]], ids=name_of)
def test_first_and_second_derivatives_match_differences(case):
    kind, channels, options, size = case
    layer: Any = normalize(kind(*channels, **options).double(), "bssn", operator="conv", input_size=size)
    # Eval holds u and v still, as autograd takes them to be, while the weight is moved about.
    norm = layer.eval().parametrizations.weight[0]
    weight = torch.randn_like(original(layer)).requires_grad_()
    assert torch.autograd.gradcheck(norm, (weight,))
    assert torch.autograd.gradgradcheck(norm, (weight,))


@pytest.mark.parametrize(("strict", "same_as"), [("bsn", "sn"), ("bssn", "ssn")])
@EACH_CASE
def test_a_convolution_and_its_adjoint_have_one_norm(case, strict, same_as):
    kind, channels, options, size = case
    layer = kind(*channels, **options)
    both = [normalize(copy.deepcopy(layer), norm, operator="conv", input_size=size) for norm in (strict, same_as)]
    torch.testing.assert_close(both[0].weight, both[1].weight, rtol=1e-5, atol=0)


def test_linear_layers_take_their_matrix():
    network = nn.Sequential(nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(27, 4), nn.Linear(4, 1))
    by_matrix: Any = normalize(copy.deepcopy(network), "bssn")
    normalize(network, "bssn", operator="conv")
    torch.testing.assert_close(network[2].weight, by_matrix[2].weight, rtol=1e-2, atol=0)  # each from its own start
    for _ in range(200):
        network(images())
        for layer in (network[0], *network[2:]):
            touch(layer)
    for layer in network[2:]:
        assert torch.linalg.matrix_norm(layer.weight, 2).item() == pytest.approx(1.4, rel=1e-5)
    assert operator_norm(network[0], (6, 6)) == pytest.approx(1.4, rel=1e-5)
    assert [name for name in network.state_dict() if "input_size" in name] == [f"0.{FIRST}input_size"]


# The size of the input


@pytest.mark.parametrize(
    ("kind", "size", "given"),
    [
        *[(nn.Conv1d, (6,), given) for given in (6, (6,))],
        *[(nn.Conv2d, (6, 6), given) for given in (6, (6, 6), [6, 6])],
        (nn.Conv2d, (6, 4), (6, 4)),
        *[(nn.ConvTranspose3d, (3, 3, 3), given) for given in (3, (3, 3, 3))],
    ],
    ids=str,
)
def test_the_size_is_given_or_that_of_the_first_input(kind, size, given):
    plain = kind(2, 3, 2, padding=1)
    told = normalize(copy.deepcopy(plain), "sn", operator="conv", input_size=given)
    found = normalize(copy.deepcopy(plain), "sn", operator="conv")
    found(torch.randn(2, 2, *size))
    for layer in (told, found):
        torch.testing.assert_close(layer.weight, told.weight, rtol=1e-5, atol=0)
        assert operator_norm(layer, size) == pytest.approx(1, rel=1e-4)
        assert layer.state_dict()[f"{FIRST}input_size"].tolist() == list(size)


FIRST_FORWARDS = {
    "training": lambda layer: layer(images()),
    "eval": lambda layer: layer.eval()(images()),
    "without a graph": torch.no_grad()(lambda layer: layer(images())),
    "inference mode": torch.inference_mode()(lambda layer: layer(images())),
    "frozen": lambda layer: layer.requires_grad_(False)(images()),
    "unbatched": lambda layer: layer(images()[0]),
    "by keyword": lambda layer: layer(input=images()),
    "autocast": torch.autocast("cpu", torch.bfloat16)(lambda layer: layer(images())),
}


@pytest.mark.parametrize("forward", FIRST_FORWARDS.values(), ids=list(FIRST_FORWARDS))
def test_any_first_forward_will_do(forward):
    layer = conv()
    forward(layer)
    layer.train().requires_grad_()
    assert operator_norm(layer, (6, 6)) == pytest.approx(1, rel=1e-4)
    layer(images()).sum().backward()
    update(layer)
    layer(images())
    assert operator_norm(layer, (6, 6)) == pytest.approx(1, rel=1e-2)
    assert all(vector.dtype == torch.float32 and not vector.is_inference() for vector in vectors(layer))


def test_the_first_forward_is_no_transformed_one():
    layer = conv()
    with pytest.raises(RuntimeError, match=r"^run one batch through the module before transforming it"):
        torch.func.jvp(layer, (images(),), (images(),))
    layer(images())
    assert operator_norm(layer, (6, 6)) == pytest.approx(1, rel=1e-4)


NEEDED = r"^input_size is .*; Conv2d needs an int, or 2 of them, of at least 1$"


def test_later_inputs_of_other_sizes_are_measured_by_the_first():
    layer = used(6)
    before = layer.weight.detach().clone()
    assert layer(images(9)).shape == (2, 3, 5, 5)
    assert torch.equal(layer.weight, before)
    update(layer)
    layer(images(4))
    assert operator_norm(layer, (6, 6)) == pytest.approx(1, rel=1e-2)


def test_each_layer_finds_its_own_size():
    network = nn.Sequential(
        nn.Conv2d(2, 3, 4, stride=2, padding=1), nn.ReLU(), nn.ConvTranspose2d(3, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3)
    )
    normalize(network, "sn", operator="conv")
    network(images(8))
    for index, size in ((0, 8), (2, 4), (4, 6)):
        assert operator_norm(network[index], (size, size)) == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize(
    ("size", "told"),
    [
        *[(size, NEEDED) for size in (0, -1, (6, 0), (), (6,), (2, 6, 6), 6.0, (6.0, 6.0))],
        (2, r"^input_size \(2, 2\) is too small for Conv2d"),
    ],
    ids=str,
)
def test_a_wrong_size_is_refused_and_leaves_the_layer_as_it_was(size, told):
    layer = nn.Conv2d(2, 3, 4)
    with pytest.raises(ValueError, match=told):
        normalize(layer, "sn", operator="conv", input_size=size)
    assert list(layer.state_dict()) == ["weight", "bias"]


UNKNOWN_YET = {
    "weight": lambda layer: layer.weight,
    "denormalize": denormalize,
    "norm": lambda layer: layer.parametrizations.weight[0](original(layer)),
}


@pytest.mark.parametrize("ask", UNKNOWN_YET.values(), ids=list(UNKNOWN_YET))
def test_nothing_is_said_before_the_size_is_known_and_no_harm_done(ask):
    layer = conv()
    with pytest.raises(ValueError, match=EARLY):
        ask(layer)
    layer(images())
    assert operator_norm(layer, (6, 6)) == pytest.approx(1, rel=1e-4)


def test_sigmas_leave_out_what_is_not_known_yet():
    network = normalize(nn.Sequential(nn.Conv1d(2, 3, 3), nn.Linear(4, 4)), "sn", operator="conv")
    assert list(sigmas(network)) == ["1"]
    network(torch.randn(2, 2, 6))
    assert list(sigmas(network)) == ["0", "1"]


def test_describe_works_before_the_size_is_known():
    layer = conv()
    (row,) = describe(layer).rows
    assert row.shape == (3, 2, 3, 3)
    assert row.sigma == pytest.approx(torch.linalg.matrix_norm(original(layer).flatten(1), 2).item(), rel=1e-5)
    assert math.isnan(row.effective_sigma)
    assert "nan" in str(describe(layer))
    assert f"{FIRST}u_out" not in layer.state_dict()


def test_describe_says_what_the_reshaped_weights_have():
    layer = used()
    (row,) = describe(layer).rows
    assert row.norm == "SpectralNorm(scale=1.0, directions=operator norm)"
    assert row.effective_sigma == pytest.approx(torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item(), rel=1e-5)


FAILED_INPUTS = {
    "too small an image": torch.randn(1, 2, 1, 1),
    "other channels": torch.randn(1, 5, 9, 9),
    "no channels": torch.randn(9, 9),
}


@pytest.mark.parametrize("wrong", FAILED_INPUTS.values(), ids=list(FAILED_INPUTS))
def test_an_input_that_fails_is_not_the_first(wrong):
    layer = normalize(nn.Conv2d(2, 3, 3), "sn", operator="conv")
    with pytest.raises((ValueError, RuntimeError)):
        layer(wrong)
    layer(images())
    assert operator_norm(layer, (6, 6)) == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("options", [{"input_size": 6}, {}], ids=["given", "found"])
def test_the_weights_can_be_arguments(options):
    layer = conv(**options)
    x = images()
    layer(x)
    values = {name: tensor.detach().clone() for name, tensor in layer.named_parameters()}
    torch.testing.assert_close(functional_call(layer, values, (x,)), layer(x))
    gradients = torch.func.grad(lambda values: functional_call(layer, values, (x,)).square().sum())(values)
    layer(x).square().sum().backward()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad)


# Rounds


def one_round(layer, u, size):
    """The algorithm of Miyato et al. 2018 with the convolution's matrix for W."""
    plain: Any = denormalize(copy.deepcopy(layer))
    plain.weight.data = original(layer).detach()
    w = matrix(plain, size)
    v = nn.functional.normalize(w.t() @ u.double(), dim=0)
    return nn.functional.normalize(w @ v, dim=0), v


def unconverged():
    """A layer that has far to go to its singular vectors, so that every round shows."""
    layer = used()
    update(layer, by=1.0)
    layer(images())
    return layer


@pytest.mark.parametrize("forwards", [1, 5])
def test_an_update_is_followed_by_exactly_one_round(forwards):
    layer = unconverged()
    for _ in range(3):
        before, _ = vectors(layer)
        update(layer, by=0.5)
        expected = one_round(layer, before, (6, 6))
        outputs = [layer(torch.ones(1, 2, 6, 6)) for _ in range(forwards)]
        layer.eval()
        outputs.append(layer(torch.ones(1, 2, 6, 6)))
        layer.train()
        assert all(torch.equal(output, outputs[0]) for output in outputs)
        assert (vectors(layer)[0] - before).norm() > 1e-3
        for found, right in zip(vectors(layer), expected, strict=True):
            torch.testing.assert_close(found.double(), right, rtol=1e-4, atol=1e-5)


def test_eval_leaves_the_round_to_training():
    layer = unconverged()
    before = vectors(layer)
    update(layer, by=0.5)
    layer.eval()
    for _ in range(3):
        layer(images())
    assert all(torch.equal(now, then) for now, then in zip(vectors(layer), before, strict=True))
    layer.train()(images())
    assert not torch.equal(vectors(layer)[0], before[0])


@pytest.mark.parametrize("rate", [1e-4, 2e-4])
def test_training_at_the_papers_rates_keeps_sigma_near_the_truth(rate):
    network = nn.Sequential(
        *[nn.Conv2d(2, 8, 4, stride=2, padding=1), nn.LeakyReLU(0.1)],
        *[nn.ConvTranspose2d(8, 4, 3), nn.LeakyReLU(0.1)],
        *[nn.Conv2d(4, 4, 3, groups=2, padding=1, padding_mode="circular"), nn.Flatten(), nn.Linear(4 * 6 * 6, 1)],
    )
    normalize(network, "ssn", operator="conv", scale=1.2)
    descent = torch.optim.Adam(network.parameters(), lr=rate, betas=(0.5, 0.999))
    x = images(8, n=16)
    x[:8] += 1
    losses = []
    start = [weight.original.detach().clone() for weight in normalized_weights(network)]
    for step in range(20):
        logits = network(x).flatten()
        for index, size in ((0, 8), (2, 4), (4, 6)):
            assert operator_norm(network[index], (size, size)) == pytest.approx(1.2, rel=1e-2), (step, index)
        losses.append(nn.functional.softplus(torch.cat([-logits[:8], logits[8:]])).mean())
        descent.zero_grad()
        losses[-1].backward()
        descent.step()
    assert losses[-1] < losses[0]
    for weight, before in zip(normalized_weights(network), start, strict=True):
        assert not torch.equal(weight.original, before)


STRONGER = {  # a layer with zero padding, in groups or on a circle, of which training makes another part lead
    "plain": ({}, lambda weight: torch.randn_like(weight)),
    "circular": ({"padding_mode": "circular"}, lambda weight: torch.randn_like(weight)),
    "groups": ({"groups": 2}, lambda weight: torch.cat([weight[:2], 100 * weight[2:]])),
}


@pytest.mark.parametrize(("options", "change"), STRONGER.values(), ids=list(STRONGER))
def test_another_direction_that_takes_the_lead_is_found(options, change):
    layer = nn.Conv2d(4, 4, 3, padding=1, **options)
    layer.weight.data[:2] *= 5
    normalize(layer, "sn", operator="conv", input_size=5)
    for step in range(600):
        if step == 300:
            with torch.no_grad():
                original(layer).copy_(change(original(layer)))
        layer(torch.zeros(1, 4, 5, 5))
        touch(layer)
    assert operator_norm(layer, (5, 5)) == pytest.approx(1, rel=1e-2)


# Copies and checkpoints


def loaded(layer, **how):
    """A fresh layer, which has seen no input, with what this one saves."""
    torch.manual_seed(1)
    twin = conv()
    twin.load_state_dict({name: tensor.clone() for name, tensor in layer.state_dict().items()}, **how)
    return twin


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "state_dict": loaded,
    "state_dict, assigned": lambda layer: loaded(layer, assign=True),
}
EACH_COPY = pytest.mark.parametrize("copied", COPIES.values(), ids=list(COPIES))


@pytest.mark.parametrize("last", ["forward", "update"])
@EACH_COPY
def test_a_copy_continues_as_its_original_without_seeing_an_input(copied, last):
    layer = unconverged()
    if last == "update":
        update(layer)
    twin = copied(layer)
    for seed in range(3):
        assert torch.equal(twin.weight, layer.weight)
        assert original(twin) is not original(layer)
        for each in (layer, twin):
            torch.manual_seed(seed)
            update(each)


@EACH_COPY
def test_a_copy_made_before_the_first_input_finds_its_own_size(copied):
    layer = conv()
    twin = copied(layer)
    layer(images(9))
    with pytest.raises(ValueError, match=EARLY):
        _ = twin.weight
    twin(images(6))
    assert operator_norm(layer, (9, 9)) == pytest.approx(1, rel=1e-4)
    assert operator_norm(twin, (6, 6)) == pytest.approx(1, rel=1e-4)


LATE = {"another size": lambda: used(9), "no input": conv}


@pytest.mark.parametrize("made", LATE.values(), ids=list(LATE))
def test_a_layer_in_use_takes_what_another_saved(made):
    # As a checkpoint of training is loaded in a program that has run a batch of its own, or one of a fresh network.
    saved, layer = made(), used(6)
    layer.load_state_dict(saved.state_dict())
    torch.testing.assert_close(original(layer), original(saved))
    saved(images())
    layer(images())
    torch.testing.assert_close(layer.weight, saved.weight, rtol=1e-5, atol=0)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_denormalize_bakes_the_same_outputs_into_plain_weights(training):
    layer = unconverged().train(training)
    x = images()
    before = layer(x)
    denormalize(layer)
    assert type(layer) is nn.Conv2d
    assert sorted(layer.state_dict()) == ["bias", "weight"]
    torch.testing.assert_close(layer(x), before)
    nn.Conv2d(2, 3, 3, stride=2, padding=1).load_state_dict(layer.state_dict())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_narrow_weight_is_measured_in_float32(dtype):
    layer = nn.Conv2d(2, 3, 3, padding=1).to(dtype)
    normalize(layer, "sn", operator="conv", input_size=4)
    assert layer.weight.dtype == dtype
    # One rounding, at the end.
    assert operator_norm(layer, (4, 4)) == pytest.approx(1, rel=torch.finfo(dtype).eps)


def test_a_zero_weight_stays_zero_and_recovers():
    layer = conv()
    values = original(layer).detach().clone()
    nn.init.zeros_(original(layer))
    layer(images()).sum().backward()
    assert not layer.weight.any()
    assert original(layer).grad.isfinite().all()
    with torch.no_grad():
        original(layer).copy_(values)
    for _ in range(300):
        layer(images())
        touch(layer)
    assert operator_norm(layer, (6, 6)) == pytest.approx(1, rel=1e-4)
