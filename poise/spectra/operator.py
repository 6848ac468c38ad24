"""Layers as linear maps: a matrix, or the convolution itself, applied to a block of vectors, and its adjoint.

A convolution's reshaped weight is not its operator: the operator, from images to images, is what decides how far the
layer can stretch its input (Sedghi, Gupta and Long 2019, arXiv 1805.10408), and it depends on the image size.

Maps compute in float64: a measurement must not change with the autocast or TF32 setting of the training around it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from poise.spectra.power import as_matrix

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)

_CONV: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


@dataclass(frozen=True)
class LinearMap:
    """A linear map A, known by what it does to a block of b vectors.

    Attributes:
        matvec: ``x ↦ Ax``, shape (b, *in_shape) → (b, *out_shape).
        rmatvec: ``y ↦ Aᵀy``, shape (b, *out_shape) → (b, *in_shape).
        in_shape: shape of one vector before.
        out_shape: shape of one vector after.
        dtype: of the vectors it takes and gives.
        device: likewise.
    """

    matvec: Callable[[Tensor], Tensor]
    rmatvec: Callable[[Tensor], Tensor]
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the map as a matrix: entries of one vector after, and before."""
        return math.prod(self.out_shape), math.prod(self.in_shape)

    @torch.no_grad()
    def dense(self) -> Tensor:
        """The map as an explicit matrix, shape (rows, columns); found by applying it to the unit vectors."""
        rows, columns = self.shape
        by_columns = columns <= rows
        apply, shape, count = (
            (self.matvec, self.in_shape, columns) if by_columns else (self.rmatvec, self.out_shape, rows)
        )
        images = []
        for first in range(0, count, 256):
            units = torch.zeros(min(256, count - first), count, dtype=self.dtype, device=self.device)
            units.diagonal(first).fill_(1)
            images.append(apply(units.view(-1, *shape)).flatten(1))
        matrix = torch.cat(images)
        return matrix.t() if by_columns else matrix


def effective_weight(layer: nn.Module, parameter: str = "weight") -> Tensor:
    """The weight as evaluation sees it, detached: a norm that iterates while training does not do so for this reading.

    Raises:
        ValueError: the layer has no weight tensor.
    """
    modes = [(part, part.training) for part in layer.modules()]
    try:
        layer.eval()
        weight = getattr(layer, parameter, None)
    finally:
        for part, training in modes:
            part.training = training
    if not isinstance(weight, Tensor):
        raise ValueError(f"{type(layer).__name__} has no {parameter}; give a layer with one, or a tensor")
    return weight.detach()


def matrix_map(weight: Tensor, row_dim: int = 0, dtype: torch.dtype | None = None) -> LinearMap:
    """The reshaped weight as a map: ``row_dim`` counts the rows, all other dimensions, in order, the columns.

    Args:
        weight: at least 2 dimensions.
        row_dim: 0; 1 for transposed convolutions, whose outputs are counted there.
        dtype: to compute in; default float64 (float32 on devices without it).

    Raises:
        ValueError: a weight of fewer than 2 dimensions.
    """
    if weight.ndim < 2:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; a matrix needs at least 2 dimensions")
    matrix = as_matrix(weight.detach(), row_dim).to(dtype or widest(weight.device))
    rows, columns = matrix.shape
    return LinearMap(lambda x: x @ matrix.t(), lambda y: y @ matrix, (columns,), (rows,), matrix.dtype, matrix.device)


def conv_map(
    layer: nn.Module,
    input_size: int | tuple[int, ...],
    dtype: torch.dtype | None = None,
    weight: Tensor | None = None,
) -> LinearMap:
    """A convolution without its bias as a map from images to images, exact for every option torch has.

    Args:
        layer: Conv1d to 3d or ConvTranspose1d to 3d: any stride, padding and padding mode, dilation, groups and output
            padding. Parametrized layers count with their effective weight.
        input_size: height and width of the input, pixels (length for 1d; depth first for 3d); an int for all alike.
        dtype: to compute in; default float64 (float32 on devices without it). Float32 takes half the memory and a third
            of the time on a CPU; on CUDA torch may round it to TF32.
        weight: to use instead of the layer's, in its own dtype unless ``dtype`` says otherwise; the map is then
            differentiable in it.

    Returns:
        A map from (in_channels, *input_size) to (out_channels, *output size).

    Raises:
        ValueError: not a convolution, or an input size that it cannot take.

    Source: Sedghi et al. 2019, for why; the adjoint of a convolution is the transposed one, and the reverse.
    """
    if not isinstance(layer, CONVOLUTIONS):
        raise ValueError(
            f"{type(layer).__name__} is no convolution; known: {', '.join(c.__name__ for c in CONVOLUTIONS)}"
        )
    size = (input_size,) * len(layer.kernel_size) if isinstance(input_size, int) else tuple(input_size)
    if len(size) != len(layer.kernel_size) or min(size) < 1:
        raise ValueError(
            f"input_size is {input_size}; {type(layer).__name__} needs {len(layer.kernel_size)} spatial sizes of at "
            "least 1, without batch and channels"
        )
    if weight is None:
        weight = effective_weight(layer)
        dtype = dtype or widest(weight.device)
    weight = weight.to(dtype or weight.dtype)
    build = _transposed if isinstance(layer, TRANSPOSED) else _direct
    return build(layer, weight, size)


