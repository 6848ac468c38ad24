"""The symbol of a convolution: what it does to each frequency, and the frequencies that it stretches most.

A wave ``u e^{iω·x}`` that passes a convolution stays a wave of its frequency: only its channels change, by the symbol
``Ŵ(ω) = Σ_t W_t e^{iω·t}``. On large images the operator's norm is the symbol's, max over ω of ``‖Ŵ(ω)‖`` (Sedghi,
Gupta and Long 2019, arXiv 1805.10408; for zero padding Araujo et al. 2021, arXiv 2006.08391).

A stride s folds s waves, spaced 2π/s apart, onto one. So frequencies are counted on the side of fewer pixels, a
convolution's output or a transposed one's input, whose channels are dimension 0 of the weight.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvNd

GRID = (6, 16)  # frequencies in a dimension, least and most
COARSE_STEPS = 8  # of Lanczos, for every frequency of the grid
MOVES = ((12, 3), (10, 3), (8, 3), (6, 3), (4, 4), (4, 4), (4, 4), (4, 4))  # peaks kept, and steps, for each move
NEAR, ALIKE = 0.15, 0.7  # peaks are one when their frequencies differ by less, radians, and their channels agree more


class Symbol:
    """The symbol of one convolution, applied to the waves of many frequencies at once.

    Args:
        layer: a convolution of any kind.
        weight: its weight, shape (c0, c1/groups, *kernel), in the dtype to compute in.
    """

    def __init__(self, layer: _ConvNd, weight: Tensor) -> None:
        self.groups, self.stride, self.kernel = layer.groups, layer.stride, weight.shape[2:]
        # Without a stride, a dilation d only narrows the symbol: it is looked at as if it were not there.
        self.narrowing = weight.new_tensor(
            [d if s == 1 else 1 for d, s in zip(layer.dilation, self.stride, strict=True)]
        )
        self.spacing = [1 if s == 1 else d for d, s in zip(layer.dilation, self.stride, strict=True)]
        taps = itertools.product(*(range(0, k * d, d) for k, d in zip(self.kernel, self.spacing, strict=True)))
        folds = itertools.product(*(range(s) for s in self.stride))
        self.taps, self.folds = weight.new_tensor(list(taps)), weight.new_tensor(list(folds))  # (t, dims), (s, dims)
        self.weight = weight.reshape(self.groups, len(weight) // self.groups, -1)  # (groups, c0/groups, c1/groups · t)

    def grid(self) -> Tensor:
        """Frequencies to begin with, shape (f, dims): evenly spaced; of ±ω, whose values are the same, only one."""
        counts = [
            min(max(GRID[0], math.ceil(2 * (k - 1) * d / s) + 4), GRID[1])
            for k, d, s in zip(self.kernel, self.spacing, self.stride, strict=True)
        ]
        points = itertools.product(*map(range, counts))
        half = [p for p in points if p <= tuple(-i % n for i, n in zip(p, counts, strict=True))]
        return 2 * math.pi * self.taps.new_tensor(half) / self.taps.new_tensor(counts)

    def phases(self, frequencies: Tensor) -> Tensor:
        """``e^{iω·t}`` at each tap of each of the s waves that fold onto one, over √s: (..., dims) → (..., t, s)."""
        waves = (frequencies[..., None, :] + 2 * math.pi * self.folds) / self.folds.new_tensor(self.stride)
        angles = self.taps @ waves.mT
        return torch.polar(torch.full_like(angles, len(self.folds) ** -0.5), angles)

    def taps_of(self, channels: Tensor) -> Tensor:
        """``W_tᵀu`` for each tap t: (f, c0) → (f, c1, t)."""
        return self._multiply(channels, self.weight).unflatten(1, (-1, len(self.taps)))

    def adjoint(self, channels: Tensor, phases: Tensor) -> Tensor:
        """``Ŵᴴu``: (f, c0) → (f, c1, s)."""
        return self.taps_of(channels) @ phases.conj()

    def forward(self, channels: Tensor, phases: Tensor) -> Tensor:
        """``Ŵv``: (f, c1, s) → (f, c0)."""
        return self._multiply((channels @ phases.mT).flatten(1), self.weight.mT)

    def _multiply(self, rows: Tensor, matrices: Tensor) -> Tensor:
        """Complex rows times the group's real matrix, shape (groups, n, m): (f, groups · n) → (f, groups · m)."""
        parts = torch.cat([rows.real, rows.imag]).unflatten(1, (self.groups, -1)).transpose(0, 1)
        real, imag = (parts @ matrices).transpose(0, 1).flatten(1).chunk(2)
        return torch.complex(real, imag)


