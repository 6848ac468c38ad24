"""Norms of linear maps that are certainly not too small: what a Lipschitz bound is multiplied from.

An iteration's singular value is a lower bound, however small its residual. So none is used here:

- A map of few dimensions is written out as a matrix A, and its norm is the root of the largest eigenvalue of AAᵀ,
  raised by what rounding may have taken from it.
- A convolution of many is a part of the convolution on a torus that is as much larger than the image as the padding:
  zeros around the image hide the seam. That one's norm is the largest over the frequencies of a small matrix (Sedghi,
  Gupta and Long 2019, arXiv 1805.10408, theorem 6; with strides, the pixels between are more channels). It is above the
  true norm by what the image's border takes away: typically 10% at 4 pixels, 2% at 8 and 0.2% at 32.
- On large images fewer frequencies do. Between them the norm is that of trigonometric polynomials, and one of degree n
  is nowhere above 1/cos(πn/N) times its largest value on N equal steps (M. Riesz 1914), in each dimension.
- Pooling, resizing and padding act along each axis alone: the norm is the product of the axes' norms.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poise.spectra.operator import TRANSPOSED, conv_map

DENSE_SIDE = 1024  # rows or columns, whichever are fewer, of a convolution written out: half a second
DENSE_ENTRIES = 2**25  # 256 MiB in float64
STEPS_PER_TAP = 16  # frequencies for each kernel tap at most: the bound is then at most 0.5% high in each dimension
AXIS_LENGTH = 1024  # of an axis whose map is decomposed; longer ones are bounded by their row and column sums
CHUNK = 2**22  # complex entries held at a time


def wide(tensor: Tensor) -> Tensor:
    """The tensor, detached, in float64 (float32 on devices without it)."""
    return tensor.detach().to(torch.float32 if tensor.device.type == "mps" else torch.float64)


def matrix_norm(matrix: Tensor) -> float:
    """Upper bound of the spectral norm, tight to rounding: shape (…, m, n), real or complex; the largest of a batch."""
    if not matrix.numel():
        return 0.0
    scale = float(matrix.abs().amax())
    if not math.isfinite(scale):
        raise ValueError("its weight has NaN or infinite entries")
    if scale == 0:
        return 0.0
    matrix = matrix / scale  # squares neither overflow nor vanish
    if matrix.shape[-2] > matrix.shape[-1]:
        matrix = matrix.mT
    largest = float(torch.linalg.eigvalsh(matrix @ matrix.mH)[..., -1].amax())
    # Entries of AAᵀ, sums of n products, are off by n·ε‖A‖_F² ≤ n·m·ε‖A‖²; the eigenvalue is then off by as much.
    rounding = torch.finfo(matrix.dtype).eps * matrix.shape[-2] * matrix.shape[-1]
    return scale * math.sqrt(max(largest, 0.0)) * (1 + rounding)


def conv_norm(layer: nn.Module, size: tuple[int, ...]) -> float:
    """Upper bound of the norm of a convolution, as ``conv_map`` has it, padded with zeros, on images of this size."""
    linear_map = conv_map(layer, size)
    if _is_small(linear_map.shape):
        return matrix_norm(linear_map.dense())
    conv: Any = layer
    small, large, padding = linear_map.out_shape[1:], size, conv.padding
    if isinstance(layer, TRANSPOSED):  # the adjoint of the convolution from its output
        small, large = large, small
    elif padding == "same":
        padding = [(d * (k - 1) + 1) // 2 for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    elif padding == "valid":
        padding = [0] * len(size)
    # What is read beyond either edge may be the same zeros: as many as the wider padding has are enough.
    torus = [max(-(-(n + p) // s), o) for n, p, s, o in zip(large, padding, conv.stride, small, strict=True)]
    return torus_norm(wide(conv.weight), torus, conv.stride, conv.dilation, conv.groups)


def padded_conv_norm(layer: nn.Module, shape: tuple[int, ...], pad: tuple[int, ...], mode: str) -> float | None:
    """Upper bound of the norm of ``F.pad`` and then a convolution, which have less together than one by one.

    Args:
        layer: the convolution.
        shape: of the image before it is padded, (c, *size).
        pad, mode: as of ``F.pad``.

    Returns:
        None for maps too large to write out, unless they are convolutions on a torus.
    """
    conv: Any = layer
    padded = F.pad(torch.empty(1, *shape, device="meta"), pad, mode).shape[2:]
    linear_map = conv_map(layer, tuple(padded))
    rows, columns = linear_map.shape[0], math.prod(shape)

    def forward(x: Tensor) -> Tensor:
        return linear_map.matvec(F.pad(x, pad, mode))

    @torch.enable_grad()
    def adjoint(y: Tensor) -> Tensor:
        x = y.new_zeros(len(y), *shape, requires_grad=True)
        return torch.autograd.grad(forward(x), x, y)[0]

    if _is_small((rows, columns)):
        return matrix_norm(replace(linear_map, matvec=forward, rmatvec=adjoint, in_shape=shape).dense())
    sizes = list(zip(shape[1:], conv.stride, linear_map.out_shape[1:], strict=True))
    if mode == "circular" and not any(conv.padding) and all(n % s == 0 and o * s <= n for n, s, o in sizes):
        return torus_norm(wide(conv.weight), [n // s for n, s, _ in sizes], conv.stride, conv.dilation, conv.groups)
    return None


def _is_small(shape: tuple[int, int]) -> bool:
    return min(shape) <= DENSE_SIDE and math.prod(shape) <= DENSE_ENTRIES


def torus_norm(
    weight: Tensor, torus: list[int], stride: tuple[int, ...], dilation: tuple[int, ...], groups: int = 1
) -> float:
    """Upper bound of the norm of a convolution on a torus.

    Args:
        weight: shape (c_out, c_in/groups, *kernel), float64.
        torus: size of the output, a torus; the input's is ``stride`` times as large.
        stride, dilation, groups: as of ``nn.Conv2d``.

    Source: Sedghi et al. 2019, theorem 6.
    """
    taps = torch.tensor(list(itertools.product(*map(range, weight.shape[2:]))), device=weight.device)
    place = taps * torch.tensor(dilation, device=weight.device)
    steps = torch.tensor(stride, device=weight.device)
    shift, phase = place // steps, place % steps  # a pixel between two strides is another input channel
    counts, correction = [], 1.0
    for length, degree in zip(torus, shift.amax(dim=0).tolist(), strict=True):
        count = min(length, STEPS_PER_TAP * (degree + 1)) if degree else 1
        if count < length:
            correction /= math.cos(math.pi * degree / (2 * count))  # centred, the polynomial has half the degree
        counts.append(count)
    # Opposite frequencies have conjugate matrices: half of the last axis is enough.
    axes = [torch.arange(count if axis < len(counts) - 1 else count // 2 + 1) for axis, count in enumerate(counts)]
    frequencies = torch.cartesian_prod(*axes).view(-1, len(counts)).to(weight) * (2 * math.pi)
    angles = (frequencies / torch.tensor(counts).to(weight)) @ shift.t().to(weight)

    kernel = weight.flatten(2).unflatten(0, (groups, -1))  # (groups, c_out/groups, c_in/groups, taps)
    phases = [(phase == one).all(dim=1).nonzero().flatten() for one in phase.unique(dim=0)]
    largest = 0.0
    for part in angles.split(max(1, CHUNK // weight.numel())):
        waves = torch.polar(torch.ones_like(part), part)
        blocks = [torch.einsum("goit,ft->fgoi", kernel[..., t] + 0j, waves[:, t]) for t in phases]
        largest = max(largest, matrix_norm(torch.cat(blocks, dim=-1)))
    return largest * correction


def axis_norm(apply: Callable[[Tensor], Tensor], length: int) -> float:
    """Upper bound of the norm of a linear map along one image axis.

    Args:
        apply: the map, on images of shape (b, 1, 1, length).
        length: pixels along the axis. Up to 1024 the bound is tight; beyond, it is ``√(‖A‖₁‖A‖∞)``, by Schur's test.
    """
    if length <= AXIS_LENGTH:
        return matrix_norm(apply(torch.eye(length, dtype=torch.float64).view(length, 1, 1, length)).flatten(1))
    columns, rows = 0.0, torch.zeros((), dtype=torch.float64)
    for first in range(0, length, 256):
        units = torch.zeros(min(256, length - first), length, dtype=torch.float64)
        units.diagonal(first).fill_(1)
        image = apply(units.view(-1, 1, 1, length)).flatten(1).abs()
        columns, rows = max(columns, float(image.sum(dim=1).amax())), rows + image.sum(dim=0)
    return math.sqrt(columns * float(rows.amax())) * (1 + torch.finfo(torch.float64).eps * length)
