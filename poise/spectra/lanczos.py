"""Golub–Kahan–Lanczos bidiagonalization: the largest singular values of a map that can only be applied.

Golub and Kahan 1965, in blocks (Golub, Luk and Overton 1981), since one start vector finds a repeated singular value
only once, and convolutions have many. All vectors are kept orthogonal explicitly; when too many are held, the best
are kept and the rest dropped (thick restart, Baglama and Reichel 2005).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from poise.spectra.operator import LinearMap

BLOCKS_HELD = 12  # blocks of vectors held before a restart, which keeps half: bounds memory, costs few rounds
LEAST_HELD = 48  # vectors held at least, however narrow the blocks
SPARE = 1  # vectors in a block beyond k: speed is then decided by the gap to σ_(k+2)
GAP_SHARE, STEP_SHARE = 0.3, 0.03  # of the tolerance: for the estimate of a value's error, and for its last change


@dataclass(frozen=True)
class SingularTriples:
    """The k largest singular values with their vectors.

    Attributes:
        values: shape (k,), descending; never above the true ones, but for rounding.
        left: shape (k, *out_shape), orthonormal.
        right: shape (k, *in_shape), orthonormal; ``A right = values · left``.
        residuals: shape (k,), ``‖Aᵀ left − values · right‖``: a true singular value lies within this of each value.
        rounds: applications of the map and of its adjoint to a block.
        converged: whether every residual fell below the tolerance.
    """

    values: Tensor
    left: Tensor
    right: Tensor
    residuals: Tensor
    rounds: int
    converged: bool


@torch.no_grad()
def golub_kahan(
    linear_map: LinearMap,
    k: int,
    rounds: int = 300,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
    tol: float = 1e-6,
    by_value: bool = False,
    spare: int = SPARE,
) -> SingularTriples:
    """The k largest singular values and vectors of a linear map, repeated ones included.

    Args:
        linear_map: the map A, of shape (m, n) as a matrix.
        k: from 1 to min(m, n).
        rounds: at most this many; about min(m, n)/(k + 1) exhaust a small map, and the result is then exact.
        start: right vectors to begin with, shape (b, *in_shape); completed with random ones. Default: none.
        generator: on the CPU, for random vectors; default one seeded 0, so that results are reproducible.
        tol: stop when ``residual ≤ tol · σ`` for each of the k, unitless; the error of σ is then at most ``tol · σ``
            and, where the next singular value is not close, about the square of it.
        by_value: stop sooner, when the error of each σ itself is estimated to be below ``tol · σ``: by that square and
            by the last round's change. An estimate, no bound: a value slightly above, that rounds have yet to reveal,
            can escape it, though hardly ever by more than twice the tolerance.
        spare: vectors in a block beyond k. Without any, a value that is repeated more than k times costs no more.

    Raises:
        ValueError: k, rounds or spare out of range, a start of the wrong shape, or a map that gives NaN or infinity.

    Source: Golub and Kahan 1965; blocks and restarts as named at the top of this file.
    """
    rows, columns = linear_map.shape
    if not 1 <= k <= min(rows, columns):
        raise ValueError(f"k is {k}; a map of shape {linear_map.shape} has 1 to {min(rows, columns)} singular values")
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; bidiagonalization needs at least 1")
    if spare < 0:
        raise ValueError(f"spare is {spare}; a block cannot have fewer than k vectors")
    if start is not None and start.shape[1:] != linear_map.in_shape:
        raise ValueError(
            f"start has shape {tuple(start.shape)}; needed: (b, {', '.join(map(str, linear_map.in_shape))})"
        )
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    with torch.autocast(linear_map.device.type, enabled=False):
        return _iterate(linear_map, k, rounds, start, generator, tol, by_value, spare)


def _iterate(
    linear_map: LinearMap,
    k: int,
    rounds: int,
    start: Tensor | None,
    generator: torch.Generator,
    tol: float,
    by_value: bool,
    spare: int,
) -> SingularTriples:
    rows, columns = linear_map.shape
    empty = torch.empty(0, dtype=linear_map.dtype, device=linear_map.device)
    width = max(k + spare, 0 if start is None else len(start))
    held = max(BLOCKS_HELD * width, min(LEAST_HELD, BLOCKS_HELD * BLOCKS_HELD))
    block = empty.new_zeros(width, columns)  # zeros are replaced by random directions
    if start is not None:
        block[: len(start)] = start.flatten(1)
    left, right, core = _Rows(held, rows, empty), _Rows(held, columns, empty), empty.new_empty(0, 0)

    # Rows of ``left`` and ``right`` are orthonormal. At all times A rightᵀ = leftᵀ core, and Aᵀ maps ``left``, except
    # for its newest rows, into the span of ``right``, so that the newest alone decide the residual.
    done, converged, last = 0, False, empty.new_zeros(k)
    while done < rounds and not converged:
        done += 1
        if len(right.rows) + width > held:
            best_left, values, best_right = _best(left.rows, core, right.rows, held // 2)
            left.replace(best_left)
            right.replace(best_right)
            core = torch.diag(values)
        new = _extend(right.rows, block, generator)
        right.add(new)
        image = linear_map.matvec(new.view(-1, *linear_map.in_shape)).flatten(1)
        if not image.isfinite().all():
            raise ValueError("the map gives NaN or infinity; it has no singular values")
        newest = _extend(left.rows, image, generator)
        left.add(newest)
        core = torch.cat([core, core.new_zeros(len(newest), core.shape[1])])
        core = torch.cat([core, left.rows @ image.t()], dim=1)

        back = linear_map.rmatvec(newest.view(-1, *linear_map.out_shape)).flatten(1)
        block = back - (back @ right.rows.t()) @ right.rows
        rotation, values, _ = torch.linalg.svd(core, full_matrices=False)
        residuals = (rotation[len(left.rows) - len(newest) :, :k].t() @ block).norm(dim=1)
        rounding = 100 * torch.finfo(core.dtype).eps * values[0]  # a zero singular value has no relative accuracy
        enough = residuals <= (tol * values[:k]).clamp_min(rounding)
        if by_value:
            # The k are told apart by Rayleigh and Ritz, and values within the tolerance may stand for one another:
            # the gap that counts is to those beyond.
            others = values[k:] if len(values) > k else values.new_zeros(1)
            beyond = torch.where(others < (1 - tol / 2) * values[:k, None], others, 0).amax(1)
            gaps = values[:k].square() - beyond.square()
            steady = values[:k] - last <= STEP_SHARE * tol * values[:k]
            enough |= steady & (residuals.square() <= GAP_SHARE * tol * 2 * gaps)
            last = values[:k]
        converged = len(right.rows) == columns or bool(enough.all())
    best_left, values, best_right = _best(left.rows, core, right.rows, k)
    best_left, best_right = best_left.view(-1, *linear_map.out_shape), best_right.view(-1, *linear_map.in_shape)
    return SingularTriples(values, best_left, best_right, residuals, done, converged)


class _Rows:
    """Rows that grow in number in one place: to move them to a longer tensor each round costs more than the rest."""

    def __init__(self, most: int, length: int, like: Tensor) -> None:
        self.buffer = like.new_empty(min(most, length), length)
        self.rows = self.buffer[:0]

    def add(self, rows: Tensor) -> None:
        count = len(self.rows)
        self.buffer[count : count + len(rows)] = rows
        self.rows = self.buffer[: count + len(rows)]

    def replace(self, rows: Tensor) -> None:
        self.rows = self.buffer[:0]
        self.add(rows)


def _best(left: Tensor, core: Tensor, right: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The leading ``count`` left Ritz vectors, values and right Ritz vectors of the map that ``core`` projects."""
    from_left, values, from_right = torch.linalg.svd(core, full_matrices=False)
    return from_left[:, :count].t() @ left, values[:count].clone(), from_right[:count] @ right


