"""What is measured of the weights and their gradients, layer by layer. Scalars stay on the device, not read back."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from poise.norms import out_dim
from poise.spectra import SpectrumTracker

SAMPLED = 4096
"""entries of a weight that its updates are measured on"""


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


def weight_norms(module: nn.Module) -> dict[str, Tensor]:
    """Frobenius norm of each trained weight, by layer: not finite where an entry is not, or its square is not."""
    found = {name: weight.detach() for name, (weight, _) in weights(module).items()}
    return dict(zip(found, torch._foreach_norm(list(found.values())), strict=True)) if found else {}


def gradient_norms(module: nn.Module) -> dict[str, Tensor]:
    """Frobenius norm of each weight's gradient, by layer."""
    found = _gradients(module)
    return dict(zip(found, torch._foreach_norm(list(found.values())), strict=True)) if found else {}


def gradient_variances(module: nn.Module, norms: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Variance of the entries of each weight's gradient, by layer: ``E g² − (E g)²``.

    Args:
        norms: from ``gradient_norms``, if they are known already.
    """
    norms = gradient_norms(module) if norms is None else norms
    found = {name: gradient for name, gradient in _gradients(module).items() if name in norms}
    return {
        name: (norms[name].float().square() / gradient.numel() - gradient.float().mean().square()).clamp_min(0)
        for name, gradient in found.items()
    }


def _gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: weight.grad for name, (weight, _) in weights(module).items() if weight.grad is not None}


class UpdateProbe:
    """How far each weight has moved since the last call, ``‖ΔW‖/‖W‖`` a step: the net movement over all of them.

    Measured on ``SAMPLED`` evenly spaced entries of each weight, so that the copy kept of them is small.
    """

    def __init__(self) -> None:
        self._step: int | None = None
        self._before: dict[str, Tensor] = {}

    @torch.no_grad()
    def measure(self, module: nn.Module, step: int) -> dict[str, Tensor]:
        """By layer name; empty at the first call."""
        now = {name: _sampled(weight) for name, (weight, _) in weights(module).items()}
        before, self._before = self._before, now
        steps = step - self._step if self._step is not None else 0
        self._step = step
        if steps <= 0:
            return {}
        known = [name for name in now if name in before and before[name].shape == now[name].shape]
        if not known:
            return {}
        old = [before[name].to(now[name]) for name in known]
        moved = torch._foreach_norm(torch._foreach_sub([now[name] for name in known], old))
        sizes = torch._foreach_norm(old)
        return {
            name: moved_by.float() / (steps * size.float().clamp_min(1e-30))
            for name, moved_by, size in zip(known, moved, sizes, strict=True)
        }

    def state_dict(self) -> dict[str, Any]:
        """The step of the last call and what was kept of the weights."""
        return {"step": self._step, "before": dict(self._before)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._step, self._before = state["step"], dict(state["before"])


def _sampled(weight: Tensor) -> Tensor:
    flat = weight.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // SAMPLED)][:SAMPLED].clone()


class SpectrumProbe:
    """The top three singular values of every layer's trained weight, its stable rank, and σ₀ of the weight in use.

    Weights are reshaped to output units × all else; values are followed from call to call (``SpectrumTracker``).
    """

    def __init__(self, module: nn.Module) -> None:
        normalized = any(parametrize.is_parametrized(layer, "weight") for layer in module.modules())
        self._original: SpectrumTracker | None = None
        self._effective: SpectrumTracker | None = None
        with suppress(ValueError):  # no layer with a weight to decompose
            self._original = SpectrumTracker(module, 3, "original")
            self._effective = SpectrumTracker(module, 1, "effective") if normalized else None

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """The singular vectors that the next call goes on from, by layer; "original" and "effective"."""
        trackers = self._trackers().items()
        return {name: {layer: basis.clone() for layer, basis in tracker.bases.items()} for name, tracker in trackers}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Go on from those."""
        for name, tracker in self._trackers().items():
            tracker.bases = {layer: basis.clone() for layer, basis in state[name].items()}

    def _trackers(self) -> dict[str, SpectrumTracker]:
        named = {"original": self._original, "effective": self._effective}
        return {name: tracker for name, tracker in named.items() if tracker is not None}

    @torch.no_grad()
    def measure(self, module: nn.Module) -> dict[str, dict[str, Tensor]]:
        """By name of the measure, then of the layer: "singular_values" (up to 3,), and scalars.

        "sigma" is σ₀ of the trained weight, "effective_sigma" that of the normalized layers' weight in use,
        "stable_rank" is ``‖W‖²_F/σ₀²`` of the trained weight, 1 for rank one; layers with a single unit or input have
        no other and are left out.
        """
        if self._original is None:
            return {}
        trained = weights(module)
        values = self._original()
        sigma = {name: found[0] for name, found in values.items()}
        several = [name for name in trained if name in values and len(values[name]) > 2]
        norms = torch._foreach_norm([trained[name][0].detach() for name in several]) if several else []
        rank = {
            name: (norm.float() / sigma[name]).square().nan_to_num(nan=0.0, posinf=0.0)
            for name, norm in zip(several, norms, strict=True)
        }
        found = {"sigma": sigma, "singular_values": values, "stable_rank": rank}
        if self._effective is not None:
            used = self._effective()
            found["effective_sigma"] = {
                name: used[name][0]
                for name, layer in module.named_modules()
                if name in used and parametrize.is_parametrized(layer, "weight")
            }
        return found
