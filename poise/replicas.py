"""What depends on a whole batch when many processes hold a part of it each. Needs torch only.

Within ``together()`` every process is a replica of the same networks and sees its part of one batch, all parts of one
size; what is computed over the batch is then computed over all of them. Outside of it, or in a single process, a
process is alone, and nothing here communicates. All replicas must do the same within it, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from torch import Tensor

_is_together = False


@contextmanager
def together() -> Iterator[None]:
    """Within, the processes of ``torch.distributed``'s default group, if there is one, hold one batch between them."""
    global _is_together
    before = _is_together
    _is_together = torch.distributed.is_available() and torch.distributed.is_initialized()
    try:
        yield
    finally:
        _is_together = before


def place() -> tuple[int, int]:
    """Which replica this is, counted from 0, and of how many: (0, 1) for a process alone."""
    return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if _is_together else (0, 1)


def mean(x: Tensor) -> Tensor:
    """The mean of the replicas' tensors, all of one shape, differentiable any number of times; of one alone, its own.

    Its gradient is that of the sum of all replicas' losses, as if one process had computed them all.
    """
    count = place()[1]
    return x if count == 1 else _Sum.apply(x) / count


def part(draw: Callable[[int], Tensor], n: int) -> Tensor:
    """This replica's ``n`` samples of what ``draw`` draws for the whole batch; all replicas' random states are one."""
    rank, count = place()
    return draw(n) if count == 1 else draw(n * count)[rank * n : (rank + 1) * n]


class _Sum(torch.autograd.Function):
    """The sum over all processes; torch has it under other names in every few releases, here none is depended on."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        total = x.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # noqa: ARG004
        return _Sum.apply(gradient)
