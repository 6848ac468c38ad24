"""Small weights normalized together: their cost is that of calling operators, not of arithmetic.

On a CPU each product with a vector is one cheap call of its own, and what is done to the vectors is done to all of them
in one. On other devices products are batched as well.
"""

from __future__ import annotations

import math
import weakref
from itertools import compress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from poise import kernels
from poise.norms.directions import Columns, Scalar
from poise.norms.division import Division, divide
from poise.norms.normalization import as_type, full_precision
from poise.norms.padded import Batch

if TYPE_CHECKING:
    from poise.norms.spectral import SpectralNorm

SMALL = 2**18
"""entries of a matrix, filled up, to which calling operators for each alone costs more than what they do"""
ONE_BY_ONE = ("cpu",)
"""devices where a product is begun and done in less time than a copy of the matrix takes"""

LEAST, MOST = 1e-8, 1e8
"""lengths whose squares' squares are ordinary numbers of float32"""

Member = tuple["SpectralNorm", Tensor]
"""a norm and its weight"""
Measured = tuple[Scalar, Tensor | None]
"""what a weight is divided by, and perhaps the weight divided by it"""


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
        if norm.updates.root is not weight or weight.dtype not in (torch.float32, torch.float64):
            return []
        dtype, device, found = weight.dtype, weight.device, []
        for ref in self._norms:
            other = ref()
            if other is None or not other.training or not other.has_begun:
                continue
            root = other.updates.root
            if root is not None and root.dtype == dtype and root.device == device:
                found.append((other, root))
        return found if len(found) > 1 and any(other is norm for other, _ in found) else []

    def renew(self, members: list[Member], norm: SpectralNorm) -> None:
        """Run the round of power iteration that is due for this member's weight, and those due for other members."""
        self._measured(members, _due(members, norm))

    def divide(self, members: list[Member], norm: SpectralNorm, is_due: bool) -> Tensor:
        """This member's weight, divided; all others that are up to date are divided too, each for its next forward.

        Rounds that are due are run before.
        """
        due = _due(members, norm) if is_due else [False] * len(members)
        if members[0][1].device.type in ONE_BY_ONE:  # those already divided need no other division
            needed = [is_due or not other.made.awaits(root) for (other, root), is_due in zip(members, due, strict=True)]
            members, due = list(compress(members, needed)), list(compress(due, needed))
        own: Tensor | None = None
        together: list[SpectralNorm] = []
        divisions: list[Division] = []
        found = self._measured(members, due, is_divided=True)
        for (other, root), (sigma, quotient) in zip(members, found, strict=True):
            if other is norm and not _may_go_without_gradient(root):
                (own,) = divide([other.division(root, sigma, quotient)])
                other.made.put(root, own)
            elif other is norm or (other.updates.has_seen(root) and _may_go_without_gradient(root)):
                together.append(other)
                divisions.append(other.division(root, sigma, quotient))
        for other, division, made in zip(together, divisions, divide(divisions) if divisions else (), strict=True):
            other.made.put(division.weight, made, is_asked_for=other is norm)
            own = made if other is norm else own
        assert own is not None
        return own

    def _measured(self, members: list[Member], due: list[bool], is_divided: bool = False) -> list[Measured]:
        """What each member's weight is divided by, after the rounds of power iteration that are due.

        Args:
            is_divided: whether weights are to be divided next, which may be done while they are looked at anyway.
        """
        device = members[0][1].device
        if device.type in ONE_BY_ONE:
            return full_precision(_one_by_one, device)(members, due, is_divided)
        key = [(id(norm), root.shape, root.dtype, root.device) for norm, root in members]
        if self._batch is None or self._batch.key != key:
            self._batch = Batch(members)
            self._batch.key = key
        self._batch.fill(members)
        return [(sigma, None) for sigma in full_precision(self._batch.sigmas, device)(members, due)]

    def __deepcopy__(self, memo: dict[int, Any]) -> Stack:
        return Stack()  # the copies of its members join it

    def __reduce__(self) -> tuple[type[Stack], tuple[()]]:
        return Stack, ()


