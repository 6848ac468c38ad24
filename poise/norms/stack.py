"""Small weights normalized together: their cost is that of calling operators, not of arithmetic.

The rounds of power iteration that are due and σ are computed for all of them at once, as a batch of matrices filled up
with zeros to one size, which changes no singular value but adds zeros. One node of the graph divides them all.
"""

from __future__ import annotations

import weakref
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from poise.norms.directions import Columns, Direction, Scalar
from poise.norms.division import Division
from poise.norms.normalization import full_precision, wide

if TYPE_CHECKING:
    from poise.norms.spectral import SpectralNorm

SMALL = 2**15
"""entries of a matrix, filled up, to which a copy costs less than calling operators for each alone"""

Member = tuple["SpectralNorm", Tensor]
"""a norm and its weight"""


class Stack:
    """Norms of small weights; they join as modules are copied, and leave when they are no more."""

    def __init__(self) -> None:
        self._norms: list[weakref.ref[SpectralNorm]] = []
        self._batch: Batch | None = None

    def join(self, norm: SpectralNorm) -> None:
        self._norms = [ref for ref in self._norms if ref() is not None]
        self._norms.append(weakref.ref(norm))

    def renew(self, norm: SpectralNorm, weight: Tensor) -> None:
        """Run the round of power iteration that is due for this member's weight, and those due for other members."""
        members = self._members(weight)
        full_precision(self._batch_of(members).iterate, weight.device)(members, _due(members, norm))

    def make(self, norm: SpectralNorm, weight: Tensor, is_due: bool) -> bool:
        """Normalize this member's weight and all others that are up to date; False if it has to be done alone.

        Each norm is handed its own, and holds it until it is asked for. Rounds that are due are run before.
        """
        members = self._members(weight)
        batch = self._batch_of(members)
        if is_due:
            full_precision(batch.iterate, weight.device)(members, _due(members, norm))
        ready = [root.requires_grad and norm.updates.has_seen(root) for norm, root in members]
        if sum(ready) < 2 or not any(root is weight for _, root in members):
            return False
        sigmas = full_precision(batch.measure, weight.device)(members)
        chosen = [
            (norm, Division(root, norm.readings(), sigma, norm.scale, norm.eps))
            for (norm, root), sigma, is_ready in zip(members, sigmas, ready, strict=True)
            if is_ready
        ]
        made = DivideAll.apply([division for _, division in chosen], *(division.weight for _, division in chosen))
        for (norm, division), one in zip(chosen, made, strict=True):
            norm.made.put(division.weight, one, hold=True)
        return True

    def _members(self, like: Tensor) -> list[Member]:
        """The members in training mode with weights of this type, on this device, in the order they joined."""
        found = []
        for ref in self._norms:
            norm = ref()
            root = norm.updates.root if norm is not None and norm.training and norm.has_begun else None
            if norm is not None and root is not None and root.dtype == like.dtype and root.device == like.device:
                found.append((norm, root))
        return found

    def _batch_of(self, members: list[Member]) -> Batch:
        key = [(id(norm), root.shape) for norm, root in members]
        if self._batch is None or self._batch.key != key or self._batch.matrices.device != members[0][1].device:
            self._batch = Batch(members)
            self._batch.key = key
        self._batch.fill(members)
        return self._batch

    def __deepcopy__(self, memo: dict[int, Any]) -> Stack:
        return Stack()  # the copies of its members join it

    def __reduce__(self) -> tuple[type[Stack], tuple[()]]:
        return Stack, ()


