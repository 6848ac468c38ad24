"""Rules, as in ``lipschitz_rules``, for what works on images of 1 to 3 dimensions.

Pooling, padding and resizing act along each axis alone: as linear maps their norm is the product of the axes' norms.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poise.spectra.lipschitz_linear import axis_norm, conv_norm, padded_conv_norm

Sizes = Any  # a number for all axes, or one for each

_CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def each(value: Sizes, dims: int) -> tuple[Any, ...]:
    """One value for each axis."""
    if isinstance(value, tuple | list):
        return tuple(value) * dims if len(value) == 1 else tuple(value)
    return (value,) * dims


def convolution(
    result: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> float:
    layer = _CONVOLUTIONS[weight.ndim - 2](
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),
        *(stride, padding, dilation, groups),
        bias=False,
        device="meta",
    )
    return _conv_norm(layer, weight, input)


def transposed_convolution(
    result: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> float:
    layer = _TRANSPOSED[weight.ndim - 2](
        weight.shape[0],
        weight.shape[1] * groups,
        tuple(weight.shape[2:]),
        *(stride, padding, output_padding, groups, False, dilation),
        device="meta",
    )
    return _conv_norm(layer, weight, input)


def _conv_norm(layer: Any, weight: Tensor, input: Tensor) -> float:
    layer.weight = nn.Parameter(weight, requires_grad=False)
    bound = conv_norm(layer, tuple(input.shape[2 - weight.ndim :]))
    padding = getattr(input, "padding", None)
    if padding is not None and input.ndim == weight.ndim and len(padding.pad) <= 2 * (weight.ndim - 2):
        together = padded_conv_norm(layer, padding.shape, padding.pad, padding.mode)
        bound = bound if together is None else min(bound, together / padding.constant)
    return bound


# Pooling over ``dims`` axes.


def _axes(dims: int, result: Tensor, input: Tensor, *options: Sizes) -> Iterator[tuple[Any, ...]]:
    """For each axis: input size, output size, and that axis' options."""
    sizes = (tuple(tensor.shape[-dims:]) for tensor in (input, result))
    return zip(*sizes, *(each(option, dims) for option in options), strict=True)


def average_pool(
    dims: int,
    result: Tensor,
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> float:
    """Overlaps and borders counted, tight."""
    sums = None if divisor_override is None else 1
    bound = 1.0 if divisor_override is None else 1 / abs(divisor_override)
    for n, _, k, s, p in _axes(dims, result, input, kernel_size, stride or kernel_size, padding):

        def pool(x: Tensor, k: int = k, s: int = s, p: int = p) -> Tensor:
            return F.avg_pool2d(x, (1, k), (1, s), (0, p), ceil_mode, count_include_pad, sums)

        bound *= axis_norm(pool, n)
    return bound


def adaptive_average_pool(dims: int, result: Tensor, input: Tensor, output_size: Sizes) -> float:
    bound = 1.0
    for n, out in _axes(dims, result, input):

        def pool(x: Tensor, out: int = out) -> Tensor:
            return F.adaptive_avg_pool2d(x, (1, out))

        bound *= axis_norm(pool, n)
    return bound


def max_pool(
    dims: int,
    result: Tensor,
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> float:
    """√ of the most windows that one pixel is in; tight, as that pixel may be the maximum of them all."""
    windows = 1
    for n, out, k, s, p, d in _axes(dims, result, input, kernel_size, stride or kernel_size, padding, dilation):
        pixels = (torch.arange(out)[:, None] * s - p + torch.arange(k) * d).flatten()
        windows *= _most(pixels[(pixels >= 0) & (pixels < n)])
    return math.sqrt(windows)


def adaptive_max_pool(
    dims: int, result: Tensor, input: Tensor, output_size: Sizes, return_indices: bool = False
) -> float:
    windows = 1
    for n, out in _axes(dims, result, input):
        bounds = ((i * n // out, -(-(i + 1) * n // out)) for i in range(out))
        windows *= _most(torch.cat([torch.arange(*bound) for bound in bounds]))
    return math.sqrt(windows)


def _most(pixels: Tensor) -> int:
    """How often the most frequent pixel occurs."""
    return int(pixels.bincount().amax()) if pixels.numel() else 0


@dataclass(frozen=True)
class Padding:
    """What a convolution remembers of the padding before it."""

    shape: tuple[int, ...]
    """of the image before"""
    pad: tuple[int, ...]
    mode: str
    constant: float
    """of the padding alone"""


def padding_of(input: Tensor, pad: Any, mode: str = "constant", value: float | None = None) -> Padding:
    return Padding(tuple(input.shape[1:]), tuple(pad), mode, _copies(input, pad, mode))


def pad(result: Tensor, input: Tensor, pad: Any, mode: str = "constant", value: float | None = None) -> float:
    """Constants and crops give 1; copies of pixels √ of their most."""
    return _copies(input, pad, mode)


def _copies(input: Tensor, pad: Any, mode: str) -> float:
    copies = 1
    if mode != "constant":
        for axis in range(len(pad) // 2):
            n = input.shape[-1 - axis]
            row = F.pad(torch.arange(n, dtype=torch.float64).view(1, 1, n), tuple(pad[2 * axis : 2 * axis + 2]), mode)
            copies *= _most(row.long().flatten())
    return math.sqrt(copies)


def interpolate(
    result: Tensor,
    input: Tensor,
    size: Sizes = None,
    scale_factor: Sizes = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> float:
    """Tight, in every mode."""
    # Tried on images of one row: of one column, torch 2.14 antialiases wrongly.
    dims = input.ndim - 2
    mode = "bilinear" if mode in ("linear", "trilinear") else mode
    sizes, factors = each(size, dims), each(scale_factor, dims)
    bound = 1.0
    for n, to, factor in zip(input.shape[2:], sizes, factors, strict=True):

        def resize(x: Tensor, to: Any = to, factor: Any = factor) -> Tensor:
            return F.interpolate(
                x,
                None if to is None else (1, to),
                None if factor is None else (1.0, factor),
                mode,
                align_corners,
                recompute_scale_factor,
                antialias,
            )

        bound *= axis_norm(resize, n)
    return bound