@torch.no_grad()
def peaks(symbol: Symbol) -> tuple[Tensor, Tensor]:
    """The frequencies where a symbol is largest, shape (f, dims), best first, and the waves' channels u, (f, c0).

    A search, not a proof: from every frequency of a grid the best climb, frequency and channels in turn, and those
    that fall behind or meet another are given up. In radians a pixel of the side of fewer pixels; f is 1 to 4.
    """
    frequencies = symbol.grid()
    shape = (len(frequencies), symbol.weight.shape[:2].numel(), 2)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=frequencies.dtype)
    channels = torch.view_as_complex(noise.to(frequencies.device))
    channels, heights = _leading(symbol, frequencies, channels, COARSE_STEPS)
    reach = math.pi / GRID[0]
    for kept, steps in MOVES:
        best = _distinct(frequencies, channels, heights)[:kept]
        frequencies, channels = _moved(symbol, frequencies[best], channels[best], reach), channels[best]
        channels, heights = _leading(symbol, frequencies, channels, steps)
        reach *= 0.6
    best = _distinct(frequencies, channels, heights)
    return frequencies[best] / symbol.narrowing, channels[best]


def _leading(symbol: Symbol, frequencies: Tensor, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Leading left singular vectors of the symbol, shape (f, c0), and squared values: Lanczos at each frequency."""
    phases = symbol.phases(frequencies)
    least = torch.finfo(phases.real.dtype).tiny
    basis, images, block = start.new_empty(len(start), 0, start.shape[1]), [], start
    for _ in range(min(steps, start.shape[1])):
        block = block - ((basis.conj() @ block[..., None]).mT @ basis)[:, 0]
        block = block / block.norm(dim=1, keepdim=True).clamp_min(least)
        basis = torch.cat([basis, block[:, None]], dim=1)
        block = symbol.forward(symbol.adjoint(block, phases), phases)
        images.append(block)
    values, vectors = torch.linalg.eigh(basis.conj() @ torch.stack(images, dim=2))
    return (vectors[:, None, :, -1] @ basis)[:, 0], values[:, -1]


def _moved(symbol: Symbol, frequencies: Tensor, channels: Tensor, reach: float) -> Tensor:
    """Each frequency moved uphill, its channels held: the height is then a small trigonometric polynomial."""
    taps = symbol.taps_of(channels)
    gram = (taps.mH @ taps)[:, None]  # (f, 1, t, t)
    steps = frequencies.new_tensor(list(itertools.product((-1, 0, 1), repeat=frequencies.shape[1])))
    for _ in range(5):
        around = frequencies[:, None] + reach * steps
        phases = symbol.phases(around)
        heights = (gram @ phases.conj() * phases).real.sum((2, 3))
        frequencies = around[torch.arange(len(around), device=around.device), heights.argmax(1)]
        reach /= 2
    return frequencies


def _distinct(frequencies: Tensor, channels: Tensor, heights: Tensor) -> list[int]:
    """The peaks by height, without those that have climbed onto a higher one, or onto its mirror image at −ω."""
    wave = torch.polar(torch.ones_like(frequencies), frequencies)
    same = torch.zeros(len(wave), len(wave), dtype=torch.bool, device=wave.device)
    for other, others in ((wave, channels), (wave.conj(), channels.conj())):
        near = (wave[:, None] - other).abs().amax(2) < NEAR
        same |= near & ((channels.conj() @ others.t()).abs() > ALIKE)
    rows: list[list[bool]] = same.tolist()
    kept: list[int] = []
    for index in heights.argsort(descending=True).tolist():
        if not any(rows[index][higher] for higher in kept):
            kept.append(index)
    return kept
