"""What every weight normalization here has in common, and which weights of a module there are to normalize."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from poise.norms.updates import is_watched, owner, watch
from poise.spectra.operator import TRANSPOSED

P = ParamSpec("P")
R = TypeVar("R")

NORMALIZED_LAYERS = (
    *(nn.Linear, nn.Bilinear, nn.Embedding, nn.MultiheadAttention),
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED),
)
WEIGHT_NAMES = ("weight", "in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
PACKED = {"in_proj_weight": 3}
"""maps that are stacked in a weight of this name"""


@dataclass(frozen=True)
class LayerWeight:
    """One weight of a layer, as a norm is built from it.

    Attributes:
        layer: what it belongs to, for stride and the like.
        parameter: its name in the layer: "weight", or one of attention's.
        tensor: the weight itself; of a packed one, the part of one map.
        blocks: maps stacked along dimension 0, each to be normalized for itself: 3 in attention's packed weight.
    """

    layer: nn.Module
    parameter: str
    tensor: Tensor
    blocks: int = 1

    @property
    def out_dim(self) -> int:
        return out_dim(self.layer)

    @property
    def bias(self) -> str:
        """The name of the bias that is added to what this weight gives."""
        return "in_proj_bias" if isinstance(self.layer, nn.MultiheadAttention) else "bias"

    def pieces(self) -> list[LayerWeight]:
        """The weight of each stacked map; a weight that is one map is its only piece."""
        if self.blocks == 1:
            return [self]
        return [LayerWeight(self.layer, self.parameter, piece) for piece in self.tensor.chunk(self.blocks)]


def weight_name(layer: str, parameter: str) -> str:
    """A layer's weight goes by the layer's name, any other of its parameters by its own as well."""
    return layer if parameter == "weight" else f"{layer}.{parameter}".lstrip(".")


def layer_weights(layer: nn.Module) -> Iterator[LayerWeight]:
    """The weights of one layer, its children's left out; none of a layer that is not in ``NORMALIZED_LAYERS``.

    Raises:
        ValueError: a lazy layer, whose weight has no shape yet.
    """
    if not isinstance(layer, NORMALIZED_LAYERS):
        return
    for name in WEIGHT_NAMES:
        weight = layer._parameters.get(name)
        if weight is not None and nn.parameter.is_lazy(weight):
            raise ValueError(f"{layer} has no weight yet; run one batch through the module, then normalize it")
        if weight is not None:
            yield LayerWeight(layer, name, weight, PACKED.get(name, 1))


def out_dim(layer: nn.Module) -> int:
    """The dimension of a layer's weight that counts its output units: 1 for transposed convolutions, else 0."""
    return 1 if isinstance(layer, TRANSPOSED) else 0


def groups(layer: nn.Module) -> int:
    """How many groups a convolution's channels are in; 1 for every other layer."""
    return int(getattr(layer, "groups", 1))


def wide(weight: Tensor) -> Tensor:
    """The weight in float64 if it is that, else in float32: norms are not measured in fewer bits."""
    return weight if weight.dtype in (torch.float32, torch.float64) else weight.float()


def as_type(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x.to(dtype)``, without the call where there is nothing to do."""
    return x if x.dtype == dtype else x.to(dtype)


def full_precision(function: Callable[P, R], device: torch.device) -> Callable[P, R]:
    """The function without autocast, where that is on: norms are not measured in fewer bits."""
    if device.type != "meta" and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)(function)
    return function


class Normalization(nn.Module):
    """A parametrization ``W ↦ normalized W`` put on by ``poise.normalize``; subclasses say which in ``forward``."""

    gamma = "none"
    """a learned scale on weight and bias: "none", "per-layer", or "shared" by all layers normalized together"""

    @property
    def awaits_input_size(self) -> bool:
        """Whether the normalized weight cannot be known before a first forward tells the input's size."""
        return False

    def settle(self, weight: Tensor) -> None:
        """Told that ``weight`` is the one this was built for, after registering it; for those that keep count."""
        if owner(weight) is weight:  # a part of a packed weight is told by what packs it
            watch(weight, self)

    def attend(self, weight: Tensor) -> None:
        """Told of the weight after it may have become another: in a copy, by loading, or by an assignment."""
        if not torch.compiler.is_compiling() and owner(weight) is weight and not is_watched(weight, self):
            watch(weight, self)

    def after_step(self, weight: Tensor) -> None:
        """Told that an optimizer has changed ``weight``; for those that put it right."""

    def begin_anew(self, weight: Tensor) -> None:
        """Told that ``weight`` was filled anew, by ``reset_parameters``: nothing known of the one before is of use."""


class Packed(Normalization):
    """Several maps stacked along dimension 0 of one weight, each normalized for itself: attention's packed weight.

    Args:
        parts: the normalization of each map, in order.
    """

    def __init__(self, parts: list[Normalization]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.gamma = parts[0].gamma

    def _pairs(self, weight: Tensor) -> Iterator[tuple[Normalization, Tensor]]:
        for part, piece in zip(self.parts, weight.chunk(len(self.parts)), strict=True):
            assert isinstance(part, Normalization)
            yield part, piece

    def settle(self, weight: Tensor) -> None:
        super().settle(weight)
        for part, piece in self._pairs(weight):
            part.settle(piece)

    def attend(self, weight: Tensor) -> None:
        super().attend(weight)
        for part, piece in self._pairs(weight):
            part.attend(piece)

    def after_step(self, weight: Tensor) -> None:
        for part, piece in self._pairs(weight):
            part.after_step(piece)

    def begin_anew(self, weight: Tensor) -> None:
        for part, piece in self._pairs(weight):
            part.begin_anew(piece)

    def forward(self, weight: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            self.attend(weight)
        return torch.cat([part(piece) for part, piece in self._pairs(weight)])

    def extra_repr(self) -> str:
        return f"{len(self.parts)} maps"
