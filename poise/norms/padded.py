"""Small weights of a device other than the CPU, normalized as one batch of matrices filled up with zeros to one size.

That changes no singular value but adds zeros, and takes a handful of calls however many weights there are.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from poise.norms.directions import Columns, Direction, Scalar, matrix_shape
from poise.norms.normalization import wide

if TYPE_CHECKING:
    from poise.norms.stack import Member


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

    def sigmas(self, members: list[Member], due: list[bool]) -> list[Scalar]:
        """The σ that each member's weight is divided by, after the rounds of power iteration that are due."""
        if any(due):
            self.iterate(members, due)
        return self.measure(members)

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
