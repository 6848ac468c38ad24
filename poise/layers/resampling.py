"""A convolution beside a change of resolution, as one strided convolution and a blur: the same function, less work.

Doubling an image spreads its pixels on a grid twice as fine and blurs them there, with taps [1, 1] for the nearest
pixel and [1, 3, 3, 1]/4 for bilinear interpolation. Convolutions commute: blurring after the convolution gives the
same, and the convolution of a grid three quarters of which are zeros is a transposed one with stride 2, of a quarter of
the multiplications. The mean of 2×2 pixels after a convolution is likewise a blur before one with stride 2. All is
exact but for rounding, borders included. (Fusing the two is Karras et al. 2018, arXiv 1710.10196, section A; with the
kernel and the blur merged into one, as there, a 3×3 kernel takes 16 multiplications where this takes 9.)
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TAPS = {"nearest": (1.0, 1.0), "bilinear": (0.25, 0.75, 0.75, 0.25)}

SMALLEST = 6
"""pixels of an image's side below which the four borders of a bilinear one cost more than the inside saves"""


def halved_conv(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """``F.avg_pool2d(conv(x), 2)``: (n, inputs, H, W) → (n, outputs, H/2, W/2), H and W even."""
    if _as_modules(conv) or x.shape[-2] % 2 or x.shape[-1] % 2:
        return F.avg_pool2d(conv(x), 2)
    half = conv.kernel_size[0] // 2
    if not half:
        return conv(F.avg_pool2d(x, 2))
    return F.conv2d(F.avg_pool2d(x, 2, 1, 1), conv.weight, conv.bias, stride=2, padding=half - 1)


def doubled_conv(conv: nn.Conv2d, x: Tensor, mode: str = "nearest") -> Tensor:
    """``conv(F.interpolate(x, scale_factor=2, mode=mode))``: (n, inputs, H, W) → (n, outputs, 2H, 2W).

    Args:
        mode: "nearest", or "bilinear" with ``align_corners=False``.
    """
    if _as_modules(conv) or (mode == "bilinear" and (conv.kernel_size[0] > 3 or min(x.shape[2:]) < SMALLEST)):
        return conv(doubled(x, mode))
    if conv.kernel_size[0] == 1:
        return doubled(conv(x), mode)
    weight, bias = conv.weight, conv.bias
    if torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type):
        lower = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(lower), weight.to(lower), None if bias is None else bias.to(lower)
    if mode == "nearest":
        return _Doubled.apply(x, weight, bias, mode)
    return _Doubled.apply(x, weight, bias, mode, *_beyond_border(x, weight))


def doubled(x: Tensor, mode: str = "nearest") -> Tensor:
    """(n, channels, H, W) → (n, channels, 2H, 2W)."""
    return F.interpolate(x, scale_factor=2, mode=mode, **({"align_corners": False} if mode == "bilinear" else {}))


class _Doubled(torch.autograd.Function):
    """The transposed convolution and the blur, less ``beyond`` at the four borders: top, bottom, left and right.

    Its backward pass is the transposed of each; left to autograd, the blur's costs as much as all the rest.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, mode: str, *beyond: Tensor) -> Tensor:
        y = _blurred(_spread(x, weight, mode), TAPS[mode], bias)
        for place, part in zip(_borders(y), beyond, strict=False):
            place.sub_(part)
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        x, weight, bias, ctx.mode, *_ = inputs
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        taps = TAPS[ctx.mode]
        for_x = for_weight = for_bias = None
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            spread = _blurred(grad, taps, padding=len(taps) - 1)
            padded, kernel = _padded(x, ctx.mode), _transposed(weight)
            for_padded, for_kernel, _ = torch.ops.aten.convolution_backward(
                *(spread, padded, kernel, None, (2, 2), _cut(weight, ctx.mode), (1, 1), True, (0, 0), 1),
                (ctx.needs_input_grad[0], ctx.needs_input_grad[1], False),
            )
            if for_padded is not None:
                for_x = _unpadded(for_padded, x, ctx.mode)
            if for_kernel is not None:
                for_weight = _transposed(for_kernel)
        if ctx.has_bias and ctx.needs_input_grad[2]:
            for_bias = grad.sum((0, 2, 3))
        beyond = [-place for place in _borders(grad)] if ctx.mode == "bilinear" else []
        return for_x, for_weight, for_bias, None, *beyond


def _spread(x: Tensor, weight: Tensor, mode: str) -> Tensor:
    """The convolution of pixels spread on the finer grid, as far as the blur reaches."""
    return F.conv_transpose2d(_padded(x, mode), _transposed(weight), stride=2, padding=_cut(weight, mode))


def _cut(weight: Tensor, mode: str) -> tuple[int, int]:
    """Rows and columns at each border of the finer grid that the blur does not reach."""
    cut = weight.shape[-1] // 2 - (mode == "nearest")
    return cut, cut


def _transposed(weight: Tensor) -> Tensor:
    """(o, i, k, k) ↔ (i, o, k, k), as transposed convolutions take it."""
    return weight.flip(2, 3).transpose(0, 1)


def _padded(x: Tensor, mode: str) -> Tensor:
    """What interpolation takes to lie beyond the border: for bilinear the border's own pixels."""
    return x if mode == "nearest" else F.pad(x, (1, 1, 1, 1), mode="replicate")


def _unpadded(grad: Tensor, x: Tensor, mode: str) -> Tensor:
    """The transposed of ``_padded``."""
    return grad if mode == "nearest" else torch.ops.aten.replication_pad2d_backward(grad, x, (1, 1, 1, 1))


def _blurred(x: Tensor, taps: tuple[float, ...], bias: Tensor | None = None, padding: int = 0) -> Tensor:
    """Each channel convolved with taps ⊗ taps, which are symmetric."""
    line = torch.tensor(taps, dtype=x.dtype, device=x.device)
    kernel = (line[:, None] * line).expand(x.shape[1], 1, -1, -1).contiguous()
    return F.conv2d(x, kernel, bias, padding=padding, groups=x.shape[1])


def _borders(y: Tensor) -> tuple[Tensor, ...]:
    """Its first and last rows (n, c, 1, W) and columns (n, c, H, 1)."""
    return y[:, :, :1], y[:, :, -1:], y[..., :1], y[..., -1:]


def _beyond_border(x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    """What the blur would bring into the borders from beyond, where the convolution has zeros.

    Bilinear interpolation repeats the border; of that ring around the doubled image a 3×3 kernel sees one row or
    column.
    """
    top, bottom, left, right = _borders(x)
    wide, high = {"scale_factor": (1, 2)}, {"scale_factor": (2, 1)}

    def line(part: Tensor, along: dict[str, Any]) -> Tensor:
        return F.interpolate(part, mode="bilinear", align_corners=False, **along)

    return (
        F.conv2d(F.pad(line(top, wide), (1, 1, 0, 0), mode="replicate"), weight[:, :, :1]),
        F.conv2d(F.pad(line(bottom, wide), (1, 1, 0, 0), mode="replicate"), weight[:, :, 2:]),
        F.conv2d(line(left, high), weight[..., :1], padding=(1, 0)),
        F.conv2d(line(right, high), weight[..., 2:], padding=(1, 0)),
    )


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
