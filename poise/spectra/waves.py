"""A start for the iteration on a convolution: the waves that it stretches most, fading to the edges of the image.

So do the leading singular vectors look for zero padding, where the frequency is one of the symbol's peaks and the
sine of half a period over the image the lowest tone of a string held at both ends. The search for peaks costs as much
as a few applications of the convolution, and spares the iteration dozens: it then begins with an error near 10⁻³.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvNd

from poise.spectra.operator import TRANSPOSED, LinearMap
from poise.spectra.symbol import Symbol, peaks

SMALL = 256  # pixels: on fewer, the search costs more than it spares
TRIED = 3  # peaks that a single vector is made of, since only the iteration can tell which of near ties is the highest
TIE = 1e-3  # relative difference that counts as near
NOISE = 0.2  # of the start's length: it lets the iteration find what the search overlooked


@torch.no_grad()
def waves(layer: _ConvNd, weight: Tensor, linear_map: LinearMap, count: int) -> Tensor | None:
    """Right vectors to start with, of length 1 or slightly more, the same on every call.

    Args:
        layer: a convolution of any kind.
        weight: its weight, shape (c0, c1/groups, *kernel).
        linear_map: the layer's map on images, made of that weight.
        count: how many vectors at most.

    Returns:
        Shape (b, *in_shape) with 1 ≤ b ≤ count, or None: for small images, and where mirrored or repeated edges,
        not waves, decide.
    """
    transposed = isinstance(layer, TRANSPOSED)
    size = (linear_map.in_shape if transposed else linear_map.out_shape)[1:]
    if math.prod(size) < SMALL or layer.padding_mode in ("reflect", "replicate"):
        return None
    frequencies, channels = peaks(Symbol(layer, weight.to(linear_map.dtype)))
    block = _on_image(frequencies, channels, size, layer.padding_mode == "zeros")
    block = block[:count] if count > 1 else block[: 2 * TRIED : 2]  # a cosine and a sine of each: one is enough
    images = linear_map.matvec(block) if transposed else linear_map.rmatvec(block)
    stretch = _lengths(images)
    start = _unit(block if transposed else images)
    if count == 1:
        ties = ((stretch / stretch.max() - 1) / TIE).exp()
        start = _unit((start * ties).sum(0, keepdim=True))
    noise = torch.randn(start.shape, generator=torch.Generator().manual_seed(0), dtype=start.dtype)
    return start + NOISE * _unit(noise.to(start.device))


def _on_image(frequencies: Tensor, channels: Tensor, size: tuple[int, ...], fades: bool) -> Tensor:
    """The cosine and the sine of each wave on an image, shape (2f, c0, *size), each of length 1."""
    wave = channels
    for n, frequency in zip(size, frequencies.unbind(1), strict=True):
        place = torch.arange(1, n + 1, dtype=frequency.dtype, device=frequency.device)
        envelope = (place * (math.pi / (n + 1))).sin()
        if not fades:  # the image is a circle: no edge, and whole periods only
            frequency = (frequency * (n / (2 * math.pi))).round() * (2 * math.pi / n)
            envelope = torch.ones_like(place)
        factor = torch.polar(envelope.expand(len(channels), n), frequency[:, None] * place)
        wave = wave[..., None] * factor.view(len(channels), *(1 for _ in wave.shape[1:]), n)
    return _unit(torch.view_as_real(wave).movedim(-1, 1).flatten(0, 1).contiguous())


def _lengths(block: Tensor) -> Tensor:
    return block.flatten(1).norm(dim=1).clamp_min(torch.finfo(block.dtype).tiny).view(-1, *(1 for _ in block.shape[1:]))


def _unit(block: Tensor) -> Tensor:
    return block / _lengths(block)