def _extend(basis: Tensor, block: Tensor, generator: torch.Generator) -> Tensor:
    """As many orthonormal rows as ``block`` has, orthogonal to ``basis``, that span with it all that ``block`` does.

    Random directions stand in where the block has none to add; fewer rows come back when the space is full.
    """
    dimension = basis.shape[1]
    room = min(len(block), dimension - len(basis))
    found = _directions(basis, block)[:room]
    while len(found) < room:
        noise = torch.randn(room - len(found), dimension, dtype=basis.dtype, generator=generator).to(basis.device)
        found = torch.cat([found, _directions(torch.cat([basis, found]), noise)])
    return found


def _directions(basis: Tensor, block: Tensor) -> Tensor:
    """Orthonormal rows for the part of ``block`` outside ``basis``, longest first; none where it is rounding.

    Two passes of Gram and Schmidt's process: a direction that the second one shortens was in the basis. A single row
    that the first one hardly shortens needs no second (Daniel, Gragg, Kaufman and Stewart 1976).
    """
    least = 100 * torch.finfo(block.dtype).eps * torch.linalg.matrix_norm(block)
    for _ in range(2):
        before, block = block, block - (block @ basis.t()) @ basis
        if len(block) == 1:
            lengths = block.norm(dim=1)
            shortened = bool(lengths < 0.5 * before.norm())
            block = (block / lengths)[lengths > least]
        else:
            q, r = torch.linalg.qr(block.t())
            rotation, lengths, _ = torch.linalg.svd(r, full_matrices=False)
            block, shortened = (q @ rotation[:, lengths > least]).t(), True
        if not len(block) or not shortened:
            break
        least = torch.full_like(least, 0.5)
    return block
