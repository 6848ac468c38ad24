"""The leading singular values and vectors of weights that training keeps changing, followed one round at a time.

A weight moves little between two updates, so the vectors of the last round are nearly right for this one. A round is
orthogonal iteration with a Rayleigh–Ritz step (Stewart 1969; Golub and Van Loan, Matrix Computations, section 8.2.4),
power iteration for several vectors at once, which tells close and repeated singular values apart; or, in a tracker, a
few steps of block Lanczos, which are quicker to find what is new.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from poise import kernels
from poise.spectra.blocks import block_round
from poise.spectra.jacobi import small_svd
from poise.spectra.lanczos import golub_kahan
from poise.spectra.operator import matrix_map
from poise.spectra.reading import WHICH, has_matrix, read

FEW_BITS = 10  # of a number of columns: small weights of fewer than 2¹⁰ columns make one batch, whatever they are
LARGE = 2**18  # entries of a matrix from which a copy takes more time than it spares
SMALL = 32  # rows of a weight up to which it is filled up with zeros, to make one batch of others as small
DIRECT_ROWS = 2048  # up to here a tracker starts with an eigendecomposition of the Gram matrix


class Plan(NamedTuple):
    """How a weight of a shape is followed by kernels, from a basis."""

    shape: torch.Size
    basis: Tensor
    job: kernels.Following


class SpectrumTracker:
    """The k largest singular values of every layer's weight, in one cheap round a call.

    The first call finds them from nothing, for a fraction of the price of decomposing the weights; later ones improve
    on the vectors of the call before. While weights move by an optimizer's steps, values stay within 1e-3 of the true
    ones, and never above, but for rounding. After a jump, such as a checkpoint loaded, call ``reset``.

    Each layer with a weight of at least 2 dimensions is followed, and read anew on each call: a weight may be
    replaced or moved to another device. The module is left as it was. For the values of a single moment, or of a
    convolution as an operator on images, see ``singular_values``.

    Args:
        module: a layer or a network.
        k: how many values; a weight with fewer gives all it has.
        which: "effective", the weight that evaluation uses, or "original", the tensor that is trained, before
            parametrizations (the effective one, where they make it of several tensors).

    Raises:
        ValueError: k < 1, an unknown ``which``, or a module without such a layer.

    Example:
        >>> tracker = SpectrumTracker(discriminator)
        >>> for images in loader:
        ...     train_step(images)
        ...     sigmas = tracker()  # {"block1.conv1": tensor([1.02, 0.97, 0.95]), ...}
    """

    def __init__(self, module: nn.Module, k: int = 3, which: str = "effective") -> None:
        if k < 1:
            raise ValueError(f"k is {k}; follow at least 1 singular value")
        if which not in WHICH:
            raise ValueError(f"unknown weight {which!r}; known: {', '.join(WHICH)}")
        self.k, self.which = k, which
        self.layers = {name: layer for name, layer in module.named_modules() if has_matrix(layer)}
        if not self.layers:
            raise ValueError(f"{type(module).__name__} has no layer with a weight of 2 or more dimensions")
        self.bases: dict[str, Tensor] = {}
        self.batches: dict[object, tuple[Tensor, list[Tensor]]] = {}
        self._plans: dict[str, Plan] = {}

    def reset(self) -> None:
        """Forget the vectors: the next call starts from nothing."""
        self.bases.clear()
        self.batches.clear()
        self._plans.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "batches": {}, "_plans": {}}  # made again: parts of them are one memory, or an object

    def __call__(self) -> dict[str, Tensor]:
        """One round for each layer.

        Returns:
            For each layer's name, shape (min(k, number of them),), descending, on the weight's device, float32
            (float64 for a float64 weight). NaN for a weight with NaN or infinity, until it is finite again. The host
            waits for a CUDA device once a call, as whoever reads values does.
        """
        weights = {name: read(layer, self.which) for name, layer in self.layers.items()}
        small = self._small(weights) if kernels.is_built() else {}
        if len(small) == len(weights):
            return small
        others = self._others({name: weight for name, weight in weights.items() if name not in small})
        return {name: small[name] if name in small else others[name] for name in weights}

    def _small(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """One round for each small weight of a CPU, whose operators would take longer to call than what they do."""
        followed, bases, jobs = {}, [], []
        for name, weight in weights.items():
            if not kernels.address(weight) or not 0 < weight.numel() < LARGE:
                continue
            basis, plan = self.bases.get(name), self._plans.get(name)
            if plan is None or plan.basis is not basis or plan.shape != weight.shape:
                plan = self._plans[name] = self._plan(name, weight)
            followed[name] = weight
            bases.append(plan.basis)
            jobs.append(plan.job)
        return (
            dict(zip(followed, kernels.follow(list(followed.values()), bases, jobs), strict=True)) if followed else {}
        )

    @torch.no_grad()
    def _plan(self, name: str, weight: Tensor) -> Plan:
        """How a weight is followed from the basis that is known, if it fits, or from one found anew."""
        matrix = weight.detach().flatten(1)
        narrow = matrix if len(matrix) <= matrix.shape[1] else matrix.t()
        count, basis = min(self.k + _spare(len(narrow)), len(narrow)), self.bases.get(name)
        if basis is None or basis.shape != (count, len(narrow)) or not kernels.address(basis):
            with torch.inference_mode(False):
                basis = _leading(narrow.clone(), count).clone(memory_format=torch.contiguous_format)
        self.bases[name] = basis
        return Plan(weight.shape, basis, (*matrix.shape, count, _steps(narrow), min(self.k, count)))

    @torch.no_grad()
    def _others(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """One round for each of these weights, those that are alike together."""
        matrices = {name: _matrix(weight) for name, weight in weights.items()}
        values = dict.fromkeys(matrices, torch.empty(0))
        for names in _together(matrices):
            group = [matrices[name] for name in names]
            with torch.autocast(group[0].device.type, enabled=False):
                if len(group[0]) <= SMALL:
                    batch = self._batch(group)
                    stacks, steps = [batch[:, None]], _steps(batch[0])
                else:
                    stacks, steps = list(self._stacks(group)), _steps(group[0])
                found, bases = block_round(stacks, self._basis(names, stacks), steps)
            self.bases.update(zip(names, bases.unbind(), strict=True))
            for name, matrix, sigmas in zip(names, group, found[:, : self.k].unbind(), strict=True):
                values[name] = sigmas if len(sigmas) <= len(matrix) else sigmas[: len(matrix)]
        return values

    def _basis(self, names: list[str], stacks: list[Tensor]) -> Tensor:
        """The vectors to go on from, orthonormal, for each matrix in the stacks, shape (l, b, m)."""
        like, rows = stacks[0], stacks[0].shape[2]
        shape = (min(self.k + _spare(rows), rows), rows)
        known = [self.bases.get(name) for name in names]
        if any(basis is None or basis.shape != shape for basis in known):
            matrices = [parts.transpose(0, 1).flatten(1) for stack in stacks for parts in stack]
            known = [
                _leading(matrix, shape[0]) if basis is None or basis.shape != shape else basis
                for basis, matrix in zip(known, matrices, strict=True)
            ]
        return torch.stack([basis.to(like) for basis in known if basis is not None])

    def _stacks(self, matrices: list[Tensor]) -> Iterator[Tensor]:
        """Matrices (m, n), of one m, as stacks (l, p, m, n/p): alike ones that follow one another, or one in p parts.

        A product of a few vectors with one matrix keeps one of a CPU's threads busy, a batch of products all of them.
        So small matrices are copied into a batch, and the columns of a large one are seen as one.
        """
        threads = torch.get_num_threads() if matrices[0].device.type == "cpu" else 1
        for shape, alike in itertools.groupby(matrices, lambda matrix: matrix.shape):
            several = list(alike)
            first = several[0]
            if len(several) > 1 and first.numel() < LARGE:
                yield self._batch(several)[:, None]
                continue
            parts = next(count for count in range(threads, 0, -1) if shape[1] % count == 0)
            for matrix in several:
                yield matrix.unflatten(1, (parts, -1)).transpose(0, 1)[None]

    def _batch(self, matrices: list[Tensor]) -> Tensor:
        """Copies of matrices, of one type and device, in one tensor, filled up with zeros where they differ in size.

        That changes no singular value but adds zeros. The memory is kept, since fresh memory costs more than a copy.
        """
        shapes, first = tuple(matrix.shape for matrix in matrices), matrices[0]
        key = (shapes, first.dtype, first.device)
        if key not in self.batches:
            rows, columns = (max(shape[dim] for shape in shapes) for dim in (0, 1))
            with torch.inference_mode(False):  # or it could not be written to outside of that mode
                batch = torch.zeros(len(shapes), rows, columns, dtype=first.dtype, device=first.device)
                places = [whole[: shape[0], : shape[1]] for whole, shape in zip(batch.unbind(), shapes, strict=True)]
                self.batches[key] = batch, places
        batch, places = self.batches[key]
        torch._foreach_copy_(places, matrices)
        return batch


@torch.no_grad()
def subspace_round(matrix: Tensor, basis: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One round of orthogonal iteration: the singular triples that the space of ``basis WᵀW`` holds.

    Args:
        matrix: W, shape (m, n).
        basis: right vectors to start from, shape (b, n) with b ≤ min(m, n), of any length; not modified.

    Returns:
        left of shape (b, m), values of shape (b,), descending, and right of shape (b, n): ``left W = values · right``
        with orthonormal rows on both sides; float32, or float64 for a float64 matrix. Values are never above the true
        ones, but for rounding. ``right`` is the next round's basis: a zero matrix, whose values are 0, and one with
        NaN or infinity, whose values are NaN, keep the space of the basis for a matrix that can be measured. With b up
        to 12 the host does not wait for a CUDA device.

    Raises:
        ValueError: shapes that do not fit.
    """
    if matrix.ndim != 2 or basis.ndim != 2 or basis.shape[1] != matrix.shape[1] or len(basis) > min(matrix.shape):
        raise ValueError(
            f"matrix has shape {tuple(matrix.shape)} and basis {tuple(basis.shape)}; needed: (m, n) and (b, n) with "
            "b at most min(m, n)"
        )
    dtype = torch.promote_types(matrix.dtype, torch.float32)
    matrix, basis = matrix.to(dtype), basis.to(dtype)
    with torch.autocast(matrix.device.type, enabled=False):
        left = torch.linalg.qr((matrix @ basis.t()).nan_to_num(0, 0, 0)).Q.t()
        image = left @ matrix
        size = torch.linalg.vector_norm(image, math.inf)
        known = (size > 0) & (size < math.inf)
        right, core = torch.linalg.qr(torch.where(known, image, basis).t())
        from_right, values, from_left = small_svd(core)
        return from_left @ left, torch.where(known, values, size * 0), from_right.t() @ right.t()


