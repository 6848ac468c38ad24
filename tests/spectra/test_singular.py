"""Singular values by layer and operator, against dense decompositions and Fourier's."""

import copy
import dataclasses
import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

from poise.norms import normalize
from poise.spectra import as_matrix, condition_number, conv_map, golub_kahan, singular, singular_values, stable_rank

SIZES = st.integers(0, 2**31)
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4}


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("direct_rows", [0, singular.DIRECT_ROWS])
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_matrices_of_every_shape(direct_rows, dtype):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(singular, "DIRECT_ROWS", direct_rows)  # 0: always iterate

        @given(st.lists(st.integers(1, 12), min_size=2, max_size=4), st.integers(1, 5), SIZES)
        @settings(deadline=None, max_examples=40)
        def check(shape, k, seed):
            weight = randn(*shape, seed=seed, dtype=dtype)
            expected = torch.linalg.svdvals(weight.flatten(1))
            slack = 1e-6 * float(expected[0])
            torch.testing.assert_close(singular_values(weight, k), expected[:k], rtol=TOLERANCE[dtype], atol=slack)
            torch.testing.assert_close(singular_values(weight, None), expected, rtol=TOLERANCE[dtype], atol=slack)

        check()


@pytest.mark.parametrize("shape", [(300, 700), (700, 300)])
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_matrices_too_large_for_the_direct_way(shape, dtype):
    weight = randn(*shape, dtype=dtype)
    torch.testing.assert_close(
        singular_values(weight, 3), torch.linalg.svdvals(weight)[:3], rtol=TOLERANCE[dtype], atol=0
    )


LAYERS = [
    (nn.Linear(5, 7), 0),
    (nn.Bilinear(3, 4, 2), 0),
    (nn.Embedding(6, 3), 0),
    (nn.Conv1d(4, 6, 3, groups=2), 0),
    (nn.Conv2d(2, 3, 3), 0),
    (nn.ConvTranspose2d(2, 5, 3), 1),
    (nn.ConvTranspose3d(2, 3, 2), 1),
]


@pytest.mark.parametrize(("layer", "row_dim"), LAYERS, ids=lambda case: type(case).__name__)
def test_a_layers_matrix_has_a_row_for_each_output_unit(layer, row_dim):
    expected = torch.linalg.svdvals(as_matrix(layer.weight.detach(), row_dim))
    torch.testing.assert_close(singular_values(layer, None), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(singular_values(layer), expected[:3], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(stable_rank(layer), expected.square().sum() / expected[0] ** 2)


@pytest.mark.parametrize("size", [4, 5, (3, 6)])
def test_a_circular_convolution_has_the_values_of_its_fourier_blocks(size):
    """Sedghi et al. 2019, theorem 6: at each frequency, the singular values of a c_out × c_in matrix."""
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular").double()
    sizes = (size, size) if isinstance(size, int) else size
    blocks = torch.fft.fft2(layer.weight.detach(), sizes).permute(2, 3, 0, 1)
    expected = torch.linalg.svdvals(blocks).flatten().sort(descending=True).values
    torch.testing.assert_close(singular_values(layer, None, "conv", size), expected, rtol=1e-10, atol=1e-12)
    # Opposite frequencies share their values: most occur twice, and each time counts.
    torch.testing.assert_close(singular_values(layer, 8, "conv", size), expected[:8], rtol=1e-7, atol=0)


def test_circular_convolutions_on_images_of_usual_size():
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular")
    blocks = torch.fft.fft2(layer.weight.detach().double(), (16, 16)).permute(2, 3, 0, 1)
    expected = torch.linalg.svdvals(blocks).flatten().sort(descending=True).values[:4].float()
    torch.testing.assert_close(singular_values(layer, 4, "conv", 16, tol=1e-6), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(singular_values(layer, 4, "conv", 16), expected, rtol=1e-4, atol=0)


# Too large for the direct way, small enough for a dense decomposition.
LARGE: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Conv1d(3, 4, 5, padding=2), (150,)),
    (nn.Conv1d(2, 2, 3, padding=2, dilation=2), (160,)),
    (nn.Conv2d(2, 3, 3, padding=1), (18, 16)),
    (nn.Conv2d(3, 2, 3, padding=1, padding_mode="circular"), (16, 16)),
    (nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), (16, 16)),
    (nn.Conv2d(2, 2, 5, padding=2, padding_mode="replicate"), (14, 14)),
    (nn.Conv2d(4, 4, 3, padding=1, groups=2), (16, 16)),
    (nn.Conv2d(2, 2, 4, padding=1, stride=2), (34, 32)),
    (nn.Conv2d(2, 4, 3, stride=(1, 3), padding="valid"), (18, 60)),
    (nn.ConvTranspose2d(2, 2, 4, padding=1, stride=2), (16, 16)),
    (nn.ConvTranspose2d(4, 2, 3, padding=1, stride=2, output_padding=1, groups=2), (16, 16)),
    (nn.Conv3d(2, 1, 3, padding=1), (7, 7, 7)),
]