def _may_go_without_gradient(weight: Tensor) -> bool:
    """Whether the backward pass of a loss may come by this weight without a gradient for it."""
    hooks = weight._backward_hooks or weight._post_accumulate_grad_hooks
    return weight.requires_grad and weight.is_leaf and not hooks


def _due(members: list[Member], norm: SpectralNorm) -> list[bool]:
    """Whose round is due: the norm's whose weight was just found to be new, and others' that have changed."""
    return [other is norm or other.updates.has_changed() for other, _ in members]


def _one_by_one(members: list[Member], due: list[bool], is_divided: bool) -> list[Measured]:
    """The σ of each member on a CPU, after the rounds that are due: those are run for all together."""
    if all(due):
        return _iterate(members, is_divided)
    iterated = iter(_iterate([member for member, is_due in zip(members, due, strict=True) if is_due], is_divided))
    return [
        next(iterated) if is_due else (norm.measured(root.detach()), None)
        for (norm, root), is_due in zip(members, due, strict=True)
    ]


def _iterate(members: list[Member], is_divided: bool) -> list[Measured]:
    """As ``SpectralNorm.iterate`` for several. Zero weights and those out of range are left to ``Direction.round``."""
    if not members:
        return []
    jobs = []
    for norm, root in members:
        us: list[Tensor | None] = [None, None]
        for direction, u, _ in norm.readings():
            us[isinstance(direction, Columns)] = u
        jobs.append((root, us[0], us[1], norm.scale, norm.eps))
    found = kernels.power_rounds(jobs, is_divided) or _by_operators(members)
    measured: list[Measured] = []
    for (norm, root), (by_rows, by_columns, quotient) in zip(members, found, strict=True):
        total: Scalar = 0.0
        for (direction, u_before, v_before), name in zip(norm.readings(), norm.directions, strict=True):
            made = by_columns if isinstance(direction, Columns) else by_rows
            assert made is not None
            u, v, sigma = made
            own: Scalar = sigma
            if math.isnan(sigma):
                dtype = root.dtype
                u, v, own = direction.round(root.detach(), as_type(u_before, dtype), as_type(v_before, dtype), norm.eps)
            norm.keep(name, u, v)
            total = total + own
        measured.append((total / len(norm.directions), quotient))
    return measured


def _by_operators(members: list[Member]) -> list[tuple[kernels.Round | None, kernels.Round | None, None]]:
    """A round for each member, as ``kernels.power_rounds`` gives it, by torch's operators."""
    readings = [(root.detach(), *reading) for norm, root in members for reading in norm.readings()]
    # In rows of one length, filled up with zeros, so that all are measured by one call and divided by another.
    rows, columns = [len(u) for *_, u, _ in readings], [len(v) for *_, v in readings]
    count, longest = len(readings), max(rows + columns)
    images = readings[0][0].new_zeros(2 * count, longest)
    sizes = [size for length in columns + rows for size in (length, longest - length)]
    parts = torch.unsafe_split_with_sizes(images.view(-1), sizes)[::2]
    vs, us = parts[:count], parts[count:]
    for (weight, direction, u_before, _), v, u in zip(readings, vs, us, strict=True):
        direction.images_(weight, as_type(u_before, weight.dtype), v, u)
    measured = torch.linalg.vector_norm(images, dim=1)
    images /= measured.unsqueeze(1)
    lengths = measured.tolist()
    made = zip(us, vs, lengths[count:], lengths[:count], strict=True)
    found = []
    for norm, _ in members:
        own: list[kernels.Round | None] = [None, None]
        for direction in norm.directions.values():
            u, v, of_u, of_v = next(made)
            own[isinstance(direction, Columns)] = u, v, of_u / of_v if LEAST < of_v < MOST else math.nan
        found.append((own[0], own[1], None))
    return found
