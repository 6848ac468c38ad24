"""A convolution beside a change of resolution, computed as one strided convolution: the same function, 4/9 of the work.

A 3×3 convolution followed by the mean of 2×2 pixels is a 4×4 convolution with stride 2 whose kernel is the mean of the
four shifted ones; nearest doubling followed by a 3×3 convolution is a transposed one whose kernel is their sum. Zero
padding included, both are exact but for rounding. (The same fusion makes progressive GANs' layers fast: Karras et al.
2018, arXiv 1710.10196, section A.)
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def halved_conv(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """``F.avg_pool2d(conv(x), 2)``: (n, inputs, H, W) → (n, outputs, H/2, W/2), H and W even."""
    if _as_modules(conv) or x.shape[-2] % 2 or x.shape[-1] % 2:
        return F.avg_pool2d(conv(x), 2)
    return F.conv2d(x, _four_shifts(conv.weight) / 4, conv.bias, stride=2, padding=conv.kernel_size[0] // 2)


def doubled_conv(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """``conv(F.interpolate(x, scale_factor=2))``, nearest: (n, inputs, H, W) → (n, outputs, 2H, 2W)."""
    if _as_modules(conv):
        return conv(F.interpolate(x, scale_factor=2))
    kernel = _four_shifts(conv.weight).flip(2, 3).transpose(0, 1)
    return F.conv_transpose2d(x, kernel, conv.bias, stride=2, padding=conv.kernel_size[0] // 2)


def _four_shifts(kernel: Tensor) -> Tensor:
    """Sum of the kernel at the four places of a 2×2 square: (o, i, k, k) → (o, i, k + 1, k + 1)."""
    padded = F.pad(kernel, (1, 1, 1, 1))
    rows = padded[..., 1:, :] + padded[..., :-1, :]
    return rows[..., 1:] + rows[..., :-1]


def _as_modules(conv: nn.Module) -> bool:
    """Whether the convolution has to be called as it is: someone listens to it, or it is of another kind."""
    if not isinstance(conv, nn.Conv2d) or type(conv).forward is not nn.Conv2d.forward or "forward" in vars(conv):
        return True
    listened = conv._forward_hooks or conv._forward_pre_hooks or conv._backward_hooks or conv._backward_pre_hooks
    size = conv.kernel_size[0]
    plain = (
        conv.kernel_size == (size, size)
        and conv.padding == (size // 2, size // 2)
        and size % 2 == 1
        and conv.stride == conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.padding_mode == "zeros"
    )
    return bool(listened) or not plain
