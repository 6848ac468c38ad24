"""Singular values of a layer, by name of the operator meant, and two numbers made of them."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from poise.spectra.lanczos import SPARE, golub_kahan
from poise.spectra.operator import TRANSPOSED, LinearMap, conv_map, effective_weight, matrix_map
from poise.spectra.waves import waves

OPERATORS = ("matrix", "conv")
DENSE_ENTRIES = 2**25  # a convolution's explicit operator: 256 MiB in float64
DIRECT_ROWS = 256  # up to here a direct decomposition takes less time than an iteration
FINEST = 1e-4  # the smallest tolerance for which an iteration in float32 is tried


@torch.no_grad()
def singular_values(
    layer_or_weight: nn.Module | Tensor,
    k: int | None = 3,
    operator: str = "matrix",
    input_size: int | tuple[int, ...] | None = None,
    tol: float = 1e-4,
) -> Tensor:
    """The k largest singular values of a layer's weight, or of the convolution itself; the layer is left as it was.

    Small matrices are decomposed, and with a ``tol`` below 1e-4 or a float64 weight all else is iterated in float64
    until the residual shows that a singular value lies within ``tol`` of each. Otherwise the vectors are iterated in
    float32, convolutions from waves that they stretch much (module ``waves``), until the values' error is estimated
    to be below ``tol``; the values are then computed in float64, so that TF32 does not spoil them. For one value of a
    convolution this takes some ten rounds. Of the estimates, one in a hundred is wrong, by a few tolerances at most,
    where two directions far apart are stretched almost alike.

    To follow weights while they train, use ``SpectrumTracker``, which starts from the last call's vectors.

    Args:
        layer_or_weight: a layer with a weight (normalized ones: the weight that evaluation uses), or a tensor of at
            least 2 dimensions.
        k: how many; a map with fewer gives all it has. None: the full spectrum.
        operator: "matrix", the weight reshaped to one row per output unit (dimension 0; 1 of transposed convolutions),
            as spectral normalization sees it; "conv", the convolution from images to images.
        input_size: for "conv": the input's spatial size, pixels; an int for all dimensions alike.
        tol: relative error allowed in each value, unitless.

    Returns:
        Shape (min(k, number of them),), descending, on the weight's device, float32 (float64 for a float64 weight);
        never above the true ones, but for rounding.

    Raises:
        ValueError: k < 1, tol not above 0, an unknown operator, "conv" without ``input_size`` or of something else than
            a convolution, a weight with NaN or infinity, or a full spectrum too large to compute.

    Warns:
        RuntimeWarning: the tolerance was not reached; the values are then lower bounds.

    Source: Golub and Kahan 1965; Sedghi et al. 2019 (arXiv 1805.10408) for the convolution's operator.
    """
    if k is not None and k < 1:
        raise ValueError(f"k is {k}; ask for at least 1 singular value, or None for all")
    if not tol > 0:
        raise ValueError(f"tol is {tol}; it must be above 0")
    if operator not in OPERATORS:
        raise ValueError(f"unknown operator {operator!r}; known: {', '.join(OPERATORS)}")
    weight = _checked(layer_or_weight)
    if operator == "matrix":
        linear_map = matrix_map(weight, 1 if isinstance(layer_or_weight, TRANSPOSED) else 0)
    elif isinstance(layer_or_weight, Tensor):
        raise ValueError("operator 'conv' was given a tensor; give the layer, which knows its stride and padding")
    elif input_size is None:
        raise ValueError("operator 'conv' needs input_size, the spatial size of the layer's input, e.g. (32, 32)")
    else:
        linear_map = conv_map(layer_or_weight, input_size)
    if k is None or min(linear_map.shape) <= DIRECT_ROWS:
        values = _all(linear_map, operator)
    else:
        count = min(k, *linear_map.shape)
        quick: Tensor | None = None
        if weight.dtype != torch.float64 and tol >= FINEST:
            quick = _quickly(
                layer_or_weight, weight, input_size if operator == "conv" else None, linear_map, count, tol
            )
        values = _precisely(linear_map, count, tol) if quick is None else quick
    return values[:k].to(torch.promote_types(weight.dtype, torch.float32))


@torch.no_grad()
def stable_rank(layer_or_weight: nn.Module | Tensor) -> Tensor:
    """``‖W‖_F² / σ_max²`` of the reshaped weight: a scalar from 1 to its rank, unitless; 0 for a zero weight.

    Raises:
        ValueError: as ``singular_values``.

    Source: Rudelson and Vershynin 2007 (arXiv math/0503442).
    """
    largest = singular_values(layer_or_weight, 1, tol=1e-6)[0]
    norm = torch.linalg.vector_norm(_checked(layer_or_weight).double()).to(largest.dtype)
    return torch.where(largest > 0, norm / largest, 0).square()


@torch.no_grad()
def condition_number(layer_or_weight: nn.Module | Tensor) -> Tensor:
    """``σ_max / σ_min`` of the reshaped weight: a scalar of at least 1, unitless.

    Infinite when the weight lacks full rank: σ_min ≤ ε · max(rows, columns) · σ_max, with ε of
    float32 (float64 for a float64 weight).
    The full spectrum is computed: cubic in the smaller dimension.

    Raises:
        ValueError: as ``singular_values``.
    """
    values = singular_values(layer_or_weight, None)
    weight = _checked(layer_or_weight)
    dim = 1 if isinstance(layer_or_weight, TRANSPOSED) else 0
    longer = max(weight.shape[dim], weight.numel() // weight.shape[dim])
    least = torch.finfo(values.dtype).eps * longer * values[0]
    return torch.where(values[-1] > least, values[0] / values[-1], math.inf)


def _checked(layer_or_weight: nn.Module | Tensor) -> Tensor:
    """The weight, detached, if it is one that has singular values."""
    given = layer_or_weight
    weight = given.detach() if isinstance(given, Tensor) else effective_weight(given)
    if weight.ndim < 2 or not weight.numel():
        raise ValueError(f"weight has shape {tuple(weight.shape)}; it needs at least 2 dimensions and none of size 0")
    if not weight.is_floating_point():
        raise ValueError(f"weight is {weight.dtype}; singular values are computed of real floating-point weights")
    if not weight.isfinite().all():
        raise ValueError("weight has NaN or infinite entries; it has no singular values")
    return weight


def _all(linear_map: LinearMap, operator: str) -> Tensor:
    """The full spectrum, from the explicit matrix."""
    rows, columns = linear_map.shape
    if operator == "conv" and rows * columns > DENSE_ENTRIES:
        raise ValueError(
            f"the full spectrum needs the explicit operator of {rows} × {columns} entries, more than the "
            f"{DENSE_ENTRIES} allowed; ask for the k largest, or give a smaller input_size"
        )
    return torch.linalg.svdvals(linear_map.dense())


def _quickly(
    given: nn.Module | Tensor,
    weight: Tensor,
    input_size: int | tuple[int, ...] | None,
    linear_map: LinearMap,
    k: int,
    tol: float,
) -> Tensor | None:
    """The k largest by an iteration in float32, where it gets there; ``linear_map`` has the same in float64.

    Only the vectors are from float32, or from TF32 where that is switched on. The values are computed from them in
    float64, and err by the square of the vectors' error.
    """
    scale = weight.abs().amax()
    if not scale > 0:
        return None
    scaled = (weight / scale).float()
    if input_size is None or isinstance(given, Tensor):
        quick, start = matrix_map(scaled, 1 if isinstance(given, TRANSPOSED) else 0, torch.float32), None
    else:
        quick = conv_map(given, input_size, weight=scaled)
        assert isinstance(given, _ConvNd)
        start = waves(given, scaled, quick, k if k == 1 else k + SPARE)
    found = golub_kahan(quick, k, start=start, tol=tol, by_value=True, spare=0 if k == 1 else SPARE)
    if not found.converged:
        return None
    right = torch.linalg.qr(found.right.flatten(1).t().to(linear_map.dtype)).Q.t()
    return torch.linalg.svdvals(linear_map.matvec(right.reshape(found.right.shape)).flatten(1))


def _precisely(linear_map: LinearMap, k: int, tol: float) -> Tensor:
    found = golub_kahan(linear_map, k, tol=tol)
    if not found.converged:
        error = float((found.residuals / found.values[0]).amax())
        warnings.warn(
            f"singular values are accurate to {error:.1e} only, not to {tol:.1e}, after {found.rounds} rounds; "
            "they are lower bounds; allow a larger tol or ask for more of them",
            RuntimeWarning,
            stacklevel=4,
        )
    return found.values
