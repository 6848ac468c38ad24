"""Random numbers that are a pure function of (seed, stream, position).

A counter-based generator: the value at a position is a hash of that position, never of what was drawn before it. So
sample i is the same whatever the batch size, a resumed run continues without any saved generator state, and a run
split over processes sees the numbers of the undivided one.

The hash is SplitMix64's finalizer (Steele, Lea, Flood, OOPSLA 2014; Stafford's variant 13), computed on the CPU in
wrapping int64 arithmetic, so that every device is given the same numbers.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: SplitMix64's step between counters
_MASK64 = (1 << 64) - 1
_CHUNK = 1 << 22  # values hashed at once by digest: bounds memory
_AHEAD = 1 << 17  # numbers that Ahead draws at once


def _signed(value: int) -> int:
    """The int64 with the same 64 bits as ``value``."""
    value &= _MASK64
    return value - (1 << 64) if value >> 63 else value


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's ``>>`` on int64 copies the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finalizer on an int64 tensor."""
    x = (x ^ _shift_right(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift_right(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift_right(x, 31)


def _mix_int(x: int) -> int:
    x &= _MASK64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK64
    return x ^ (x >> 31)


def bits(seed: int, stream: str, positions: Tensor, width: int) -> Tensor:
    """64 hashed bits for each position and column.

    Args:
        seed: any integer.
        stream: name of what is drawn ("latent", "digits", …); different names are independent.
        positions: int64, shape (n,), each ≥ 0: the running numbers of the samples.
        width: numbers wanted for each position.

    Returns:
        int64, shape (n, width), on the CPU.
    """
    key = _signed(_mix_int(seed * _GOLDEN + _mix_int(zlib.crc32(stream.encode()))))
    rows = _mix(positions.cpu().to(torch.int64) * _signed(_GOLDEN) + key)
    columns = torch.arange(1, width + 1, dtype=torch.int64) * _signed(_GOLDEN)
    return _mix(rows[:, None] + columns[None, :])


def uniform(seed: int, stream: str, positions: Tensor, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Uniform numbers in the open interval (0, 1): float32 or float64, shape (n, width)."""
    # A bit less than the significand holds, so that the half added is exact and nothing rounds up to 1.
    kept = {torch.float32: 23, torch.float64: 52}[dtype]
    return _shift_right(bits(seed, stream, positions, width), 64 - kept).to(dtype).add_(0.5).mul_(2.0**-kept)


def integers(seed: int, stream: str, positions: Tensor, width: int, high: int) -> Tensor:
    """Uniform integers in [0, high): int64, shape (n, width). Raises ValueError if ``high`` < 1."""
    if high < 1:
        raise ValueError(f"high is {high}; there must be at least 1 value to draw from")
    return _shift_right(bits(seed, stream, positions, width), 1) % high


def normal(seed: int, stream: str, positions: Tensor, width: int) -> Tensor:
    """Standard normal numbers by Box and Muller's transform: float32, shape (n, width)."""
    half = (width + 1) // 2
    u = uniform(seed, stream, positions, 2 * half)
    radius = u[:, :half].log().mul_(-2.0).sqrt_()
    angle = u[:, half:].mul(2.0 * math.pi)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :width].contiguous()


def truncated_normal(seed: int, stream: str, positions: Tensor, width: int, threshold: float) -> Tensor:
    """Standard normal numbers, those beyond ±threshold drawn again: float32, shape (n, width), within ±threshold.

    What is within the threshold is what ``normal`` gives there. What is not is drawn from the truncated distribution by
    its inverse, in float64, from a stream of its own; so the whole has that distribution exactly, as drawing again
    until it fits would, however small the threshold.

    Args:
        threshold: in standard deviations, above 0; infinity truncates nothing.

    Raises:
        ValueError: a threshold of 0 or below, or NaN.

    Source: Brock et al. 2019, section 3.1 (the truncation trick).
    """
    if not threshold > 0:
        raise ValueError(f"threshold is {threshold}; latents are truncated at some number of σ above 0")
    drawn = normal(seed, stream, positions, width).double()
    u = uniform(seed, f"{stream}, drawn again", positions, width, torch.float64)
    again = torch.erfinv((2 * u - 1) * math.erf(threshold / math.sqrt(2))) * math.sqrt(2)
    limit = torch.tensor(threshold, dtype=torch.float64).float()
    if limit.double() > threshold:  # rounded up
        limit = torch.nextafter(limit, torch.zeros(()))
    return torch.where(drawn.abs() <= threshold, drawn, again).float().clamp_(-limit, limit)


class Ahead:
    """A draw by position, made for many positions at once and kept for the batches that follow: few cost as much.

    Args:
        draw: ``normal`` and the like: (seed, stream, positions int64 (n,), width) ↦ (n, width).
        seed, stream, width: what it is given.
    """

    def __init__(self, draw: Callable[[int, str, Tensor, int], Tensor], seed: int, stream: str, width: int) -> None:
        self.draw, self.seed, self.stream, self.width = draw, seed, stream, width
        self.rows = max(1, _AHEAD // max(1, width))
        self._blocks: dict[int, Tensor] = {}

    def __call__(self, start: int, size: int) -> Tensor:
        """Rows of positions ``start`` to ``start + size``; not to be written to, others may be given the same."""
        if size == 0 or size >= self.rows:
            return self._drawn(start, size)
        first, last = start // self.rows, (start + size - 1) // self.rows
        found = [self._block(block)[max(0, start - block * self.rows) :] for block in range(first, last + 1)]
        return found[0][:size] if len(found) == 1 else torch.cat(found)[:size]

    def _block(self, block: int) -> Tensor:
        found = self._blocks.get(block)
        if found is None:
            found = self._drawn(block * self.rows, self.rows)
            kept = list(self._blocks.items())[-1:]  # a batch may lie across the end of one
            self._blocks = dict([*kept, (block, found)])
        return found

    def _drawn(self, start: int, size: int) -> Tensor:
        return self.draw(self.seed, self.stream, torch.arange(start, start + size), self.width)


def digest(x: Tensor) -> Tensor:
    """A 64-bit hash of a tensor's values in their order, computed where it lies: an int64 scalar, not read back."""
    flat = torch.view_as_real(x) if x.is_complex() else x
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[flat.element_size()]
    flat = flat.detach().contiguous().reshape(-1).view(whole)
    total = torch.zeros((), dtype=torch.int64, device=x.device)
    for start in range(0, len(flat), _CHUNK):
        part = flat[start : start + _CHUNK].to(torch.int64)
        places = torch.arange(start, start + len(part), dtype=torch.int64, device=x.device)
        total += _mix(part ^ _mix(places * _signed(_GOLDEN))).sum()
    return total