@pytest.mark.parametrize(("layer", "size"), LARGE, ids=str)
@pytest.mark.parametrize("k", [1, 3])
def test_iterated_in_float32_the_values_are_those_of_the_dense_operator(layer, size, k):
    torch.manual_seed(0)
    layer.reset_parameters()
    expected = torch.linalg.svdvals(conv_map(layer, size).dense())[:k].float()
    for tol in (1e-2, 1e-3, 1e-4):
        found = singular_values(layer, k, "conv", size, tol)
        torch.testing.assert_close(found, expected, rtol=tol, atol=0)
        assert (found <= expected * (1 + 1e-6)).all()
    torch.testing.assert_close(singular_values(layer, k, "conv", size, 1e-6), expected, rtol=1e-6, atol=0)
    assert singular_values(layer.double(), 1, "conv", size, 1e-8).dtype == torch.float64
    layer.float()


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_a_convolution_of_any_scale(scale):
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 3, padding=1)
    expected = singular_values(layer, 2, "conv", 18) * scale
    layer.weight.data *= scale
    torch.testing.assert_close(singular_values(layer, 2, "conv", 18), expected, rtol=1e-4, atol=0)


def test_tf32_in_the_iteration_does_not_reach_the_values(monkeypatch):
    def rounded(x):
        return (x.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)  # 10 bits of mantissa

    def conv_map_in_tf32(layer, size, weight=None):
        exact = conv_map(layer, size, weight=weight)
        if exact.dtype == torch.float64:
            return exact
        return dataclasses.replace(
            exact, matvec=lambda x: exact.matvec(rounded(x)), rmatvec=lambda y: exact.rmatvec(rounded(y))
        )

    torch.manual_seed(0)
    layer = nn.Conv2d(4, 4, 3, padding=1)
    expected = singular_values(layer, 2, "conv", 18, 1e-6)
    monkeypatch.setattr(singular, "conv_map", conv_map_in_tf32)
    torch.testing.assert_close(singular_values(layer, 2, "conv", 18), expected, rtol=1e-5, atol=0)


def test_most_norms_are_within_the_tolerance_asked_for():
    """The estimate that ends the iteration is none for certain: see ``golub_kahan``."""
    errors = []
    for seed in range(12):
        torch.manual_seed(seed)
        layer = nn.Conv2d(8, 8, 3, padding=1)
        true = singular_values(layer, 1, "conv", 20, 1e-6)
        errors.append(float((1 - singular_values(layer, 1, "conv", 20, 5e-4) / true).abs()))
    assert sorted(errors)[-2] < 5e-4
    assert max(errors) < 2e-3


def test_equal_groups_repeat_every_value():
    layer = nn.Conv1d(4, 4, 3, groups=4, padding=1)
    nn.init.constant_(layer.weight, 0.5)
    values = singular_values(layer, 8, "conv", 6)
    torch.testing.assert_close(values[:4], values[:1].expand(4), rtol=1e-6, atol=0)
    torch.testing.assert_close(values[4:], values[4:5].expand(4), rtol=1e-6, atol=0)
    assert values[4] < 0.95 * values[3]


