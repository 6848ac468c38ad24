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


Job = tuple[Tensor, Tensor | None, Tensor | None, float, float]
"""a weight W of shape (outer, middle, …); u of unit length of the matrix of `outer` rows and of that of `middle` rows,
None where a direction is not used; the scale; and the least length that is not taken for zero"""
Round = tuple[Tensor, Tensor, float]
"""u and v after a round of power iteration, and σ"""
Vectors = tuple[Tensor, Tensor]
"""u and v"""
Derivative = tuple[Tensor, Tensor, Vectors | None, Vectors | None, float, float, float]
"""the gradient of what a weight was made to; the weight; its vectors by rows and by columns, None where a direction is
not used; the factor; σ̄; and the least σ̄ that is not taken for zero"""
Following = tuple[int, int, int, int, int]
"""a weight's first dimension, the product of all others, how many vectors are followed, by how many steps of block
Lanczos, and how many values are wanted"""


def is_built() -> bool:
    """Whether the part in C is there."""
    return _cpu is not None


def power_rounds(jobs: list[Job], is_divided: bool) -> list[tuple[Round | None, Round | None, Tensor | None]] | None:
    """One round of power iteration for each weight, in one direction or both (SN paper, algorithm 1).

    Args:
        jobs: one for each weight.
        is_divided: whether weights are divided as well, each by the mean σ̄ of its directions.

    Returns:
        For each, by rows and by columns, the new u and v and ``σ = uᵀWv``; σ is NaN, and u and v mean nothing, where a
        length is not finite or taken for zero. Last comes ``scale/σ̄ · W``, if asked for and every σ is known. None if
        any of the weights cannot be computed here.
    """
    if _cpu is None or torch._C._are_functorch_transforms_active():
        return None
    numbers: list[float] = []
    sizes: list[int] = []
    quotients: list[Tensor] = []
    of_quotient = entries = 0
    for weight, row_u, column_u, scale, eps in jobs:
        of_weight = address(weight)
        of_row = address(row_u) if row_u is not None else 0
        of_column = address(column_u) if column_u is not None else 0
        if not of_weight or (row_u is not None and not of_row) or (column_u is not None and not of_column):
            return None
        outer, middle, kernel = places(weight.shape)
        if (of_row and row_u.numel() != outer) or (of_column and column_u.numel() != middle):  # type: ignore[union-attr]
            return None  # a weight of another shape than before: operators say so
        if is_divided:
            quotient = torch.empty_like(weight)
            if type(quotient) is not Tensor:
                return None
            of_quotient = quotient.data_ptr()
            quotients.append(quotient)
        numbers += (outer, middle, kernel, of_weight, of_row, of_column, of_quotient, scale, eps)
        if of_row:
            sizes += (outer, middle * kernel)
        if of_column:
            sizes += (middle, outer * kernel)
        entries += outer * middle * kernel
    memory = torch.empty(sum(sizes), dtype=torch.float32, device="cpu")
    if not address(memory):
        return None
    sigmas = _cpu.rounds(numbers, memory.data_ptr(), threads_for(entries))
    parts = iter(torch.unsafe_split_with_sizes(memory, sizes))
    found = []
    for index, (_, row_u, column_u, _, _) in enumerate(jobs):
        of_rows, of_columns = sigmas[2 * index : 2 * index + 2]
        by_rows = None if row_u is None else (next(parts), next(parts), of_rows)
        by_columns = None if column_u is None else (next(parts), next(parts), of_columns)
        is_known = is_divided and of_rows + of_columns > 0
        found.append((by_rows, by_columns, quotients[index] if is_known else None))
    return found


def derivatives(jobs: list[Derivative]) -> list[Tensor] | None:
    """The gradient of each weight W from that of ``factor·W``, factor = scale/σ̄ (SN paper, eq. 11).

    Returns:
        ``factor·(grad − ⟨grad, W⟩/σ̄ · mean of the directions' uvᵀ)`` for each, the second term left out where σ̄ is
        taken for zero; None if any of them cannot be computed here.
    """
    if _cpu is None or torch._C._are_functorch_transforms_active():
        return None
    numbers: list[float] = []
    made = []
    entries = 0
    for grad, weight, by_rows, by_columns, factor, sigma, eps in jobs:
        vectors = [0, 0, 0, 0]
        if by_rows is not None:
            vectors[:2] = address(by_rows[0]), address(by_rows[1])
        if by_columns is not None:
            vectors[2:] = address(by_columns[0]), address(by_columns[1])
        of_grad, of_weight = address(grad), address(weight)
        known = vectors.count(0) == 2 * ((by_rows is None) + (by_columns is None))
        if not of_grad or not of_weight or not known or grad.shape != weight.shape:
            return None
        outer, middle, kernel = places(weight.shape)
        if by_rows is not None and (by_rows[0].numel(), by_rows[1].numel()) != (outer, middle * kernel):
            return None
        if by_columns is not None and (by_columns[0].numel(), by_columns[1].numel()) != (middle, outer * kernel):
            return None
        out = torch.empty_like(grad)
        of_out = address(out)
        if not of_out:
            return None
        numbers += (outer, middle, kernel, of_grad, of_weight, of_out, *vectors, factor, sigma, eps)
        made.append(out)
        entries += out.numel()
    _cpu.derivatives(numbers, threads_for(entries))
    return made


def threads_for(entries: int) -> int:
    """As many as torch may use, where the work is worth the time it takes to begin them."""
    return torch.get_num_threads() if entries > ONE_THREAD else 1


def follow(weights: list[Tensor], bases: list[Tensor], jobs: list[Following]) -> tuple[Tensor, ...]:
    """One round of following the largest singular values of each weight, as ``poise.spectra.tracking`` does it.

    Args:
        weights: with an ``address``, of one or more entries.
        bases: for each, with an address too, orthonormal vectors of the shorter side, shape (count, that). The next
            basis takes its place; a weight of zeros, or with NaN or infinity, leaves it as it is.
        jobs: one for each.

    Returns:
        The values of each, shape (wanted,), descending; NaN for a weight with NaN or infinity.
    """
    sizes = [job[4] for job in jobs]
    memory = torch.empty(sum(sizes), dtype=torch.float32, device="cpu")
    values = memory.data_ptr()
    numbers: list[float] = []
    entries = 0
    for weight, basis, job in zip(weights, bases, jobs, strict=True):
        numbers += (*job, basis.data_ptr(), weight.data_ptr(), values)
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
