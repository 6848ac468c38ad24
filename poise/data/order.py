"""Which record stands at which place of the endless series of images that training sees.

Every epoch is a new permutation of the records, a pure function of (seed, epoch): a resumed run, or one split over
other processes, sees the same images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from poise import noise

KEPT = 2  # permutations kept: a batch may lie across the end of an epoch


class Order:
    """A permutation for each epoch of n records.

    Args:
        n: records, at least 1.
        seed: which of all orders.
        stream: name of what is ordered; different names are independent.
    """

    def __init__(self, n: int, seed: int, stream: str = "order") -> None:
        if n < 1:
            raise ValueError(f"n is {n}; there must be at least 1 record to order")
        self.n, self.seed, self.stream = n, seed, stream
        self._epochs: dict[int, Tensor] = {}

    def records(self, start: int, size: int) -> Tensor:
        """Records at places ``start`` to ``start + size``: int64 (size,), each from 0 to n − 1."""
        found, place, end = [], start, start + size
        while place < end:
            epoch, first = divmod(place, self.n)
            count = min(end - place, self.n - first)
            found.append(self._epoch(epoch)[first : first + count])
            place += count
        return torch.cat(found) if found else torch.empty(0, dtype=torch.int64)

    def _epoch(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            while len(self._epochs) >= KEPT:
                del self._epochs[min(self._epochs)]
            keys = noise.bits(self.seed, self.stream, torch.arange(epoch * self.n, (epoch + 1) * self.n), 1)
            self._epochs[epoch] = keys[:, 0].argsort(stable=True)
        return self._epochs[epoch]


class BalancedOrder:
    """Every class equally often: classes take turns, each with an ``Order`` of its own records.

    Args:
        labels: of all records, int64 (n,).
        seed: which of all orders.
    """

    def __init__(self, labels: Tensor, seed: int) -> None:
        self.members = [(labels == label).nonzero().flatten() for label in labels.unique().tolist()]
        self.turns = Order(len(self.members), seed, "order-classes")
        self.within = [Order(len(own), seed, f"order-class-{index}") for index, own in enumerate(self.members)]

    def records(self, start: int, size: int) -> Tensor:
        """Records at places ``start`` to ``start + size``: int64 (size,)."""
        classes = self.turns.records(start, size)
        rounds = torch.arange(start, start + size) // len(self.members)  # each class has one place in every round
        found = torch.empty(size, dtype=torch.int64)
        for index in classes.unique().tolist():
            places = (classes == index).nonzero().flatten()
            first = int(rounds[places[0]])
            found[places] = self.members[index][self.within[index].records(first, len(places))]
        return found
