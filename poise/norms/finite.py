"""A check that what a layer uses is finite, for those who search where NaN began."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CheckFinite(nn.Module):
    """The identity; raises FloatingPointError when a weight has NaN or infinity. Compiled code does not check.

    Args:
        layer: the name to report.
    """

    def __init__(self, layer: str) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, weight: Tensor) -> Tensor:
        if not torch.compiler.is_compiling() and not weight.isfinite().all():
            bad = int((~weight.isfinite()).sum())
            raise FloatingPointError(
                f"the weight of layer {self.layer!r} has NaN or infinity in {bad} of {weight.numel()} entries; "
                "the update before this forward, or a weight loaded, brought them"
            )
        return weight
