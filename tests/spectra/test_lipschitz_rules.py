"""Each operation's constant, and the norms under them, against explicit matrices and slopes on fine grids."""

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from poise.spectra import lipschitz_bound, lipschitz_linear, singular_values


class Fn(nn.Module):
    """A network that is a function of its input."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def upper(module, size):
    return lipschitz_bound(module, size, steps=0).upper


def matrix_norm(module, size):
    """Largest singular value of an affine network's Jacobian."""
    module = copy.deepcopy(module).double().eval()
    x = randn(1, *size)
    jacobian = torch.autograd.functional.jacobian(module, x)
    return float(torch.linalg.matrix_norm(jacobian.reshape(-1, x.numel()), 2))


def batch_norm(channels):
    norm: Any = nn.BatchNorm2d(channels)
    nn.init.normal_(norm.weight)
    norm.running_var.uniform_(0.1, 2)
    return norm


CONVOLUTIONS = {
    "conv 1d": (nn.Conv1d(2, 3, 3, stride=2, padding=1), (2, 9)),
    "conv": (nn.Conv2d(3, 4, 3, padding=1), (3, 6, 5)),
    "conv stride": (nn.Conv2d(2, 3, 4, stride=2, padding=1), (2, 8, 7)),
    "conv wide stride": (nn.Conv2d(2, 3, 2, stride=3), (2, 8, 7)),
    "conv valid": (nn.Conv2d(2, 3, 3), (2, 6, 6)),
    "conv 1×1": (nn.Conv2d(5, 4, 1), (5, 3, 3)),
    "conv dilation": (nn.Conv2d(2, 3, 3, padding=2, dilation=2), (2, 7, 6)),
    "conv dilation and stride": (nn.Conv2d(2, 3, (3, 2), stride=(2, 3), padding=(2, 1), dilation=(2, 1)), (2, 7, 8)),
    "conv groups": (nn.Conv2d(4, 6, 3, padding=1, groups=2), (4, 5, 5)),
    "conv same": (nn.Conv2d(2, 3, (3, 5), padding="same"), (2, 6, 6)),
    "conv 3d": (nn.Conv3d(2, 2, 2, stride=2, padding=1), (2, 3, 4, 3)),
    "conv circular": (nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 6, 5)),
    "conv circular stride": (nn.Conv2d(2, 3, 4, stride=2, padding=1, padding_mode="circular"), (2, 6, 4)),
    "transposed": (nn.ConvTranspose2d(3, 2, 4, stride=2, padding=1), (3, 4, 3)),
    "transposed options": (
        nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, output_padding=1, groups=2, dilation=2),
        (4, 3, 4),
    ),
    "transposed 1d": (nn.ConvTranspose1d(2, 3, 4, stride=2), (2, 5)),
}
TWO_STEPS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {  # padding that copies pixels
    "conv reflect": (nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 5, 6)),
    "conv replicate": (nn.Conv2d(2, 3, 3, stride=2, padding=2, padding_mode="replicate"), (2, 5, 6)),
    "conv same reflect": (nn.Conv2d(2, 3, (4, 3), padding="same", padding_mode="reflect"), (2, 5, 6)),
    "pad and conv": (nn.Sequential(nn.ReflectionPad2d((1, 2, 0, 1)), nn.Conv2d(2, 3, 3)), (2, 5, 6)),
    "pad and transposed": (nn.Sequential(nn.ZeroPad2d(1), nn.ConvTranspose2d(2, 3, 3)), (2, 4, 4)),
    "pad circular and conv": (nn.Sequential(nn.CircularPad2d(1), nn.Conv2d(2, 30, 3)), (2, 4, 4)),
    "conv circular odd": (nn.Conv2d(2, 3, 3, stride=2, padding=1, padding_mode="circular"), (2, 5, 5)),
}
AVERAGES = {
    "avg": (nn.AvgPool2d(2), (2, 6, 5)),
    "avg overlap": (nn.AvgPool2d(3, 1), (1, 6, 5)),
    "avg padding": (nn.AvgPool2d(3, 2, 1), (2, 6, 7)),
    "avg padding not counted": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), (1, 6, 7)),
    "avg ceil": (nn.AvgPool2d((3, 2), (2, 3), (1, 0), ceil_mode=True), (1, 6, 7)),
    "avg divisor": (nn.AvgPool2d(3, 1, 1, divisor_override=5), (1, 4, 5)),
    "avg divisor ceil": (nn.AvgPool2d(3, 2, ceil_mode=True, divisor_override=2), (1, 6, 6)),
    "avg 1d": (nn.AvgPool1d(4, 2, 1), (2, 9)),
    "avg 3d": (nn.AvgPool3d(2, 1, 1), (1, 3, 2, 4)),
    "adaptive": (nn.AdaptiveAvgPool2d((3, 2)), (2, 7, 5)),
    "adaptive to one": (nn.AdaptiveAvgPool2d(1), (2, 4, 5)),
    "adaptive 1d": (nn.AdaptiveAvgPool1d(4), (2, 6)),
    "adaptive keeps a side": (nn.AdaptiveAvgPool2d((None, 2)), (1, 4, 5)),
}
RESIZES = {
    "nearest": (nn.Upsample(scale_factor=2), (2, 3, 4)),
    "nearest down": (nn.Upsample(size=(2, 5)), (1, 5, 3)),
    "nearest-exact": (nn.Upsample(scale_factor=1.5, mode="nearest-exact"), (1, 5, 3)),
    "bilinear": (nn.Upsample(scale_factor=2, mode="bilinear"), (1, 3, 4)),
    "bilinear corners": (nn.Upsample(size=(5, 7), mode="bilinear", align_corners=True), (1, 3, 4)),
    "bicubic": (nn.Upsample(scale_factor=2, mode="bicubic"), (1, 4, 3)),
    "linear": (nn.Upsample(scale_factor=3, mode="linear"), (2, 4)),
    "trilinear": (nn.Upsample(size=(3, 4, 5), mode="trilinear"), (1, 2, 3, 4)),
    "area": (Fn(lambda x: F.interpolate(x, size=3, mode="area")), (1, 5, 4)),
    "antialias": (Fn(lambda x: F.interpolate(x, scale_factor=0.6, mode="bilinear", antialias=True)), (1, 7, 6)),
    "recomputed": (
        Fn(lambda x: F.interpolate(x, scale_factor=1.3, mode="bilinear", recompute_scale_factor=True)),
        (1, 5, 4),
    ),
}
PADDINGS = {
    "pad zero": (nn.ZeroPad2d(2), (1, 3, 3)),
    "pad crop": (Fn(lambda x: F.pad(x, (-1, 1))), (1, 3, 3)),
    "pad constant": (nn.ConstantPad1d(2, 3.0), (1, 3)),
    "pad reflect": (nn.ReflectionPad2d((1, 2, 2, 0)), (1, 3, 4)),
    "pad replicate": (nn.ReplicationPad2d((1, 3, 0, 2)), (2, 3, 4)),
    "pad circular": (nn.CircularPad2d(2), (1, 3, 4)),
    "pad replicate 3d": (nn.ReplicationPad3d(1), (1, 2, 3, 2)),
}
WEIGHT = randn(3, 5)
OTHERS = {
    "linear": (nn.Linear(5, 7), (5,)),
    "linear on a sequence": (nn.Linear(5, 3), (4, 5)),
    "matrix on the right": (Fn(lambda x: x @ WEIGHT), (4, 3)),
    "matrix on the left": (Fn(lambda x: WEIGHT @ x), (5, 4)),
    "vector": (Fn(lambda x: torch.matmul(x, WEIGHT[0])), (4, 5)),
    "batch norm": (batch_norm(3), (3, 2, 2)),
    "batch norm without weight": (nn.BatchNorm2d(3, affine=False, eps=0.1), (3, 2, 2)),
    "instance norm with statistics": (nn.InstanceNorm2d(3, track_running_stats=True), (3, 2, 2)),
    "sum over space": (Fn(lambda x: x.sum((2, 3))), (2, 3, 5)),
    "torch.sum of all": (Fn(lambda x: torch.sum(x)), (2, 3, 5)),
    "mean over space": (Fn(lambda x: x.mean([2, 3], keepdim=True)), (2, 3, 5)),
    "mean of all": (Fn(lambda x: x.mean()), (2, 3)),
    "flatten": (nn.Flatten(), (2, 3)),
    "views": (Fn(lambda x: x.view(1, 3, 4).permute(0, 2, 1).reshape(1, 2, 6).transpose(1, 2).mT.contiguous()), (12,)),
    "pixel shuffle": (nn.PixelShuffle(2), (8, 2, 3)),
    "pixel unshuffle": (nn.PixelUnshuffle(2), (2, 4, 6)),
    "slice": (Fn(lambda x: x[:, 1:, ..., None, 0]), (3, 4)),
    "chunk": (Fn(lambda x: x.chunk(2, dim=1)[1]), (4, 3)),
    "expand": (Fn(lambda x: x[..., None].expand(-1, -1, 5)), (3,)),
    "clamp to a larger shape": (Fn(lambda x: x.clamp(min=torch.full((5,), -1e9))), (1,)),
    "repeat": (Fn(lambda x: x.repeat(1, 2, 3)), (3, 2)),
    "scalars": (Fn(lambda x: -(1 - 3 * x / 7) * -2.5 + 4), (3,)),
    "constant tensors": (Fn(lambda x: (WEIGHT + x * WEIGHT) / 3.0), (3, 5)),
    "divisors": (Fn(lambda x: x / torch.tensor([4.0, -0.25, 2])), (3,)),
    "broadcast": (Fn(lambda x: x.view(1, 3, 1) - torch.ones(5)), (3,)),
    "subtract": (Fn(lambda x: torch.sub(3 * x, x, alpha=-2)), (3,)),
    "subtract from": (Fn(lambda x: torch.rsub(5 * x, x * 0, alpha=2)), (3,)),
    "itself twice": (Fn(lambda x: x + x), (3,)),
    "residual": (Fn(lambda x: x + 2 * x.view_as(x)), (3,)),
    "stack": (Fn(lambda x: torch.stack([x, 2 * x, torch.zeros_like(x)])), (3,)),
    "cat": (Fn(lambda x: torch.cat([3 * x, 4 * x], dim=1)), (3,)),
    "dropout": (nn.Sequential(nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout(), nn.Identity()), (2, 3, 4)),
    "moves": (Fn(lambda x: x.to(x.device).cpu().to(torch.float64, copy=True) + x.type_as(x).to(x)), (3,)),
    "like": (Fn(lambda x: x + torch.randn_like(x) + x.new_ones(3) + torch.ones(x.shape, device=x.device)), (3,)),
}
AFFINE = {**CONVOLUTIONS, **TWO_STEPS, **AVERAGES, **RESIZES, **PADDINGS, **OTHERS}