def _direct(layer: _ConvNd, weight: Tensor, size: tuple[int, ...]) -> LinearMap:
    """Padding, which copies or adds pixels, then a convolution without any."""
    stride, dilation, groups = layer.stride, layer.dilation, layer.groups
    reach = [d * (k - 1) for d, k in zip(dilation, layer.kernel_size, strict=True)]
    if layer.padding == "same":
        amounts = [(r // 2, r - r // 2) for r in reach]
    else:
        amounts = [(int(p), int(p)) for p in (layer.padding if layer.padding != "valid" else (0,) * len(size))]
    padded = [n + sum(pair) for n, pair in zip(size, amounts, strict=True)]
    if any(n <= r for n, r in zip(padded, reach, strict=True)):
        raise ValueError(f"input_size {size} is too small for {layer}: padded, it is {tuple(padded)}")
    out = [(n - r - 1) // s + 1 for n, r, s in zip(padded, reach, stride, strict=True)]
    # Pixels at the far edge that no stride reaches: the transposed convolution must give them a zero.
    unseen = [n - (o - 1) * s - r - 1 for n, o, s, r in zip(padded, out, stride, reach, strict=True)]
    flat = list(chain.from_iterable(reversed(amounts)))  # F.pad lists the last dimension first
    conv, transposed = _CONV[len(size)], _CONV_TRANSPOSE[len(size)]
    pad, fold = _padding(layer, size, flat, weight.device)
    return LinearMap(
        lambda x: conv(pad(x), weight, None, stride, 0, dilation, groups),
        lambda y: fold(transposed(y, weight, None, stride, 0, unseen, groups, dilation)),
        (layer.in_channels, *size),
        (layer.out_channels, *out),
        weight.dtype,
        weight.device,
    )


def _padding(
    layer: _ConvNd, size: tuple[int, ...], flat: list[int], device: torch.device
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """The padding as a linear map and its adjoint."""
    if layer.padding_mode == "zeros" or not any(flat):
        return lambda x: F.pad(x, flat), lambda y: F.pad(y, [-n for n in flat])
    pixels = torch.arange(math.prod(size), dtype=torch.float64).view(1, 1, *size)
    try:
        source = F.pad(pixels, flat, mode=layer.padding_mode)
    except RuntimeError as error:
        raise ValueError(f"input_size {size} is too small for {layer}: {error}") from None
    index = source.long().flatten().to(device)  # the pixel that each pixel of the padded image copies

    def fold(y: Tensor) -> Tensor:
        flat_y = y.flatten(2)
        total = flat_y.new_zeros(*flat_y.shape[:2], math.prod(size))
        return total.index_add_(2, index, flat_y).unflatten(2, size)

    return lambda x: x.flatten(2)[..., index].unflatten(2, source.shape[2:]), fold


def _transposed(layer: _ConvNd, weight: Tensor, size: tuple[int, ...]) -> LinearMap:
    options = zip(
        size, layer.stride, layer.padding, layer.dilation, layer.kernel_size, layer.output_padding, strict=True
    )
    out = [(n - 1) * s - 2 * p + d * (k - 1) + o + 1 for n, s, p, d, k, o in options]
    if min(out) < 1:
        raise ValueError(f"input_size {size} is too small for {layer}: its output would be {tuple(out)}")
    conv, transposed = _CONV[len(size)], _CONV_TRANSPOSE[len(size)]
    # Output padding wider than the stride makes the adjoint see past the end of the input.
    window: Any = (..., *map(slice, size))
    return LinearMap(
        lambda x: transposed(
            x, weight, None, layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation
        ),
        lambda y: conv(y, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)[window],
        (layer.in_channels, *size),
        (layer.out_channels, *out),
        weight.dtype,
        weight.device,
    )


def widest(device: torch.device) -> torch.dtype:
    """The most precise type that a device computes in."""
    return torch.float32 if device.type == "mps" else torch.float64
