"""Arithmetic on many small weights of a CPU at once, in C; all of it can be done by torch's operators too.

A round of power iteration on a small weight is a dozen operators, and calling them takes several times as long as what
they do. ``cpu.c`` is built when poise is installed, if there is a compiler; without it, for other types than float32
and for tensors that are no plain memory, these functions return None, and whoever asks calls operators.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor, nn

try:
    from poise.kernels import _cpu
except ImportError:  # installed without a compiler
    _cpu = None  # type: ignore[assignment]

PLAIN = (Tensor, nn.Parameter)
"""types that are memory and nothing else; subclasses may be anything"""


ONE_THREAD = 2**18
"""entries, of all weights together, up to which one thread is done before another has begun"""


def is_built() -> bool:
    """Whether the part in C is there."""
    return _cpu is not None


def power_rounds(readings: list[tuple[Tensor, bool, Tensor, float]]) -> list[tuple[Tensor, Tensor, float]] | None:
    """One round of power iteration for each reading of a weight as a matrix (SN paper, algorithm 1).

    Args:
        readings: of each the weight W of shape (outer, middle, …), whether its second dimension counts the rows
            instead of its first, u of unit length, and the least length that is not taken for zero.

    Returns:
        For each the new u and v, and ``σ = uᵀWv``; σ is NaN, and u and v mean nothing, where a length is not finite or
        taken for zero. None if any of them cannot be computed here.
    """
    if _cpu is None or torch._C._are_functorch_transforms_active():
        return None
    jobs: list[float] = []
    sizes: list[int] = []
    for weight, by_columns, u, eps in readings:
        of_weight, of_u = address(weight), address(u)
        if not of_weight or not of_u:
            return None
        outer, middle, kernel = places(weight.shape)
        jobs += (by_columns, outer, middle, kernel, of_weight, of_u, 0, 0, eps)
        sizes += (outer * kernel, middle) if by_columns else (middle * kernel, outer)
    memory = readings[0][0].new_empty(sum(sizes))
    place = address(memory)
    if not place:
        return None
    for index, size in enumerate(sizes):
        jobs[index // 2 * 9 + 6 + index % 2] = place
        place += 4 * size
    sigmas = _cpu.rounds(jobs, threads_for(sum(weight.numel() for weight, *_ in readings)))
    parts = torch.unsafe_split_with_sizes(memory, sizes)
    return list(zip(parts[1::2], parts[::2], sigmas, strict=True))


def follow(weights: list[Tensor], jobs: list[tuple[int, int, int, int, int, int]]) -> tuple[Tensor, ...]:
    """One round of following the largest singular values of each weight, as ``poise.spectra.tracking`` does it.

    Args:
        weights: with an ``address``, of one or more entries.
        jobs: of each its first dimension, the product of all others, how many vectors are followed, by how many steps
            of block Lanczos, how many values are wanted, and the address of the basis: that many orthonormal vectors of
            the shorter of the two sizes. The next basis takes its place; a weight of zeros, or with NaN or infinity,
            leaves it as it is.

    Returns:
        The values of each, shape (wanted,), descending; NaN for a weight with NaN or infinity.
    """
    sizes = [job[4] for job in jobs]
    memory = torch.empty(sum(sizes))
    values = memory.data_ptr()
    numbers: list[float] = []
    entries = 0
    for weight, job in zip(weights, jobs, strict=True):
        numbers += (*job, weight.data_ptr(), values)
        values += 4 * job[4]
        entries += job[0] * job[1]
    _cpu.follow(numbers, threads_for(entries))
    return torch.unsafe_split_with_sizes(memory, sizes)


def address(x: Tensor) -> int:
    """Where the entries of a tensor begin; 0 if they are not float32, in order, in memory of this process."""
    if type(x) not in PLAIN or x.dtype is not torch.float32 or not x.is_cpu or not x.is_contiguous() or x.is_neg():
        return 0
    return x.data_ptr()


@cache
def places(shape: torch.Size) -> tuple[int, int, int]:
    """Entries along the first dimension, the second, and all others."""
    outer, middle, *kernel = shape
    return outer, middle, math.prod(kernel)


def derivatives(
    jobs: list[tuple[Tensor, Tensor, list[tuple[bool, Tensor, Tensor]], float, float, float]],
) -> list[Tensor] | None:
    """The gradient of each weight W from that of ``factor·W``, factor = scale/σ̄ (SN paper, eq. 11).

    Args:
        jobs: of each weight the gradient of what it was made to, itself, the readings that σ̄ is the mean of (whether
            by columns, u and v), the factor, σ̄, and the least σ̄ that is not taken for zero.

    Returns:
        ``factor·(grad − ⟨grad, W⟩/σ̄ · mean of uvᵀ)`` for each, the second term left out where σ̄ is taken for zero; None
        if any of them cannot be computed here.
    """
    if _cpu is None or torch._C._are_functorch_transforms_active():
        return None
    numbers: list[float] = []
    made = []
    entries = 0
    for grad, weight, readings, factor, sigma, eps in jobs:
        of_grad, of_weight = address(grad), address(weight)
        if not of_grad or not of_weight:
            return None
        vectors = [0, 0, 0, 0]
        for by_columns, u, v in readings:
            first = 2 * by_columns
            vectors[first : first + 2] = own = [address(u), address(v)]
            if not all(own):
                return None
        out = torch.empty_like(grad)
        of_out = address(out)
        if not of_out:
            return None
        numbers += (*places(weight.shape), of_grad, of_weight, of_out, *vectors, factor, sigma, eps)
        made.append(out)
        entries += out.numel()
    _cpu.derivatives(numbers, threads_for(entries))
    return made


def threads_for(entries: int) -> int:
    """As many as torch may use, where the work is worth the time it takes to begin them."""
    return torch.get_num_threads() if entries > ONE_THREAD else 1
