"""The symbol of a convolution against dense operators, and the starts made of its peaks."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from poise.spectra import conv_map
from poise.spectra.symbol import Symbol, peaks
from poise.spectra.waves import waves

# class, (in, out, kernel), options, input size: with circular padding where that is known
LAYERS: list[tuple[Any, tuple, dict[str, Any], tuple[int, ...]]] = [
    (nn.Conv1d, (3, 4, 5), {"padding": 2, "padding_mode": "circular"}, (12,)),
    (nn.Conv1d, (3, 4, 4), {"padding": 1, "stride": 2, "padding_mode": "circular"}, (12,)),
    (nn.Conv1d, (2, 3, 3), {"padding": 2, "dilation": 2, "stride": 3, "padding_mode": "circular"}, (12,)),
    (nn.Conv2d, (3, 2, 3), {"padding": 1, "padding_mode": "circular"}, (6, 8)),
    (nn.Conv2d, (3, 2, 3), {"padding": 2, "dilation": 2, "padding_mode": "circular"}, (8, 8)),
    (nn.Conv2d, (4, 6, 3), {"padding": 1, "groups": 2, "padding_mode": "circular"}, (6, 6)),
    (nn.Conv2d, (2, 3, 4), {"padding": 1, "stride": 2, "padding_mode": "circular"}, (8, 8)),
    (nn.Conv2d, (2, 3, (3, 4)), {"padding": 1, "stride": (1, 2), "padding_mode": "circular"}, (6, 8)),
    (nn.Conv3d, (2, 2, 3), {"padding": 1, "padding_mode": "circular"}, (4, 4, 4)),
]


def build(case):
    torch.manual_seed(0)
    kind, channels, options, size = case
    return kind(*channels, **options, bias=False).double(), size


def name_of(case):
    return "-".join([case[0].__name__, *(f"{key}={value}" for key, value in case[2].items() if key != "padding_mode")])


def complex_randn(*shape):
    return torch.view_as_complex(
        torch.randn(*shape, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    )


@pytest.mark.parametrize("case", LAYERS, ids=name_of)
def test_on_a_circle_every_frequency_has_singular_values_of_the_operator(case):
    layer, size = build(case)
    symbol, dense = Symbol(layer, layer.weight.detach()), conv_map(layer, size)
    counts = dense.out_shape[1:]
    # The search looks at an undilated convolution where it can: its frequencies are the true ones times the dilation.
    grid = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) * (2 * math.pi / n) for n in counts))
    frequencies = grid.view(-1, len(counts)) * symbol.narrowing
    channels = torch.eye(layer.out_channels, dtype=torch.complex128)
    found = []
    for frequency in frequencies:
        phases = symbol.phases(frequency[None]).expand(len(channels), -1, -1)
        found.append(torch.linalg.svdvals(symbol.adjoint(channels, phases).flatten(1)))
    expected = torch.linalg.svdvals(dense.dense())
    torch.testing.assert_close(torch.cat(found).sort(descending=True).values[: len(expected)], expected)


@pytest.mark.parametrize("case", LAYERS, ids=name_of)
def test_inner_products_agree_on_both_sides(case):
    layer, _ = build(case)
    symbol = Symbol(layer, layer.weight.detach())
    frequencies = symbol.grid()
    phases, u = symbol.phases(frequencies), complex_randn(len(frequencies), layer.out_channels)
    back = symbol.adjoint(u, phases)
    v = complex_randn(*back.shape)
    before = (back.conj() * v).flatten(1).sum(1)
    torch.testing.assert_close(before, (u.conj() * symbol.forward(v, phases)).sum(1))


@pytest.mark.parametrize("case", LAYERS, ids=name_of)
def test_the_highest_peak_is_no_lower_than_any_frequency_of_a_fine_grid(case):
    layer, size = build(case)
    symbol = Symbol(layer, layer.weight.detach())
    frequencies, channels = peaks(symbol)
    assert 1 <= len(frequencies) <= 4
    phases = symbol.phases(frequencies * symbol.narrowing)
    heights = symbol.adjoint(channels, phases).flatten(1).norm(dim=1) / channels.norm(dim=1)
    operator = torch.linalg.svdvals(conv_map(layer, size).dense())[0]
    assert heights[0] >= operator * (1 - 1e-3)
    assert heights.max() <= heights[0] * (1 + 1e-6)


FADING: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Conv1d(3, 4, 5, padding=2), (300,)),
    (nn.Conv2d(3, 4, 3, padding=1), (20, 24)),
    (nn.Conv2d(3, 4, 3), (24, 24)),
    (nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), (20, 20)),
    (nn.Conv2d(3, 4, 3, padding=2, dilation=2), (32, 32)),
    (nn.Conv2d(4, 4, 3, padding=1, groups=4), (20, 20)),
    (nn.Conv2d(3, 4, 4, padding=1, stride=2), (36, 36)),
    (nn.ConvTranspose2d(3, 4, 4, padding=1, stride=2), (18, 18)),
    (nn.ConvTranspose2d(4, 4, 3, padding=1, groups=2), (18, 18)),
    (nn.Conv3d(2, 2, 3, padding=1), (7, 8, 9)),
    (nn.ConvTranspose3d(2, 2, 2, stride=2), (8, 8, 8)),
]


@pytest.mark.parametrize(("layer", "size"), FADING, ids=str)
@pytest.mark.parametrize("count", [1, 4])
def test_a_start_of_waves_is_stretched_nearly_most(layer, size, count):
    torch.manual_seed(0)
    layer.reset_parameters()
    linear_map = conv_map(layer, size, torch.float32)
    start = waves(layer, layer.weight.detach(), linear_map, count)
    assert start is not None
    assert start.shape[1:] == linear_map.in_shape
    assert 1 <= len(start) <= count
    x = torch.randn(1, *linear_map.in_shape)
    for _ in range(300):
        y = linear_map.matvec(x / x.norm())
        x = linear_map.rmatvec(y)
    stretch = linear_map.matvec(start[:1]).norm() / start[:1].norm()
    assert 0.93 * y.norm() < stretch < 1.001 * y.norm()
    assert torch.equal(start, waves(layer, layer.weight.detach(), linear_map, count))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (nn.Conv2d(2, 2, 3, padding=1), 12),
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), 32),
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="replicate"), 32),
    ],
)
def test_where_a_search_would_not_pay_there_is_no_start(layer, size):
    assert waves(layer, layer.weight.detach(), conv_map(layer, size, torch.float32), 1) is None


def test_a_zero_weight_and_a_single_tap():
    for layer in (nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(1, 1, 1)):
        nn.init.zeros_(layer.weight)
        start = waves(layer, layer.weight.detach(), conv_map(layer, 20, torch.float32), 1)
        assert start is not None
        assert start.isfinite().all()
