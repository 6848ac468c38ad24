"""Spectral normalization that keeps the other singular values from falling: SR-GAN's spectral compensation.

Liu et al. 2019 (arXiv 1908.10999): under spectral normalization most singular values of a weight drop when modes are
lost. They are compensated by ``W̄ = (W + ΔW)/σ₁`` with ``ΔW = Σ_k max(0, γ_k·σ₁ − σ_k)·u_k v_kᵀ``, from the singular
value decomposition of the reshaped weight, γ_k the ratio to σ₁ below which σ_k may not stand:

- static: γ_k = 1 for the first i singular values and 0 for the others; i is half of them in the authors' code;
- dynamic: γ_k is the largest σ_k/σ₁ so far.

The authors' code writes ``W + ΔW`` back into the weight after every fifth update. Here it is a function of the weight,
as the formula is, at every update, so that the trained tensor remains the optimizer's alone.

Gradient: u_k, v_k and γ_k are constants and ``σ_k = u_kᵀWv_k`` is not, for each k as for the first in spectral
normalization (Miyato et al. 2018, eq. 11). So a singular value that is lifted gets no gradient of its own.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from poise.norms.matrix import as_weight, is_transformed
from poise.norms.normalization import LayerWeight, Normalization, full_precision, wide
from poise.norms.updates import UpdateCounter
from poise.spectra.power import as_matrix

FORMS = ("static", "dynamic")
EPS = 1e-12  # a weight whose σ₁ is below this counts as zero and is left as it is

Triples = tuple[Tensor, Tensor, Tensor]
"""left (r, m), values (r,), descending, and right (r, n)"""


class SpectralCompensation(Normalization):
    """``W ↦ (W + ΔW)/σ₁`` as this file's head says; one singular value decomposition per weight update.

    It takes half a second for 256 × 2304 on two cores. Compiled code runs it at every forward.

    γ of the dynamic form is the buffer ``ratios``; it is saved with the module and grows in training mode alone.

    Args:
        weight: the weight. row_dim: the dimension that counts output units.
        form: "static" or "dynamic".
        fraction: of the singular values, how many the static form lifts to σ₁: 0 (spectral normalization) to 1 (an
            orthogonal weight), by default 1/2, rounded down.

    Raises:
        ValueError: an unknown form, a fraction out of range, or one given with the dynamic form.
    """

    ratios: Tensor | None

    def __init__(self, weight: Tensor, row_dim: int, form: str = "static", fraction: float | None = None) -> None:
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"form is {form!r}; allowed: {', '.join(map(repr, FORMS))}")
        if form == "dynamic" and fraction is not None:
            raise ValueError(f"fraction is {fraction}; the dynamic form has none, leave it out or use form='static'")
        fraction = 0.5 if fraction is None else fraction
        if not 0 <= fraction <= 1:
            raise ValueError(f"fraction is {fraction}; it must be from 0 to 1")
        self.form, self.fraction, self.row_dim = form, float(fraction), row_dim
        rank = min(as_matrix(weight.detach(), row_dim).shape)
        # Those that may be lifted; the first stands at itself.
        self.count = rank if form == "dynamic" else max(1, math.floor(fraction * rank + 1e-9))
        ratios = torch.zeros(rank, dtype=wide(weight).dtype, device=weight.device)
        self.register_buffer("ratios", ratios if form == "dynamic" else None)
        self.updates = UpdateCounter()
        self._triples: Triples | None = None

    def forward(self, weight: Tensor) -> Tensor:
        return full_precision(self._compensated, weight.device)(weight)

    def _compensated(self, weight: Tensor) -> Tensor:
        left, values, right = self._decomposed(weight)
        is_zero = values[0] <= EPS
        standing = values / torch.where(is_zero, 1.0, values[0])
        ratios = self._ratios(standing)
        lifted = (ratios > standing) & ~is_zero
        matrix = as_matrix(wide(weight), self.row_dim)
        sigmas = ((left @ matrix) * right).sum(1)
        missing = torch.where(lifted, ratios * sigmas[0] - sigmas, 0)
        compensated = matrix + left.t() @ (missing.unsqueeze(1) * right)
        return as_weight(compensated / torch.where(is_zero, 1.0, sigmas[0]), weight, self.row_dim)

    def _ratios(self, standing: Tensor) -> Tensor:
        """γ, given the ratios as they stand."""
        if self.ratios is None:
            return torch.ones_like(standing)
        may_keep = torch.compiler.is_compiling() or not torch.is_inference_mode_enabled()
        if self.training and may_keep and not is_transformed():
            self.ratios = torch.fmax(self.ratios, standing)  # fmax passes over NaN
        return self.ratios

    def _decomposed(self, weight: Tensor) -> Triples:
        """The singular triples that may be lifted, of the weight as it is; kept until it changes."""
        if is_transformed() or torch.compiler.is_compiling():
            return self._decompose(weight)
        if self.updates.is_new(weight) or self._triples is None:
            with torch.inference_mode(False):  # what is kept must remain tensors that autograd can save
                self._triples = self._decompose(weight)
        return self._triples

    @torch.no_grad()
    def _decompose(self, weight: Tensor) -> Triples:
        matrix = as_matrix(wide(weight.detach()), self.row_dim)
        left, values, right = torch.linalg.svd(matrix.nan_to_num(0, 0, 0), full_matrices=False)
        values = torch.where(matrix.isfinite().all(), values, torch.nan)
        return left[:, : self.count].t(), values[: self.count], right[: self.count]

    def settle(self, weight: Tensor) -> None:
        super().settle(weight)
        self.updates.is_new(weight)

    def begin_anew(self, weight: Tensor) -> None:
        if self.ratios is not None:
            self.ratios = torch.zeros_like(self.ratios, device=weight.device)

    def _apply(self, fn: Any, recurse: bool = True) -> SpectralCompensation:
        self._triples = None  # of another type or device from now on
        super()._apply(fn, recurse)
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_triples": None}  # found again from the weight

    def extra_repr(self) -> str:
        return f"form={self.form}" + (f", fraction={self.fraction:g}" if self.form == "static" else "")


def spectral_compensation(
    weight: LayerWeight, form: str = "static", fraction: float | None = None
) -> SpectralCompensation:
    """``(W + ΔW)/σ₁``, ΔW lifting the singular values that fell: SR-GAN's spectral compensation (Liu et al. 2019)."""
    return SpectralCompensation(weight.tensor, weight.out_dim, form, fraction)