def test_a_pointwise_convolution_stretches_as_its_matrix_does():
    layer = nn.Conv2d(5, 4, 1).double()
    torch.testing.assert_close(
        singular_values(layer, 3, "conv", 3), singular_values(layer, 1).expand(3), rtol=1e-8, atol=0
    )


def test_the_operator_is_at_most_the_kernels_area_above_the_matrix():
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3, padding=1).double()
    matrix, conv = singular_values(layer, 1), singular_values(layer, 1, "conv", 8)
    assert conv <= 3 * matrix  # Tsuzuku et al. 2018: the root of the number of patches that a pixel is in


@pytest.mark.parametrize("k", [1, 3, None])
@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (torch.zeros(3, 4), [0.0, 0.0, 0.0]),
        (torch.outer(torch.ones(4), torch.full((9,), 2.0)), [12.0, 0.0, 0.0, 0.0]),
        (torch.tensor([[-2.5]]), [2.5]),
        (torch.eye(5) * 0.7, [0.7] * 5),
        (torch.ones(1, 16), [4.0]),
        (torch.ones(16, 1), [4.0]),
    ],
    ids=["zero", "rank one", "1×1", "orthogonal", "wide", "tall"],
)
@pytest.mark.parametrize("direct_rows", [0, singular.DIRECT_ROWS])
def test_known_spectra(weight, expected, k, direct_rows, monkeypatch):
    monkeypatch.setattr(singular, "DIRECT_ROWS", direct_rows)
    torch.testing.assert_close(singular_values(weight, k), torch.tensor(expected[:k]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_does_not_matter(scale):
    weight = randn(5, 6, dtype=torch.float32)
    torch.testing.assert_close(singular_values(weight * scale) / scale, singular_values(weight))
    torch.testing.assert_close(stable_rank(weight * scale), stable_rank(weight))
    torch.testing.assert_close(condition_number(weight * scale), condition_number(weight))


@pytest.mark.parametrize(
    ("given_dtype", "dtype"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_values_are_float32_or_wider(given_dtype, dtype):
    layer = nn.Conv1d(2, 2, 3).to(given_dtype)
    for values in (singular_values(layer), singular_values(layer, 3, "conv", 5)):
        assert values.dtype == dtype
        assert not values.requires_grad


def normalized(norm, **options):
    return normalize(nn.Conv2d(2, 3, 3, padding=1), norm, **options)


NORMALIZED = {
    "sn": lambda: normalized("sn"),
    "bssn": lambda: normalized("bssn", scale=2.0),
    "torch": lambda: parametrizations.spectral_norm(nn.Conv2d(2, 3, 3, padding=1)),
    "weight norm": lambda: parametrizations.weight_norm(nn.Conv2d(2, 3, 3, padding=1)),
    "none": lambda: nn.Conv2d(2, 3, 3, padding=1),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("build", NORMALIZED.values(), ids=NORMALIZED)
def test_a_layer_is_measured_with_the_weight_that_evaluation_uses_and_left_alone(build, training):
    torch.manual_seed(0)
    layer = build().train(training)
    layer(torch.ones(1, 2, 5, 5)).sum().backward()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1)  # an update: the next forward in training mode would iterate
    before, grads = copy.deepcopy(dict(layer.named_buffers())), [p.grad.clone() for p in layer.parameters()]
    found = singular_values(layer), singular_values(layer, 3, "conv", 5), stable_rank(layer), condition_number(layer)
    assert all(part.training is training for part in layer.modules())
    assert all(torch.equal(buffer, before[name]) for name, buffer in layer.named_buffers())
    for parameter, grad in zip(layer.parameters(), grads, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=0, atol=0)
    weight = layer.eval().weight.detach()
    torch.testing.assert_close(found[0], torch.linalg.svdvals(weight.flatten(1)))
    plain = nn.Conv2d(2, 3, 3, padding=1)
    plain.weight.data = weight
    torch.testing.assert_close(found[1], singular_values(plain, 3, "conv", 5), rtol=1e-6, atol=0)


def test_the_same_every_time():
    layer = nn.Conv2d(4, 4, 3, padding=1)
    first = singular_values(layer, 3, "conv", 8)
    torch.manual_seed(3)
    assert torch.equal(singular_values(layer, 3, "conv", 8), first)


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (torch.eye(5), 5.0),
        (torch.ones(3, 7), 1.0),
        (torch.diag(torch.tensor([2.0, 1.0, 1.0])), 1.5),
        (torch.zeros(2, 3), 0.0),
        (torch.tensor([[1e-25]]), 1.0),
    ],
)
def test_stable_rank(weight, expected):
    torch.testing.assert_close(stable_rank(weight), torch.tensor(expected))


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (torch.eye(5), 1.0),
        (torch.diag(torch.tensor([4.0, 1.0, 2.0])), 4.0),
        (torch.ones(1, 8), 1.0),
        (torch.diag(torch.tensor([1.0, 1e-5])), 1e5),
        (torch.diag(torch.tensor([1.0, 1e-10], dtype=torch.float64)), 1e10),
        (torch.diag(torch.tensor([1.0, 0.0])), math.inf),
        (torch.outer(randn(6).float(), randn(4, seed=1).float()), math.inf),
        (torch.zeros(2, 3), math.inf),
    ],
)
def test_condition_number(weight, expected):
    torch.testing.assert_close(condition_number(weight), torch.tensor(expected, dtype=weight.dtype))