def _steps(matrix: Tensor) -> int:
    """Lanczos steps a round: the more rows, and the wider, the closer the values lie; small weights need none."""
    rows, columns = matrix.shape
    wide = columns >= 12 * rows and rows < 256
    return (0 if matrix.numel() < LARGE else max(1, rows.bit_length() - 7)) + wide


def _matrix(weight: Tensor) -> Tensor:
    """A weight as a matrix of no more rows than columns, in float32 or float64."""
    matrix = weight.flatten(1)
    if matrix.dtype not in (torch.float32, torch.float64):
        matrix = matrix.float()
    return matrix if len(matrix) <= matrix.shape[1] else matrix.t()


def _together(matrices: dict[str, Tensor]) -> Iterable[list[str]]:
    """Names of matrices alike enough, on one device, to share all of a round's small operations."""
    found: dict[object, list[str]] = {}
    for name, matrix in sorted(matrices.items(), key=lambda item: item[1].shape):
        rows, columns = matrix.shape
        kind = (max(columns.bit_length(), FEW_BITS),) if rows <= SMALL else (rows, _steps(matrix))
        found.setdefault((kind, matrix.dtype, matrix.device), []).append(name)
    return found.values()


def _leading(matrix: Tensor, count: int) -> Tensor:
    """Leading left singular vectors, shape (count, m), well enough to start from."""
    size = matrix.abs().amax()
    if not 0 < size < math.inf:  # nothing to be known yet: any space will do
        noise = torch.randn(len(matrix), count, generator=torch.Generator().manual_seed(0)).to(matrix)
        return torch.linalg.qr(noise).Q.t()
    if len(matrix) > DIRECT_ROWS:
        return golub_kahan(matrix_map(matrix, dtype=matrix.dtype), count, tol=1e-3, by_value=True).left
    with torch.autocast(matrix.device.type, enabled=False):
        scaled = matrix / size
        return torch.linalg.eigh(scaled @ scaled.t()).eigenvectors.flip(1)[:, :count].t()


def _spare(rows: int) -> int:
    """Vectors followed beyond k: the next largest values, one of which may overtake."""
    return max(1, rows.bit_length() - 4)
