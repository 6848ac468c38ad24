"""The ways a weight is read as a linear map, each with one round of power iteration, its σ, and σ's derivative.

A weight of shape (c_out, c_in, k…) is a matrix of c_out rows (σ_out of Lin et al. 2021) or of c_in rows (σ_in), or it
is the convolution itself, from images to images. ``σ = uᵀWv`` is linear in the weight once u and v are held constant
(Miyato et al. 2018, eq. 11), so its derivative is a constant: u vᵀ for a matrix.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poise.spectra.lanczos import golub_kahan
from poise.spectra.operator import CONVOLUTIONS, LinearMap, conv_map
from poise.spectra.power import as_matrix

Scalar = float | Tensor
"""A number: a float for weights on the CPU, where reading it is free, a 0-dimensional tensor elsewhere"""

SMALL = 2**15
"""entries up to which a weight is copied into another order; torch's copies of more take to several threads, in whose
caches the parts are then spread"""
SMALL_SUM = 2**18
"""entries up to which a derivative in another order is added entry by entry, rather than as a product of matrices"""


class Product(Protocol):
    """A matrix times a vector, in new memory or in that of ``out``, which is then not differentiable."""

    def __call__(self, vector: Tensor, *, out: Tensor | None = None) -> Tensor: ...


def scalar(x: Tensor) -> Scalar:
    """``x`` as a float where that waits for no device."""
    return x.item() if type(x) is Tensor and x.is_cpu else x


def unit(x: Tensor, otherwise: Tensor | None, eps: float) -> Tensor:
    """``x`` divided by its length; ``otherwise``, by default zero, where that is not above ``eps``."""
    length = scalar(torch.linalg.vector_norm(x))
    if not isinstance(length, Tensor) and length > eps:
        return x / length
    if otherwise is None:
        otherwise = torch.zeros_like(x)
    return torch.where(length > eps, x / length, otherwise) if isinstance(length, Tensor) else otherwise


class Direction(ABC):
    """A reading of the weight as a map with singular vectors u (after) and v (before), both kept as flat tensors."""

    @abstractmethod
    def products(self, weight: Tensor) -> tuple[Product, Product]:
        """The functions ``u ↦ Wᵀu`` and ``v ↦ Wv``; both give new tensors, differentiable in the weight."""

    @abstractmethod
    def add_derivative_(self, total: Tensor, u: Tensor, v: Tensor, factor: Scalar) -> None:
        """``total ← total + factor · ∂(uᵀWv)/∂W``, in place; ``total`` is laid out as by ``dense``."""

    @abstractmethod
    def start(self, weight: Tensor) -> Tensor:
        """A random u of unit length."""

    def combined(self, x: Tensor, u: Tensor, v: Tensor, of_x: Scalar, of_derivative: Scalar) -> Tensor:
        """``of_x · x + of_derivative · ∂(uᵀWv)/∂W``, a new tensor; ``x`` is of the weight's shape."""
        total = dense(x) * of_x
        self.add_derivative_(total, u, v, of_derivative)
        return total

    def images_(self, weight: Tensor, u: Tensor, v_out: Tensor, u_out: Tensor) -> None:
        """``v_out ← Wᵀu`` and ``u_out ← W v_out``, not differentiable."""
        into, out_of = self.products(weight)
        out_of(into(u, out=v_out), out=u_out)

    def round(self, weight: Tensor, u: Tensor, v: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Scalar]:
        """One round of power iteration from u (SN paper, algorithm 1): new u and v, and ``σ = uᵀWv``.

        A zero weight keeps both: the next, nonzero weight could not be measured by zero vectors. One with NaN keeps
        them too, so that it can be mended.
        """
        into, out_of = self.products(weight)
        v = unit(into(u), v, eps)
        image = out_of(v)
        u = unit(image, u, eps)
        return u, v, scalar(torch.dot(u, image))

    def sigma(self, weight: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """``uᵀWv``: a scalar, differentiable in the weight with u and v held constant."""
        _, out_of = self.products(weight)
        return torch.dot(u, out_of(v))


class Rows(Direction):
    """The weight as a matrix whose rows are counted along its first dimension, all others in order its columns."""

    def products(self, weight: Tensor) -> tuple[Product, Product]:
        if not _is_channels_last(weight):
            return _products(weight if weight.ndim == 2 else weight.flatten(1))
        matrix, shape = weight.permute(0, 2, 3, 1).flatten(1), weight.shape[1:]
        return (
            _written(lambda u: matrix.t().mv(u).view(*shape[1:], shape[0]).permute(2, 0, 1).flatten()),
            _written(lambda v: matrix.mv(v.view(shape).permute(1, 2, 0).flatten())),
        )

    def add_derivative_(self, total: Tensor, u: Tensor, v: Tensor, factor: Scalar) -> None:
        if _is_channels_last(total):
            v = v.view(total.shape[1:]).permute(1, 2, 0).flatten()
            total = total.permute(0, 2, 3, 1)
        total.view(len(u), -1).addr_(u * factor, v)

    def combined(self, x: Tensor, u: Tensor, v: Tensor, of_x: Scalar, of_derivative: Scalar) -> Tensor:
        if isinstance(of_x, Tensor) or isinstance(of_derivative, Tensor) or not x.is_contiguous():
            return super().combined(x, u, v, of_x, of_derivative)
        # One pass over memory instead of two.
        return torch.addr(x.flatten(1), u, v, beta=of_x, alpha=of_derivative).view(x.shape)

    def start(self, weight: Tensor) -> Tensor:
        return F.normalize(weight.new_empty(weight.shape[0]).normal_(), dim=0)

    def images_(self, weight: Tensor, u: Tensor, v_out: Tensor, u_out: Tensor) -> None:
        if not weight.is_contiguous():
            super().images_(weight, u, v_out, u_out)
            return
        matrix = weight if weight.ndim == 2 else weight.flatten(1)
        torch.mv(matrix.t(), u, out=v_out)
        torch.mv(matrix, v_out, out=u_out)


class Columns(Direction):
    """The weight as a matrix whose rows are counted along its second dimension, all others in order its columns.

    A large weight is not copied into that order. Its products are those of many matrices, one for each of the first
    dimension, as high as the second and a kernel's entries wide.
    """

    def products(self, weight: Tensor) -> tuple[Product, Product]:
        if _is_channels_last(weight):
            matrix = weight.permute(0, 2, 3, 1).flatten(0, 2)
            return partial(torch.mv, matrix), partial(torch.mv, matrix.t())
        if weight.numel() <= SMALL or _kernel(weight) < 3:
            return _products(as_matrix(weight, 1))
        maps = weight.flatten(2)
        count, rows, entries = maps.shape
        return (
            _written(lambda u: torch.bmm(u.view(1, 1, rows).expand(count, 1, rows), maps).flatten()),
            _written(lambda v: torch.bmm(v.view(count, 1, entries), maps.mT).sum((0, 1))),
        )

    def add_derivative_(self, total: Tensor, u: Tensor, v: Tensor, factor: Scalar) -> None:
        scaled = u * factor
        if _is_channels_last(total):
            total.permute(0, 2, 3, 1).view(-1, len(u)).addr_(v, scaled)
        elif total.numel() <= SMALL_SUM:
            total.view(len(total), len(u), -1).addcmul_(v.view(len(total), 1, -1), scaled.view(1, -1, 1))
        else:
            spread = scaled.view(-1, 1, 1) * torch.eye(_kernel(total), dtype=u.dtype, device=u.device)
            total.view(len(total), -1).addmm_(v.view(len(total), -1), spread.flatten(0, 1).t())

    def start(self, weight: Tensor) -> Tensor:
        return F.normalize(weight.new_empty(weight.shape[1]).normal_(), dim=0)


class Operator(Direction):
    """The convolution itself, from images of a given size to images: its σ is the layer's true operator norm.

    A grouped convolution is one map beside another, and its norm that of the largest. Power iteration follows each on
    its own, in u; v has the leading one's alone, so that ``uᵀWv`` is its σ.

    Args:
        layer: any convolution; only its shape, stride and the like are kept.
        input_size: spatial size of its input, pixels; None if it is not known yet.
    """

    def __init__(self, layer: nn.Module, input_size: tuple[int, ...] | None = None) -> None:
        assert isinstance(layer, CONVOLUTIONS)
        self.input_size = input_size
        self.groups = layer.groups
        self._layer = _like(layer)

    def map(self, weight: Tensor) -> LinearMap:
        """The convolution with this weight.

        Raises:
            ValueError: its input size is not known, or too small.
        """
        if self.input_size is None:
            raise ValueError(
                "the operator norm of a convolution depends on its input size, which is not known yet: run one batch "
                "through the module, or give input_size=(height, width) to poise.normalize"
            )
        return conv_map(self._layer, self.input_size, weight=weight)

    def products(self, weight: Tensor) -> tuple[Product, Product]:
        linear_map = self.map(weight)
        return (
            _written(lambda u: linear_map.rmatvec(u.view(1, *linear_map.out_shape)).flatten()),
            _written(lambda v: linear_map.matvec(v.view(1, *linear_map.in_shape)).flatten()),
        )

    def round(self, weight: Tensor, u: Tensor, v: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Scalar]:
        groups = self.groups
        if groups == 1:
            return super().round(weight, u, v, eps)
        into, out_of = self.products(weight)
        ahead = into(u).view(groups, -1)
        ahead = ahead / torch.linalg.vector_norm(ahead, dim=1, keepdim=True).clamp_min(eps)
        image = out_of(ahead.flatten()).view(groups, -1)
        lengths = torch.linalg.vector_norm(image, dim=1, keepdim=True)
        u = torch.where(lengths > eps, image / lengths, u.view(groups, -1)).flatten()
        leads = torch.arange(groups, device=u.device).unsqueeze(1) == lengths.argmax()
        leading = torch.where(leads, ahead, 0).flatten()
        v = leading if v is None else torch.where(lengths.max() > eps, leading, v)
        return u, v, scalar(torch.dot(u, out_of(v)))

    def add_derivative_(self, total: Tensor, u: Tensor, v: Tensor, factor: Scalar) -> None:
        with torch.enable_grad():
            anywhere = torch.zeros_like(total, requires_grad=True)
            (derivative,) = torch.autograd.grad(self.sigma(anywhere, u, v), anywhere)
        total.add_(derivative * factor)

    def start(self, weight: Tensor) -> Tensor:
        linear_map = self.map(weight)
        u = F.normalize(weight.new_empty(self.groups, math.prod(linear_map.out_shape) // self.groups).normal_(), dim=1)
        if not weight.is_meta and weight.isfinite().all():  # powers are slow to converge on a convolution
            leading = golub_kahan(linear_map, 1, rounds=100, tol=1e-5).left.view(self.groups, -1)
            lengths = torch.linalg.vector_norm(leading, dim=1, keepdim=True)
            u = torch.where(lengths > 1e-3, leading / lengths, u)
        return u.flatten()


def matrix_shape(direction: Direction, shape: torch.Size) -> tuple[int, int]:
    """Rows and columns of a weight of this shape, read in this direction."""
    rows = shape[1] if isinstance(direction, Columns) else shape[0]
    return rows, shape.numel() // max(rows, 1)


def _products(matrix: Tensor) -> tuple[Product, Product]:
    return partial(torch.mv, matrix.t()), partial(torch.mv, matrix)


def _written(product: Callable[[Tensor], Tensor]) -> Product:
    """The product with the choice of writing it to memory that is there."""

    def written(vector: Tensor, *, out: Tensor | None = None) -> Tensor:
        return product(vector) if out is None else out.copy_(product(vector))

    return written


def _kernel(weight: Tensor) -> int:
    return math.prod(weight.shape[2:])


def _is_channels_last(weight: Tensor) -> bool:
    """Whether a weight lies in memory as (c_out, height, width, c_in), and not as it is indexed."""
    return weight.ndim == 4 and not weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last)


def dense(x: Tensor) -> Tensor:
    """``x``, or a copy of it, in one of the two layouts that need no further copy: contiguous or channels-last."""
    return x if x.is_contiguous() or _is_channels_last(x) else x.contiguous()


def _like(layer: nn.Module) -> nn.Module:
    """A layer of the same shape, stride and the like, without memory of its own."""
    kind: Any = next(kind for kind in CONVOLUTIONS if isinstance(layer, kind))
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    options = {name: getattr(layer, name) for name in names}
    if layer.transposed:
        options["output_padding"] = layer.output_padding
    return kind(**options, bias=False, device="meta")