class Batch:
    """The matrices of several norms, one for each direction of each, in one tensor; it is written anew for each use."""

    key: object = None

    def __init__(self, members: list[Member]) -> None:
        readings = [(direction, root.shape) for norm, root in members for direction in norm.directions.values()]
        shapes = [matrix_shape(direction, shape) for direction, shape in readings]
        self.rows, self.columns = [rows for rows, _ in shapes], [columns for _, columns in shapes]
        like = wide(members[0][1].detach())
        self.matrices = like.new_zeros(len(shapes), max(self.rows), max(self.columns))
        self.places = [
            _as_weight(matrix[:rows, :columns], direction, shape)
            for matrix, (rows, columns), (direction, shape) in zip(self.matrices, shapes, readings, strict=True)
        ]
        self.vectors: list[Tensor] = []
        self.u = self.v = like
        self.images: Tensor | None = None

    def fill(self, members: list[Member]) -> None:
        """Copy in the members' weights as they are now, and their vectors if others than those left here last."""
        sources = [root.detach() for norm, root in members for _ in norm.directions]
        torch._foreach_copy_(self.places, sources)
        self.images = None
        vectors = list(chain.from_iterable(norm.kept() for norm, _ in members))
        if len(vectors) != len(self.vectors) or any(a is not b for a, b in zip(vectors, self.vectors, strict=True)):
            self.u = self.matrices.new_zeros(self.matrices.shape[:2])
            self.v = self.matrices.new_zeros(self.matrices.shape[::2])
            torch._foreach_copy_(_parts(self.u, self.rows), vectors[::2])
            torch._foreach_copy_(_parts(self.v, self.columns), vectors[1::2])
            self.vectors = vectors

    def iterate(self, members: list[Member], due: list[bool]) -> None:
        """As ``Direction.round``, for all members whose round is due."""
        eps = members[0][0].eps
        v = _unit(torch.bmm(self.u.unsqueeze(1), self.matrices).squeeze(1), self.v, eps)
        self.images = self._images(v)
        u = _unit(self.images, self.u, eps)
        if not all(due):
            self.images = None
            each = [is_due for (norm, _), is_due in zip(members, due, strict=True) for _ in norm.directions]
            mask = torch.tensor(each, device=u.device).unsqueeze(1)
            u, v = torch.where(mask, u, self.u), torch.where(mask, v, self.v)
        self.u, self.v = u, v
        pairs = zip(_parts(u, self.rows), _parts(v, self.columns), strict=True)
        for norm, _ in members:
            for name in norm.directions:
                norm.keep(name, *next(pairs))
        self.vectors = list(chain.from_iterable(norm.kept() for norm, _ in members))

    def measure(self, members: list[Member]) -> list[Scalar]:
        """The σ that each member's weight is divided by."""
        sigmas = torch.linalg.vecdot(self.u, self._images(self.v) if self.images is None else self.images)
        each: list[Scalar] = sigmas.tolist() if sigmas.is_cpu else list(sigmas.unbind())
        found, first = [], 0
        for norm, _ in members:
            count = len(norm.directions)
            found.append(sum(each[first : first + count]) / count)
            first += count
        return found

    def _images(self, v: Tensor) -> Tensor:
        """``Wv`` of every matrix; this way round it takes a ninth of the time of ``bmm(matrices, v)`` on a CPU."""
        return torch.bmm(v.unsqueeze(1), self.matrices.transpose(1, 2)).squeeze(1)


class DivideAll(torch.autograd.Function):
    """As ``Divide``, for several weights at once."""

    @staticmethod
    def forward(ctx: Any, divisions: list[Division], *weights: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG004
        ctx.set_materialize_grads(False)
        ctx.divisions = divisions
        return tuple(division.value() for division in divisions)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        pairs = zip(ctx.divisions, grads, strict=True)
        return None, *(None if grad is None else division.derivative(grad) for division, grad in pairs)


def _due(members: list[Member], norm: SpectralNorm) -> list[bool]:
    """Whose round is due: the norm's whose weight was just found to be new, and others' that have changed."""
    return [other is norm or other.updates.has_changed() for other, _ in members]


def matrix_shape(direction: Direction, shape: torch.Size) -> tuple[int, int]:
    """Rows and columns of a weight of this shape, read in this direction."""
    rows = shape[1] if isinstance(direction, Columns) else shape[0]
    return rows, shape.numel() // max(rows, 1)


def _as_weight(matrix: Tensor, direction: Direction, shape: torch.Size) -> Tensor:
    """A view of the matrix that is indexed as the weight is."""
    if isinstance(direction, Columns):
        return matrix.unflatten(1, (shape[0], *shape[2:])).transpose(0, 1)
    return matrix.unflatten(1, shape[1:])


def _parts(filled_up: Tensor, sizes: list[int]) -> list[Tensor]:
    """Each row's beginning, of the size given."""
    full = filled_up.shape[1]
    return [row if size == full else row[:size] for row, size in zip(filled_up.unbind(), sizes, strict=True)]


def _unit(x: Tensor, otherwise: Tensor, eps: float) -> Tensor:
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return torch.where(length > eps, x / length, otherwise)
