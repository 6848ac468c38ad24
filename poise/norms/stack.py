"""Small weights normalized together: their cost is that of calling operators, not of arithmetic.

The rounds of power iteration that are due and σ are computed for all of them at once, as a batch of matrices filled up
with zeros to one size, which changes no singular value but adds zeros.
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

    def members(self, norm: SpectralNorm, weight: Tensor) -> list[Member]:
        """This member and others in training mode with weights of its type, on its device; none if it stands alone."""
        if norm.updates.root is not weight or wide(weight) is not weight:
            return []
        found = []
        for ref in self._norms:
            other = ref()
            root = other.updates.root if other is not None and other.training and other.has_begun else None
            if other is not None and root is not None and root.dtype == weight.dtype and root.device == weight.device:
                found.append((other, root))
        return found if len(found) > 1 and any(other is norm for other, _ in found) else []

    def renew(self, members: list[Member], norm: SpectralNorm) -> None:
        """Run the round of power iteration that is due for this member's weight, and those due for other members."""
        batch = self._batch_of(members)
        full_precision(batch.iterate, batch.matrices.device)(members, _due(members, norm))

    def divide(self, members: list[Member], norm: SpectralNorm, is_due: bool) -> None:
        """Find what this member's weight and all others that are up to date are divided by, for each's next forward.

        Rounds that are due are run before.
        """
        batch = self._batch_of(members)
        if is_due:
            full_precision(batch.iterate, batch.matrices.device)(members, _due(members, norm))
        sigmas = full_precision(batch.measure, batch.matrices.device)(members)
        for (other, root), sigma in zip(members, sigmas, strict=True):
            if other.updates.has_seen(root):
                other.made.division = Division(root, other.readings(), sigma, other.scale, other.eps)

    def _batch_of(self, members: list[Member]) -> Batch:
        key = [(id(norm), root.shape, root.dtype, root.device) for norm, root in members]
        if self._batch is None or self._batch.key != key:
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
        self.versions: list[int] = []
        self.u = self.v = like
        self.images: Tensor | None = None

    def fill(self, members: list[Member]) -> None:
        """Copy in the members' weights as they are now, and their vectors if others than those left here last."""
        sources = [root.detach() for norm, root in members for _ in norm.directions]
        torch._foreach_copy_(self.places, sources)
        self.images = None
        vectors = list(chain.from_iterable(norm.kept() for norm, _ in members))
        if self._have_changed(vectors):
            self.u = self.matrices.new_zeros(self.matrices.shape[:2])
            self.v = self.matrices.new_zeros(self.matrices.shape[::2])
            torch._foreach_copy_(_parts(self.u, self.rows), vectors[::2])
            torch._foreach_copy_(_parts(self.v, self.columns), vectors[1::2])
            self._remember(vectors)

    def _remember(self, vectors: list[Tensor]) -> None:
        self.vectors, self.versions = vectors, [vector._version for vector in vectors]

    def _have_changed(self, vectors: list[Tensor]) -> bool:
        """Whether vectors were replaced, or written to as broadcasts of buffers do, since they were left here."""
        if len(vectors) != len(self.vectors) or any(a is not b for a, b in zip(vectors, self.vectors, strict=True)):
            return True
        return self.versions != [vector._version for vector in vectors]

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
        self._remember(list(chain.from_iterable(norm.kept() for norm, _ in members)))

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