@pytest.mark.parametrize(("module", "size"), AFFINE.values(), ids=AFFINE)
def test_an_affine_operation_has_the_norm_of_its_matrix(module, size):
    bound = lipschitz_bound(module, size, starts=1, steps=10)
    expected = matrix_norm(module, size)
    assert bound.upper == pytest.approx(expected, rel=1e-8)
    assert expected * 0.5 < bound.lower <= bound.upper


@pytest.mark.parametrize(("module", "size"), {**CONVOLUTIONS, **TWO_STEPS}.values(), ids=[*CONVOLUTIONS, *TWO_STEPS])
@pytest.mark.parametrize("steps_per_tap", [2, 100])
def test_a_convolution_too_large_to_write_out_is_bounded_from_above(module, size, steps_per_tap, monkeypatch):
    monkeypatch.setattr(lipschitz_linear, "DENSE_SIDE", 0)
    monkeypatch.setattr(lipschitz_linear, "STEPS_PER_TAP", steps_per_tap)
    found, exact = upper(module, size), matrix_norm(module, size)
    assert exact * (1 - 1e-9) <= found <= exact * 3.5


@given(st.data(), st.integers(0, 2**31))
@settings(max_examples=40)
def test_every_convolution_on_a_torus_is_bounded_from_above(data, seed):
    torch.manual_seed(seed)
    kernel, stride, dilation, padding = (data.draw(st.integers(low, 3)) for low in (1, 1, 1, 0))
    groups, size = data.draw(st.integers(1, 2)), data.draw(st.integers(7, 12))
    kind = data.draw(st.sampled_from([nn.Conv1d, nn.ConvTranspose1d]))
    layer = kind(2 * groups, 2 * groups, kernel, stride, padding, dilation=dilation, groups=groups)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lipschitz_linear, "DENSE_SIDE", 0)
        assert upper(layer, (2 * groups, size)) >= matrix_norm(layer, (2 * groups, size)) * (1 - 1e-9)


