"""The named forms of spectral normalization, each from the weight of a layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from poise.norms.directions import Columns, Direction, Operator, Rows, matrix_shape
from poise.norms.gain import check_gamma
from poise.norms.normalization import LayerWeight
from poise.norms.spectral import SpectralNorm
from poise.norms.stack import SMALL, Stack
from poise.spectra.operator import CONVOLUTIONS

OPERATORS = ("matrix", "conv")


def sn(
    weight: LayerWeight,
    gamma: str = "none",
    operator: str = "matrix",
    input_size: int | tuple[int, ...] | None = None,
) -> SpectralNorm:
    """``W / σ_out``: spectral normalization (Miyato et al. 2018, eq. 8)."""
    return _spectral(weight, gamma, operator, input_size)


def ssn(
    weight: LayerWeight,
    scale: float = 1.4,
    gamma: str = "none",
    operator: str = "matrix",
    input_size: int | tuple[int, ...] | None = None,
) -> SpectralNorm:
    """``scale·W / σ_out``: scaled spectral normalization (Lin et al. 2021, section 5)."""
    return _spectral(weight, gamma, operator, input_size, scale)


def bsn(
    weight: LayerWeight,
    gamma: str = "none",
    operator: str = "matrix",
    input_size: int | tuple[int, ...] | None = None,
) -> SpectralNorm:
    """``W / ((σ_out + σ_in)/2)``: bidirectional spectral normalization (Lin et al. 2021, section 5)."""
    return _spectral(weight, gamma, operator, input_size, bidirectional=True)


def bssn(
    weight: LayerWeight,
    scale: float = 1.4,
    gamma: str = "none",
    operator: str = "matrix",
    input_size: int | tuple[int, ...] | None = None,
) -> SpectralNorm:
    """``scale·W / ((σ_out + σ_in)/2)``: bidirectional scaled spectral normalization (Lin et al. 2021, section 5)."""
    return _spectral(weight, gamma, operator, input_size, scale, bidirectional=True)


def _spectral(
    weight: LayerWeight,
    gamma: str,
    operator: str,
    input_size: int | tuple[int, ...] | None,
    scale: float = 1.0,
    bidirectional: bool = False,
) -> SpectralNorm:
    check_gamma(gamma)
    if operator not in OPERATORS:
        raise ValueError(f"operator is {operator!r}; allowed: {', '.join(map(repr, OPERATORS))}")
    if input_size is not None and operator != "conv":
        raise ValueError(f"input_size is {input_size} with operator {operator!r}; only operator 'conv' depends on it")
    layer, out_dim = weight.layer, weight.out_dim
    out, across = (Columns(), Rows()) if out_dim else (Rows(), Columns())
    directions: dict[str, Direction] = {"out": out}
    if operator == "conv" and isinstance(layer, CONVOLUTIONS):
        # A map and its adjoint have one norm: both directions of the true operator are the same.
        directions = {"out": Operator(layer, _spatial(layer, input_size))}
    # A bilinear weight has no input channels to turn to: its other dimensions are two inputs.
    elif bidirectional and weight.tensor.ndim > 2 and not isinstance(layer, nn.Bilinear):
        directions["in"] = across
    normalization = SpectralNorm(weight.tensor, directions, scale=scale)
    normalization.gamma = gamma
    return normalization


def note_input_size(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """A forward pre-hook of a convolution: tells its norm the spatial size of the input."""
    steps: Any = layer.get_submodule("parametrizations.weight")
    x = args[0] if args else kwargs.get("input")
    dimensions = steps.original.ndim - 2
    if not isinstance(x, Tensor) or x.ndim not in (dimensions + 1, dimensions + 2):
        return  # the layer itself will refuse it
    if x.shape[-dimensions - 1] != layer.in_channels:
        return
    for step in steps.children():
        if isinstance(step, SpectralNorm):
            step.note_input_size(tuple(x.shape[-dimensions:]), steps.original)


def _spatial(layer: nn.Module, size: int | tuple[int, ...] | None) -> tuple[int, ...] | None:
    if size is None:
        return None
    dimensions = layer.get_parameter("weight").ndim - 2
    sizes = (size,) * dimensions if isinstance(size, int) else size
    is_size = isinstance(sizes, Sequence) and len(sizes) == dimensions
    if not is_size or not all(isinstance(one, int) and one >= 1 for one in sizes):
        raise ValueError(
            f"input_size is {size!r}; {type(layer).__name__} needs an int, or {dimensions} of them, of at least 1"
        )
    return tuple(sizes)


def put_in_stacks(norms: Iterable[tuple[nn.Module, LayerWeight]]) -> None:
    """Have small weights normalized together, of the order they come in, as many as fill up to one small size."""
    stack, rows, columns = Stack(), 0, 0
    for norm, weight in norms:
        if not isinstance(norm, SpectralNorm) or not norm.can_stack or not weight.tensor.numel():
            continue
        shapes = [matrix_shape(direction, weight.tensor.shape) for direction in norm.directions.values()]
        own_rows, own_columns = max(rows for rows, _ in shapes), max(columns for _, columns in shapes)
        if own_rows * own_columns > SMALL:
            continue
        if max(rows, own_rows) * max(columns, own_columns) > SMALL:
            stack, rows, columns = Stack(), 0, 0
        rows, columns = max(rows, own_rows), max(columns, own_columns)
        norm.stack = stack
        stack.join(norm)
