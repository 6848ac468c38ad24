"""What is measured of the two networks while they train: gradient norms and σ, layer by layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from poise import noise
from poise.norms import out_dim, sigmas
from poise.spectra import as_matrix, power_iteration, rayleigh


def weights(module: nn.Module) -> dict[str, tuple[nn.Parameter, int]]:
    """Trained weights of at least 2 dimensions, each with its output dimension, by layer name.

    Of a normalized layer it is the weight before its norm.
    """
    found = {}
    for name, layer in module.named_modules():
        if parametrize.is_parametrized(layer, "weight"):
            weight = dict(layer.named_parameters()).get("parametrizations.weight.original")
        else:
            weight = dict(layer.named_parameters(recurse=False)).get("weight")
        if weight is not None and weight.ndim >= 2:
            found[name] = weight, out_dim(layer)
    return found


def gradient_norms(module: nn.Module) -> dict[str, Tensor]:
    """Frobenius norm of each weight's gradient, by layer: scalars on the device, not read back."""
    found = {name: weight.grad for name, (weight, _) in weights(module).items() if weight.grad is not None}
    return dict(zip(found, torch._foreach_norm(list(found.values())), strict=True)) if found else {}


class SigmaProbe:
    """Largest singular value of every reshaped weight, followed by one round of power iteration a call (warm start).

    Weights normalized by poise are not measured twice: their norm knows σ already.
    """

    def __init__(self, module: nn.Module, initial_rounds: int = 15) -> None:
        self._initial_rounds = initial_rounds
        self._u: dict[str, Tensor] = {}
        self.measure(module)

    @torch.no_grad()
    def measure(self, module: nn.Module) -> dict[str, Tensor]:
        """σ by layer name: float32 scalars on the device, not read back."""
        found = sigmas(module)
        for name, (weight, row_dim) in weights(module).items():
            if name in found:
                continue
            matrix = as_matrix(weight.detach().float(), row_dim)
            largest = matrix.abs().amax().clamp_min(torch.finfo(torch.float32).tiny)
            matrix = matrix / largest  # a weight that explodes must not overflow in its own measure
            rounds = 1 if name in self._u else self._initial_rounds
            if name not in self._u:
                start = noise.normal(0, name, torch.zeros(1, dtype=torch.int64), len(matrix))[0]
                self._u[name] = F.normalize(start, dim=0).to(matrix.device)
            self._u[name], v = power_iteration(matrix, self._u[name], rounds)
            found[name] = rayleigh(matrix, self._u[name], v) * largest
        return found
