"""Weights with orthonormal rows or columns: every singular value is 1.

PyTorch's orthogonal parametrization (Lezcano-Casado 2019, arXiv 1909.09501) takes the last two dimensions of a tensor
for the matrix, which of a convolution are those of the kernel. Here it is put on the matrix of output units × all else.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from poise.norms.matrix import as_weight
from poise.norms.normalization import LayerWeight, Normalization, full_precision, wide
from poise.spectra.power import as_matrix

MAPS = ("cayley", "matrix_exp", "householder")


class Orthogonal(Normalization):
    """``W ↦ Q`` with ``QᵀQ = I``, or ``QQᵀ = I`` where there are fewer output units than inputs to one.

    Q starts as the factor of the weight's QR decomposition whose R has no negative diagonal entry: the weight itself if
    it is orthogonal already. Without ``use_trivialization``, "matrix_exp" and "cayley" have no inverse and start from
    the map of the weight as it is. The trained tensor is a coordinate of Q and looks like no weight.

    Args:
        weight: the weight to start from. row_dim: the dimension that counts output units.
        orthogonal_map: "cayley", "matrix_exp" or "householder", or None for torch's choice: "matrix_exp" for a square
            matrix, else "householder", which takes 26 s a step for 2304 × 256 where "cayley" takes 2 s (two cores,
            torch 2.14).
        use_trivialization: keep a square matrix of the larger side beside, on which the optimizer's steps are counted
            from: it converges better, and needs 85 MB for a convolution of 3 × 3 × 512 inputs.

    Raises:
        ValueError: an unknown map, or a weight without memory.
    """

    def __init__(
        self, weight: Tensor, row_dim: int, orthogonal_map: str | None = "cayley", use_trivialization: bool = True
    ) -> None:
        super().__init__()
        if orthogonal_map is not None and orthogonal_map not in MAPS:
            raise ValueError(f"orthogonal_map is {orthogonal_map!r}; allowed: {', '.join(map(repr, MAPS))}, None")
        if weight.is_meta:
            raise ValueError(
                "an orthogonal weight starts from its values, and this one is on the meta device: move the "
                "module by to_empty(device=...) first, then normalize it and load its state"
            )
        self.row_dim = row_dim
        is_square = len(set(as_matrix(weight, row_dim).shape)) == 1
        self.orthogonal_map = orthogonal_map or ("matrix_exp" if is_square else "householder")
        self.use_trivialization = use_trivialization
        self.map: Any
        self._start: Tensor | None
        self.map, self._start = self._begun(weight)

    def _begun(self, weight: Tensor) -> tuple[Any, Tensor]:
        """The map from coordinates to Q, and the coordinates that the weight stands at."""
        matrix = as_matrix(wide(weight.detach()), self.row_dim)
        carrier = nn.Module()
        has_inverse = self.use_trivialization or self.orthogonal_map == "householder"
        carrier.weight = nn.Parameter(orthonormal(matrix) if has_inverse else matrix.clone())
        parametrizations.orthogonal(
            carrier, orthogonal_map=self.orthogonal_map, use_trivialization=self.use_trivialization
        )
        steps: Any = carrier.get_submodule("parametrizations.weight")
        return steps[0], steps.original.detach()

    @torch.no_grad()
    def settle(self, weight: Tensor) -> None:
        super().settle(weight)
        assert self._start is not None
        weight.detach().copy_(as_weight(self._start, weight, self.row_dim))
        self._start = None

    def begin_anew(self, weight: Tensor) -> None:
        with torch.enable_grad():
            self.map, start = self._begun(weight)
        weight.detach().copy_(as_weight(start, weight, self.row_dim))

    def forward(self, weight: Tensor) -> Tensor:
        return full_precision(self._mapped, weight.device)(weight)

    def _mapped(self, weight: Tensor) -> Tensor:
        coordinates = as_matrix(wide(weight), self.row_dim)
        if self.orthogonal_map == "householder":
            # The map truncates its diagonal of signs to integers: after weight decay a −0.999 would count as 0.
            diagonal = torch.eye(*coordinates.shape, dtype=torch.bool, device=coordinates.device)
            coordinates = torch.where(diagonal, coordinates.sign(), coordinates)
        return as_weight(self.map(coordinates), weight, self.row_dim)

    def _apply(self, fn: Any, recurse: bool = True) -> Orthogonal:
        base = getattr(self.map, "base", None)
        super()._apply(fn, recurse)
        if base is not None and wide(self.map.base) is not self.map.base:
            self.map.base = base.to(self.map.base.device)  # in half precision it would be orthogonal no more
        return self

    def extra_repr(self) -> str:
        return f"orthogonal_map={self.orthogonal_map}, use_trivialization={hasattr(self.map, 'base')}"


def orthonormal(matrix: Tensor) -> Tensor:
    """The orthonormal factor of the QR decomposition with R's diagonal not negative, of the transpose if it is wide.

    Any matrix has one; of a zero matrix it is a part of the identity, up to signs.
    """
    tall = matrix if len(matrix) >= matrix.shape[1] else matrix.t()
    q, r = torch.linalg.qr(tall)
    q = torch.where(r.diagonal() < 0, -q, q)
    return (q if tall is matrix else q.t()).contiguous()


def orthogonal(
    weight: LayerWeight, orthogonal_map: str | None = "cayley", use_trivialization: bool = True
) -> Orthogonal:
    """``Q`` with orthonormal rows or columns, learned: torch's orthogonal parametrization (Lezcano-Casado 2019)."""
    return Orthogonal(weight.tensor, weight.out_dim, orthogonal_map, use_trivialization)