def test_a_circular_convolution_on_its_torus_is_exact(monkeypatch):
    monkeypatch.setattr(lipschitz_linear, "DENSE_SIDE", 0)
    for name in ("conv circular", "conv circular stride", "conv 1×1"):
        module, size = CONVOLUTIONS[name]
        assert upper(module, size) == pytest.approx(matrix_norm(module, size), rel=1e-9)


@pytest.mark.parametrize(("pixels", "excess"), [(16, 0.03), (32, 0.005), (56, 0.006)])
def test_on_larger_images_the_bound_of_a_convolution_is_close_to_its_norm(pixels, excess):
    torch.manual_seed(0)
    layer = nn.Conv2d(5, 5, 3, padding=1)
    lanczos = float(singular_values(layer.double(), 1, "conv", pixels)[0])
    assert lanczos <= upper(layer, (5, pixels, pixels)) <= lanczos * (1 + excess)


@pytest.mark.parametrize(("module", "size"), {**AVERAGES, **RESIZES}.values(), ids=[*AVERAGES, *RESIZES])
def test_a_long_axis_is_bounded_by_its_row_and_column_sums(module, size, monkeypatch):
    monkeypatch.setattr(lipschitz_linear, "AXIS_LENGTH", 1)
    exact = matrix_norm(module, size)
    assert exact * (1 - 1e-9) <= upper(module, size) <= exact * 1.6


