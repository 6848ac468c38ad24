"""The leading singular values and vectors of weights that training keeps changing, followed one round at a time.

Orthogonal iteration with a Rayleigh–Ritz step (Stewart 1969; Golub and Van Loan, Matrix Computations, section 8.2.4):
power iteration for several vectors at once, which tells close and repeated singular values apart. A weight moves
little between two updates, so the vectors of the last round are nearly right for this one.

Nothing here waits for a CUDA device, except where a tracker meets a weight for the first time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from poise.spectra.jacobi import small_svd
from poise.spectra.lanczos import golub_kahan
from poise.spectra.operator import TRANSPOSED, effective_weight, matrix_map, widest
from poise.spectra.power import as_matrix

WHICH = ("effective", "original")
SPARE = 3  # vectors followed beyond k: the next largest values, one of which may overtake
STACKED = 2**18  # entries of a matrix up to which several of one shape are stacked on a CPU, where a copy costs time
DIRECT_ROWS = 2048  # up to here a tracker starts with an eigendecomposition of the Gram matrix


class SpectrumTracker:
    """The k largest singular values of every layer's weight, in one cheap round a call.

    The first call finds them from nothing, at about a tenth of the price of decomposing each weight; later ones
    improve on the vectors of the call before. While the weight moves by an optimizer's steps, values stay within 1e-3
    of the true ones, and never above, but for rounding. After a jump, such as a checkpoint loaded, call ``reset``.

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
        self.layers = {name: layer for name, layer in module.named_modules() if _has_matrix(layer)}
        if not self.layers:
            raise ValueError(f"{type(module).__name__} has no layer with a weight of 2 or more dimensions")
        self.bases: dict[str, Tensor] = {}

    def reset(self) -> None:
        """Forget the vectors: the next call starts from nothing."""
        self.bases.clear()

    @torch.no_grad()
    def __call__(self) -> dict[str, Tensor]:
        """One round for each layer.

        Returns:
            For each layer's name, shape (min(k, number of them),), descending, on the weight's device, float32
            (float64 for a float64 weight). NaN for a weight with NaN or infinity, until it is finite again.
        """
        matrices = {name: _matrix(layer, self.which) for name, layer in self.layers.items()}
        for name, matrix in matrices.items():
            self._prepare(name, matrix)
        values = dict.fromkeys(matrices, torch.empty(0))
        for names in _stacks(matrices):
            with torch.autocast(matrices[names[0]].device.type, enabled=False):
                if len(names) == 1:
                    results = [_followed(matrices[names[0]], self.bases[names[0]])]
                else:
                    stacks = (torch.stack([source[name] for name in names]) for source in (matrices, self.bases))
                    results = list(zip(*_followed(*stacks), strict=True))
            for name, (sigmas, basis) in zip(names, results, strict=True):
                values[name], self.bases[name] = sigmas[: self.k], basis
        return values

    def _prepare(self, name: str, matrix: Tensor) -> None:
        basis, count = self.bases.get(name), min(self.k + SPARE, len(matrix))
        if basis is None or basis.shape != (count, len(matrix)):
            self.bases[name] = _leading(matrix, count)
        elif basis.dtype != matrix.dtype or basis.device != matrix.device:
            self.bases[name] = basis.to(matrix)


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
        NaN or infinity, whose values are NaN, keep the space of the basis for a matrix that can be measured.

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


def _followed(matrix: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """A tracker's round: values, and the next basis, of matrices (..., m, n), m ≤ n, and orthonormal left (..., b, m).

    As ``subspace_round`` for ``WWᵀ``, whose values are squares: all that is decomposed is in the smaller dimension.
    """
    back = (basis @ matrix) @ matrix.mT
    size = torch.linalg.vector_norm(back, math.inf, (-2, -1), keepdim=True)
    unknown = size * 0  # or NaN, where there is NaN or infinity
    known = unknown < size
    left, core = torch.linalg.qr(back.where(known, basis).mT)
    # Of graded columns: in the widest type, a small value keeps its digits beside a large one.
    turn, squares, _ = small_svd(core.to(widest(core.device)))
    values = squares.sqrt().where(known[..., 0], unknown[..., 0])
    return values.to(matrix.dtype), (left @ turn.to(left.dtype)).mT


def _has_matrix(layer: nn.Module) -> bool:
    known = layer._parameters.get("weight")
    if known is None and not parametrize.is_parametrized(layer, "weight") and "weight_orig" not in layer._parameters:
        return False
    if nn.parameter.is_lazy(known):
        raise ValueError(f"{layer} has no weight yet; run one batch through the module, then follow its spectra")
    weight = effective_weight(layer) if known is None else known
    return weight.ndim >= 2 and weight.numel() > 0 and weight.is_floating_point()


def _matrix(layer: nn.Module, which: str) -> Tensor:
    """The layer's weight as a matrix of no more rows than columns, in float32 or float64."""
    weight = layer._parameters.get("weight")
    if weight is None and which == "original":
        weight = _original(layer)
    if weight is None:
        weight = effective_weight(layer)
    weight = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    matrix = as_matrix(weight, 1 if isinstance(layer, TRANSPOSED) else 0)
    return matrix if len(matrix) <= matrix.shape[1] else matrix.t()


def _original(layer: nn.Module) -> Tensor | None:
    """The trained tensor behind a weight, if it is one tensor."""
    if parametrize.is_parametrized(layer, "weight"):
        parametrizations: Any = layer.parametrizations
        return getattr(parametrizations.weight, "original", None)
    return layer._parameters.get("weight_orig")


def _stacks(matrices: dict[str, Tensor]) -> Iterator[list[str]]:
    """Names of matrices to take together: of one shape, type and device, where a stack is quicker than each alone."""
    alike: dict[object, list[str]] = {}
    for name, matrix in matrices.items():
        alone = matrix.device.type == "cpu" and matrix.numel() > STACKED
        alike.setdefault(name if alone else (matrix.shape, matrix.dtype, matrix.device), []).append(name)
    yield from alike.values()


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