def test_a_tolerance_out_of_reach_is_said(monkeypatch):
    monkeypatch.setattr(singular, "golub_kahan", lambda linear, k, **options: golub_kahan(linear, k, 3, **options))
    layer = nn.Conv2d(8, 8, 3, padding=1)
    with pytest.warns(RuntimeWarning, match=r"only, not to 1.0e-09, after 3 rounds; they are lower bounds") as caught:
        singular_values(layer, 3, "conv", 12, tol=1e-9)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        singular_values(layer, 3, "conv", 12, tol=0.5)


CONV = nn.Conv2d(3, 4, 3)


@pytest.mark.parametrize("measure", [singular_values, stable_rank, condition_number])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.ones(3), r"shape \(3,\); it needs at least 2 dimensions"),
        (torch.ones(0, 3), r"shape \(0, 3\); .* none of size 0"),
        (torch.tensor([[1.0, math.nan]]), "NaN or infinite"),
        (torch.tensor([[1.0, math.inf]]), "NaN or infinite"),
        (torch.ones(2, 2, dtype=torch.int64), "torch.int64; .* real floating-point"),
        (torch.ones(2, 2, dtype=torch.complex64), "torch.complex64; .* real floating-point"),
        (nn.ReLU(), "ReLU has no weight"),
        (nn.BatchNorm2d(3), r"shape \(3,\)"),
    ],
)
def test_says_what_is_wrong_with_a_weight(measure, given, message):
    with pytest.raises(ValueError, match=message):
        measure(given)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((CONV, 0), {}, "k is 0; ask for at least 1 singular value, or None for all"),
        ((CONV, -1), {}, "k is -1"),
        ((CONV,), {"tol": 0}, "tol is 0; it must be above 0"),
        ((CONV,), {"tol": math.nan}, "tol is nan"),
        ((CONV,), {"operator": "convolution"}, "unknown operator 'convolution'; known: matrix, conv"),
        ((CONV,), {"operator": "conv"}, "needs input_size"),
        ((torch.ones(3, 3),), {"operator": "conv", "input_size": 4}, "was given a tensor; give the layer"),
        ((nn.Linear(3, 3),), {"operator": "conv", "input_size": 4}, "Linear is no convolution"),
        ((CONV,), {"operator": "conv", "input_size": (4,)}, "needs 2 spatial sizes"),
        ((CONV, None), {"operator": "conv", "input_size": 128}, r"63504 × 49152 entries, more than the 33554432"),
    ],
)
def test_says_what_is_wrong_with_the_question(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        singular_values(*arguments, **options)