def test_sound_is_longer_than_a_matrix_can_be():
    pool = nn.AvgPool1d(4, 2, padding=1, count_include_pad=False)
    assert math.sqrt(0.5) <= upper(pool, (1, 4000)) <= math.sqrt(0.7)


ACTIVATIONS = {
    **{
        kind.__name__: kind()
        for kind in (
            *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.Tanh, nn.Sigmoid, nn.Softplus),
            *(nn.GELU, nn.SiLU, nn.Mish, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Softsign, nn.Tanhshrink),
            *(nn.Softshrink, nn.LogSigmoid, nn.RReLU),
        )
    },
    "LeakyReLU 3": nn.LeakyReLU(-3.0),
    "PReLU 2": nn.PReLU(init=2.0),
    "ELU 3": nn.ELU(3.0),
    "CELU 3": nn.CELU(3.0),
    "GELU tanh": nn.GELU("tanh"),
    "Softplus 5": nn.Softplus(beta=5),
    "F.leaky_relu": Fn(lambda x: F.leaky_relu(x, 0.1, True)),
    "F.relu": Fn(lambda x: F.relu(x, inplace=True)),
    "torch.relu": Fn(lambda x: torch.relu(x)),
    "Tensor.relu_": Fn(lambda x: (x + 0).relu_()),
    "tanh": Fn(lambda x: x.tanh()),
    "clamp": Fn(lambda x: x.clamp(-1, 1).abs()),
    "erf": Fn(lambda x: torch.erf(x)),
    "sin": Fn(lambda x: torch.sin(x)),
    "cos": Fn(lambda x: x.cos()),
    "atan": Fn(lambda x: x.atan()),
    "max": Fn(lambda x: torch.maximum(x, torch.zeros(1))),
}


@pytest.mark.parametrize("module", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_an_activation_has_its_steepest_slope(module):
    grid = torch.linspace(-25, 25, 200_001, dtype=torch.float64).view(-1, 1).requires_grad_()
    (slopes,) = torch.autograd.grad(copy.deepcopy(module).double().eval()(grid * 1).sum(), grid)
    found = upper(module, 1)
    assert found >= float(slopes.abs().max()) * (1 - 1e-7)
    assert found == pytest.approx(float(slopes.abs().max()), rel=1e-4)


MAX_POOLS = {
    "2": (nn.MaxPool2d(2), (2, 6, 5)),
    "overlap": (nn.MaxPool2d(3, 1), (1, 6, 5)),
    "padding": (nn.MaxPool2d(3, 2, 1), (1, 6, 7)),
    "dilation": (nn.MaxPool2d(2, 1, dilation=2), (1, 6, 5)),
    "ceil": (nn.MaxPool2d((3, 2), (2, 3), ceil_mode=True), (1, 6, 7)),
    "strides over pixels": (nn.MaxPool1d(2, 3), (2, 9)),
    "3d": (nn.MaxPool3d(2, 1), (1, 3, 3, 2)),
    "adaptive": (nn.AdaptiveMaxPool2d((3, 2)), (1, 7, 5)),
    "adaptive 1d": (nn.AdaptiveMaxPool1d(4), (2, 6)),
    "amax": (Fn(lambda x: x.amax((2, 3))), (2, 3, 3)),
    "max": (Fn(lambda x: x.max()), (2, 3, 3)),
}


@pytest.mark.parametrize(("module", "size"), MAX_POOLS.values(), ids=MAX_POOLS)
def test_a_maximum_is_as_steep_as_one_pixel_above_all_others_makes_it(module, size):
    raised = 1e3 * torch.eye(math.prod(size)).view(-1, *size)  # one image for each pixel
    changes = torch.stack([(module(x[None] * 2) - module(x[None])).norm() / x.norm() for x in raised])
    assert upper(module, size) == pytest.approx(float(changes.max()), rel=1e-5)


@pytest.mark.parametrize("module", [nn.Softmax(1), Fn(lambda x: x.logsumexp(1)), Fn(lambda x: x.norm(dim=1))])
def test_functions_of_vectors_stay_below_their_constant_and_come_near_it(module):
    x = 3 * randn(300, 3)
    x[:100, 2] -= 20  # the other two decide
    norms = [torch.autograd.functional.jacobian(module, one[None]).view(-1, 3).svd().S[0] for one in x]
    assert 0.95 * upper(module, 3) < float(max(norms)) <= upper(module, 3) * (1 + 1e-12)


def test_a_weight_of_any_scale():
    for scale in (0.0, 1e-200, 1e200):
        module = nn.Linear(4, 3).double()
        module.weight.data *= scale
        assert upper(module, 4) == pytest.approx(
            scale * float(torch.linalg.matrix_norm(module.weight.detach() / (scale or 1), 2))
        )
