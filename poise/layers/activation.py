"""Rectifiers whose threshold is learned (Xiang and Li 2017, arXiv 1704.03971), and one that spares memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poise.layers.transposed import ConvTranspose2d


class TranslatedReLU(nn.Module):
    """``max(x − α, 0) + α``, α learned per channel, 0 at first (Xiang and Li 2017, section 3.3).

    After a strict weight-normalized layer, which has no bias, it plays the part of one. The authors' leaky form is
    ``PReLU(x − α) + α``, with a learned slope per channel, which stays within [0, 1].

    Args:
        channels: length of dimension 1 of the input, (n, channels, …).
        slope: the leaky form's first slope, from 0 to 1; None: the plain form.

    Raises:
        ValueError: channels below 1, or a slope outside [0, 1].
    """

    def __init__(self, channels: int, slope: float | None = None) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels is {channels}; it must be at least 1")
        if slope is not None and not 0 <= slope <= 1:
            raise ValueError(f"slope is {slope}; it must lie in [0, 1], or be None for the plain form")
        self.threshold = nn.Parameter(torch.zeros(channels))
        self.slope = None if slope is None else nn.Parameter(torch.full((channels,), float(slope)))

    def forward(self, x: Tensor) -> Tensor:
        shape = (-1,) + (1,) * (x.ndim - 2)
        threshold = self.threshold.view(shape)
        if self.slope is None:
            return torch.maximum(x, threshold)  # the same, in one pass
        return F.prelu(x - threshold, self.slope.clamp(0, 1)) + threshold

    def extra_repr(self) -> str:
        return f"{len(self.threshold)}, slope={'learned' if self.slope is not None else None}"


KINDS = (nn.Conv2d, nn.ConvTranspose2d, ConvTranspose2d, nn.BatchNorm2d, nn.GroupNorm, nn.Identity)
OVERWRITTEN = {kind.forward for kind in KINDS}
"""forward passes whose output no backward pass needs"""


def rectified(x: Tensor, *made_by: nn.Module, slope: float = 0.0) -> Tensor:
    """Leaky ReLU, or ReLU, of what these layers have made; written over it, which takes no memory, if none listens.

    Args:
        x: the output of the last of them. made_by: the layers, of which the first makes a new tensor. slope: below 0.
    """
    inplace = not torch.compiler.is_compiling() and not x._is_view() and not any(map(_is_listened_to, made_by))
    return F.leaky_relu(x, slope, inplace) if slope else F.relu(x, inplace)


def _is_listened_to(layer: nn.Module) -> bool:
    """Whether a layer's output may be wanted as it is: someone has a hook on it, or it is of another kind."""
    if type(layer).forward not in OVERWRITTEN or "forward" in vars(layer):
        return True
    return bool(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)
