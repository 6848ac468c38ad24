"""Power iteration inside ``torch.compile``: an operator that the compiler calls and does not look into.

Whether a round is due depends on what happened to the weight since the last call, which no compiled graph can know. So
the graph calls back, once per weight, and gets the vectors to use; σ and the division are compiled with the network.
"""

from __future__ import annotations

import itertools
import weakref
from typing import Protocol

import torch
from torch import Tensor


class Iterating(Protocol):
    """A norm that keeps singular vectors and renews them."""

    def renewed(self, weight: Tensor) -> list[Tensor]:
        """The vectors for ``weight``, after the round of power iteration that may be due for it."""

    def kept(self) -> list[Tensor]:
        """The vectors as they stand."""


_numbers = itertools.count()
_norms: weakref.WeakValueDictionary[int, Iterating] = weakref.WeakValueDictionary()


def register(norm: Iterating) -> Tensor:
    """A handle by which compiled code finds ``norm``: a tensor on the CPU, for graphs do not depend on its value."""
    number = next(_numbers)
    _norms[number] = norm
    return torch.tensor(number)


@torch.library.custom_op("poise::singular_vectors", mutates_args=())
def singular_vectors(weight: Tensor, handle: Tensor, vectors: list[Tensor], training: bool) -> list[Tensor]:
    """The singular vectors to normalize ``weight`` with, copied; ``vectors`` are those of the norm before.

    Called twice for one weight it gives the same, so the compiler may merge the calls.
    """
    norm = _norms[int(handle)]
    found = norm.renewed(weight) if training else norm.kept()
    return [vector.clone() for vector in found]


@singular_vectors.register_fake
def _(weight: Tensor, handle: Tensor, vectors: list[Tensor], training: bool) -> list[Tensor]:
    return [torch.empty_like(vector) for vector in vectors]
