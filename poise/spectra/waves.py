"""A start for the iteration on a convolution: the waves that it stretches most, fading to the edges of the image.

So do the leading singular vectors look for zero padding, where the frequency is one of the symbol's peaks and the
fading that of a string's lowest tone, held at both ends. The search for peaks costs as much as a few applications of
the convolution, and spares the iteration dozens: it then begins with an error near 10⁻³. A start must not look
finished, though, where it is not, or the iteration would believe it: several vectors are not all waves of one kind,
and for circular padding, where pure waves are singular vectors, they fade as well.
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
        count: how many are wanted: 1, or more, of which the iteration then has to find all but 2.

    Returns:
        Shape (1 or 2, *in_shape), or None: for small images, and where mirrored or repeated edges, not waves, decide.
    """
    transposed = isinstance(layer, TRANSPOSED)
    size = (linear_map.in_shape if transposed else linear_map.out_shape)[1:]
    if math.prod(size) < SMALL or layer.padding_mode in ("reflect", "replicate"):
        return None
    frequencies, channels = peaks(Symbol(layer, weight.to(linear_map.dtype)))
    wave = _on_image(frequencies, channels, size)
    # Where cosine and sine are stretched alike, any mixture will do; where they are not, it has to hold both.
    block = _unit((wave.real + wave.imag)[:TRIED] if count == 1 else torch.stack([wave[0].real, wave[0].imag]))
    images = linear_map.matvec(block) if transposed else linear_map.rmatvec(block)
    start = _unit(block if transposed else images)
    if count == 1:
        stretch = _lengths(images)
        ties = ((stretch / stretch.max() - 1) / TIE).exp()
        start = _unit((start * ties).sum(0, keepdim=True))
    noise = torch.randn(start.shape, generator=torch.Generator().manual_seed(0), dtype=start.dtype)
    return start + NOISE * _unit(noise.to(start.device))


def _on_image(frequencies: Tensor, channels: Tensor, size: tuple[int, ...]) -> Tensor:
    """The waves, fading to the edges: complex, shape (f, c0, *size)."""
    wave = channels
    for n, frequency in zip(size, frequencies.unbind(1), strict=True):
        place = torch.arange(1, n + 1, dtype=frequency.dtype, device=frequency.device)
        fading = (place * (math.pi / (n + 1))).sin().expand(len(channels), n)
        factor = torch.polar(fading, frequency[:, None] * place)
        wave = wave[..., None] * factor.view(len(channels), *(1 for _ in wave.shape[1:]), n)
    return wave


def _lengths(block: Tensor) -> Tensor:
    return block.flatten(1).norm(dim=1).clamp_min(torch.finfo(block.dtype).tiny).view(-1, *(1 for _ in block.shape[1:]))


def _unit(block: Tensor) -> Tensor:
    return block / _lengths(block)
