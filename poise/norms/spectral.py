"""Spectral normalization and its scaled and bidirectional forms, on the reshaped weight.

σ_out is the largest singular value of W as a matrix of c_out rows, σ_in that of c_in rows; linear weights have one σ.
Gradients follow eq. 11 of the SN paper: u and v are constants, σ is not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from poise.norms.gain import check_gamma
from poise.norms.normalization import Normalization, out_dim, wide
from poise.norms.updates import UpdateCounter
from poise.spectra.power import as_matrix, power_iteration, rayleigh

INITIAL_ROUNDS = 15  # as torch.nn.utils.parametrizations.spectral_norm: u and v start near the singular vectors


class SpectralNorm(Normalization):
    """Parametrization ``W ↦ scale·W/σ`` (SN: Miyato et al. 2018; BSSN: Lin et al. 2021).

    One round of power iteration runs per weight update, at the first training-mode forward that follows it; every
    forward until the next update sees the same weight. u and v are replaced, never written to, so that graphs built
    earlier stay valid. σ is computed in float32 or wider, also under autocast.

    Args:
        weight: the weight to normalize; its leading singular vectors are found from it.
        out_dim: the dimension that counts output units (0; 1 for transposed convolutions).
        bidirectional: average σ_out with σ_in, for weights of more than two dimensions.
        scale: the factor s, unitless.
        eps: a weight whose σ is below this counts as zero and is only scaled.
    """

    u_out: Tensor
    v_out: Tensor
    u_in: Tensor
    v_in: Tensor

    def __init__(
        self, weight: Tensor, *, out_dim: int = 0, bidirectional: bool = False, scale: float = 1.0, eps: float = 1e-12
    ) -> None:
        super().__init__()
        if not 0 < scale < float("inf"):
            raise ValueError(f"scale is {scale}; it must be above 0 and finite (papers: 0.7 to 4)")
        if weight.ndim < 2:
            raise ValueError(f"weight has shape {tuple(weight.shape)}; a spectral norm needs at least 2 dimensions")
        self.scale = float(scale)
        self.eps = eps
        self.directions = {"out": out_dim}
        if bidirectional and weight.ndim > 2:
            self.directions["in"] = 1 - out_dim
        for name, dim in self.directions.items():
            matrix = as_matrix(wide(weight.detach()), dim)
            start = torch.nn.functional.normalize(matrix.new_empty(matrix.shape[0]).normal_(), dim=0)
            u, v = power_iteration(matrix, start, INITIAL_ROUNDS, eps)
            self.register_buffer(f"u_{name}", u)
            self.register_buffer(f"v_{name}", v)
        self._updates = UpdateCounter()
        self.settle(weight)

    def settle(self, weight: Tensor) -> None:
        """Take ``weight`` as the one u and v belong to: no round of power iteration is due for it."""
        self._updates.is_new(weight)

    def sigma(self, weight: Tensor) -> Tensor:
        """The σ divided by: a scalar, differentiable in the weight, with u and v as they stand."""
        total = weight.new_zeros(())
        for name, dim in self.directions.items():
            u, v = (getattr(self, f"{vector}_{name}").to(weight.dtype) for vector in "uv")
            total = total + rayleigh(as_matrix(weight, dim), u, v)
        return total / len(self.directions)

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            w = wide(weight)
            may_iterate = self.training and not torch.is_inference_mode_enabled()
            if may_iterate and self._updates.is_new(weight):
                self._iterate(w)
            sigma = self.sigma(w)
            # A zero weight has no σ: left as it is, it stays zero and its gradient finite.
            divisor = torch.where(sigma > self.eps, sigma, torch.ones_like(sigma))
            return (w * (self.scale / divisor)).to(weight.dtype)

    @torch.inference_mode(False)  # u and v must remain tensors that autograd can save
    @torch.no_grad()
    def _iterate(self, weight: Tensor) -> None:
        for name, dim in self.directions.items():
            old = getattr(self, f"u_{name}")
            u, v = power_iteration(as_matrix(weight, dim), old.to(weight.dtype), eps=self.eps)
            setattr(self, f"u_{name}", u.to(old.dtype))
            setattr(self, f"v_{name}", v.to(old.dtype))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if f"{prefix}u_out" in state_dict:
            self._updates.loaded()

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        # The round due for the last update runs now instead of at the next forward, so that the vectors saved belong to
        # the weight saved, and a loaded module continues exactly as this one does.
        weight = self._updates.weight
        if weight is not None and self.training and self._updates.is_new(weight):
            self._iterate(wide(weight))
        super()._save_to_state_dict(*args, **kwargs)

    def extra_repr(self) -> str:
        return f"scale={self.scale}, directions={'+'.join(self.directions)}"


def sn(layer: nn.Module, gamma: str = "none") -> SpectralNorm:
    """``W / σ_out``: spectral normalization (Miyato et al. 2018, eq. 8)."""
    return _spectral(layer, gamma)


def ssn(layer: nn.Module, scale: float = 1.4, gamma: str = "none") -> SpectralNorm:
    """``scale·W / σ_out``: scaled spectral normalization (Lin et al. 2021, section 5)."""
    return _spectral(layer, gamma, scale=scale)


def bsn(layer: nn.Module, gamma: str = "none") -> SpectralNorm:
    """``W / ((σ_out + σ_in)/2)``: bidirectional spectral normalization (Lin et al. 2021, section 5)."""
    return _spectral(layer, gamma, bidirectional=True)


def bssn(layer: nn.Module, scale: float = 1.4, gamma: str = "none") -> SpectralNorm:
    """``scale·W / ((σ_out + σ_in)/2)``: bidirectional scaled spectral normalization (Lin et al. 2021, section 5)."""
    return _spectral(layer, gamma, bidirectional=True, scale=scale)


def _spectral(layer: nn.Module, gamma: str, **options: Any) -> SpectralNorm:
    check_gamma(gamma)
    # A bilinear weight has no input channels to turn to: its other dimensions are two inputs.
    if isinstance(layer, nn.Bilinear):
        options["bidirectional"] = False
    normalization = SpectralNorm(layer.get_parameter("weight"), out_dim=out_dim(layer), **options)
    normalization.gamma = gamma
    return normalization
