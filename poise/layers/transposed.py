"""A transposed convolution whose bias is added by itself.

On a CPU, torch computes a bias' gradient within the backward pass of the transposed convolution, pixel by pixel: for
64 channels of 64 × 64 pixels that takes as long as all the rest. The sum over an image's pixels, which it is, takes
next to nothing. Devices add and sum it apart anyway.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class ConvTranspose2d(nn.ConvTranspose2d):
    """``nn.ConvTranspose2d``, with the same weights, state and outputs (but for rounding under autocast)."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if self.bias is None or output_size is not None:
            return super().forward(input, output_size)
        y = F.conv_transpose2d(
            *(input, self.weight, None, self.stride, self.padding, self.output_padding, self.groups, self.dilation)  # type: ignore[arg-type]
        )
        return y + self.bias.to(y.dtype)[:, None, None]
