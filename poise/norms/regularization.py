"""A penalty on σ₀ instead of a bound: BigGAN's regularization of the leading singular value.

Brock et al. 2019 (arXiv 1809.11096), section 4.1: σ₀ of each weight is regularized towards a fixed value or towards
``r·sg(σ₁)``, sg the stop-gradient; it slowed collapse in their networks and did not prevent it. The layers compute as
they did; ``poise.weight_penalty`` is to be added to the loss.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from poise.norms.leading import Level, leading
from poise.norms.matrix import is_transformed
from poise.norms.normalization import LayerWeight, Normalization, as_type, full_precision, wide
from poise.norms.updates import UpdateCounter
from poise.spectra.power import as_matrix
from poise.spectra.tracking import subspace_round


class SigmaReg(Normalization):
    """The identity, with ``penalty = coefficient·(σ₀ − target)²``: ``σ₀ = u₀ᵀWv₀`` (Brock et al. 2019, section 4.1).

    u₀ and v₀ are constant to autograd, and so is the target. One round of tracking runs per weight update, at the first
    forward or penalty of training mode that follows it; until the next update the penalty is the same.

    Args:
        weight: the weight, whose leading singular vectors are found. row_dim: the dimension that counts output units.
        sigma: the target, above 0; 1 by default. ratio: instead of it, the target in units of σ₁, at least 1; the
            penalty of a weight without a second singular value is 0 then.
        coefficient: of the penalty in the loss, above 0. At 1, every σ₀ of a small discriminator stays within 8% of the
            target under Adam at 2e-4; at 0.1 within 25%.

    Raises:
        ValueError: an option out of range.
    """

    left: Tensor
    right: Tensor

    def __init__(
        self,
        weight: Tensor,
        row_dim: int,
        sigma: float | None = None,
        ratio: float | None = None,
        coefficient: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 < coefficient < float("inf"):
            raise ValueError(f"coefficient is {coefficient}; it must be above 0 and finite")
        self.level, self.row_dim, self.coefficient = Level(sigma, ratio), row_dim, float(coefficient)
        self.updates = UpdateCounter()
        left, _, right = leading(weight, row_dim)
        self.register_buffer("left", left)
        self.register_buffer("right", right)

    def settle(self, weight: Tensor) -> None:
        super().settle(weight)
        self.updates.is_new(weight)

    def begin_anew(self, weight: Tensor) -> None:
        self.left, _, self.right = leading(weight, self.row_dim)
        self.updates.is_new(weight)

    def forward(self, weight: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            self._follow(weight)
        return weight

    def penalty(self, weight: Tensor) -> Tensor:
        """What this weight adds to the loss: a scalar, differentiable in the weight."""
        self._follow(weight)
        return full_precision(self._penalty, weight.device)(wide(weight))

    def _penalty(self, weight: Tensor) -> Tensor:
        left, right = as_type(self.left, weight.dtype), as_type(self.right, weight.dtype)
        values = ((left @ as_matrix(weight, self.row_dim)) * right).sum(1)
        return self.coefficient * (values[0] - self.level.of(values.detach())).square()

    def _follow(self, weight: Tensor) -> None:
        if not self.training or is_transformed() or torch.is_inference_mode_enabled():
            return
        if self.updates.is_new(weight):
            self._renew(weight)

    @torch.inference_mode(False)  # what is kept must remain tensors that autograd can save
    @torch.no_grad()
    def _renew(self, weight: Tensor) -> None:
        left, _, right = subspace_round(as_matrix(weight.detach(), self.row_dim), self.right)
        # Replaced, not written to: graphs built earlier stay valid.
        self.left, self.right = as_type(left, self.left.dtype), as_type(right, self.right.dtype)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if f"{prefix}right" in state_dict:
            self.updates.loaded()

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        # The round due for the last update runs now, so that the vectors saved belong to the weight saved.
        if self.training and self.updates.has_changed():
            weight = self.updates.weight
            assert weight is not None
            self._renew(weight)
        super()._save_to_state_dict(*args, **kwargs)

    def extra_repr(self) -> str:
        return f"{self.level}, coefficient={self.coefficient}"


def sigma_reg(
    weight: LayerWeight, sigma: float | None = None, ratio: float | None = None, coefficient: float = 1.0
) -> SigmaReg:
    """``coefficient·(σ₀ − c)²`` in the loss, c = sigma (1) or ratio·σ₁: BigGAN's penalty (Brock et al. 2019)."""
    return SigmaReg(weight.tensor, weight.out_dim, sigma, ratio, coefficient)
