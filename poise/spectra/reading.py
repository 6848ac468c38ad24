"""The weight of a layer, as its spectrum is followed: as it is trained, or as it is used."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from poise.spectra.operator import TRANSPOSED, effective_weight

WHICH = ("effective", "original")
"""the weight that evaluation uses, or the tensor that is trained, before parametrizations"""


def has_matrix(layer: nn.Module) -> bool:
    """Whether a layer has a weight of at least 2 dimensions.

    Raises:
        ValueError: a lazy layer, whose weight has no shape yet.
    """
    known: Tensor | None = layer._parameters.get("weight")
    if known is None and not parametrize.is_parametrized(layer, "weight") and "weight_orig" not in layer._parameters:
        return False
    if known is not None and nn.parameter.is_lazy(known):
        raise ValueError(f"{layer} has no weight yet; run one batch through the module, then follow its spectra")
    weight = effective_weight(layer) if known is None else known
    return weight.ndim >= 2 and weight.numel() > 0 and weight.is_floating_point()


def read(layer: nn.Module, which: str) -> Tensor:
    """The layer's weight, output units first; the effective one where parametrizations make it of several tensors."""
    weight: Tensor | None = layer._parameters.get("weight")
    if weight is None and which == "original":
        weight = _original(layer)
    if weight is None:
        with torch.no_grad():
            weight = effective_weight(layer)
    return weight.transpose(0, 1).contiguous() if isinstance(layer, TRANSPOSED) else weight


def _original(layer: nn.Module) -> Tensor | None:
    """The trained tensor behind a weight, if it is one tensor."""
    if parametrize.is_parametrized(layer, "weight"):
        parametrizations: Any = layer.parametrizations
        return getattr(parametrizations.weight, "original", None)
    return layer._parameters.get("weight_orig")
