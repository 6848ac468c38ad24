"""Images of a finite data set as training sees them: shuffled, flipped, in whole batches.

Where the pixels are is the store's affair: a tensor in memory, a memory-mapped file, or files decoded on demand.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from poise import noise, replicas
from poise.data.order import BalancedOrder, Order

COINS = 2**14  # places whose mirroring is drawn at once


class Store(Protocol):
    """Pixels by record."""

    def __len__(self) -> int: ...

    def read(self, records: Tensor) -> Tensor:
        """uint8 (size, H, W, 3) of records, int64 (size,); a new tensor."""
        ...

    def prefetch(self, records: Tensor) -> None:
        """Begin with what will be asked for next, where that spares time."""
        ...


class Memory:
    """A store in memory, or mapped from a file by its page cache.

    Args:
        pixels: uint8 (n, H, W, 3).
    """

    def __init__(self, pixels: Tensor) -> None:
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
            given = f"{str(pixels.dtype).removeprefix('torch.')} of shape {tuple(pixels.shape)}"
            raise ValueError(f"pixels are {given}; needed: uint8 (n, H, W, 3)")
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, records: Tensor) -> Tensor:
        return self.pixels.index_select(0, records)

    def prefetch(self, records: Tensor) -> None:
        """Nothing: reading takes no time worth sparing."""


class StoredImages:
    """A finite data set as an endless series: ``batch(start, size)`` is a pure function of (seed, start, size).

    Args:
        store: the pixels, all of one size.
        labels: int64 (n,); with num_classes 0 they are given out, and mean nothing.
        num_classes: labels are 0 to num_classes − 1; 0: unlabelled.
        seed: which of all orders.
        flip: mirror every second image, drawn at random, left to right.
        balanced: every class equally often.

    Raises:
        ValueError: no images, labels that do not fit, or classes without images where they are to be balanced.
    """

    def __init__(
        self,
        store: Store,
        labels: Tensor,
        num_classes: int,
        resolution: int,
        seed: int = 0,
        flip: bool = False,
        balanced: bool = False,
    ) -> None:
        if not len(store) or labels.shape != (len(store),):
            raise ValueError(
                f"there are {len(store)} images and labels of shape {tuple(labels.shape)}; needed: as many"
            )
        present = torch.unique(labels)
        if num_classes and (int(present[0]) < 0 or int(present[-1]) >= num_classes):
            raise ValueError(
                f"labels run from {int(present[0])} to {int(present[-1])}; {num_classes} classes were said"
            )
        if num_classes and len(present) < num_classes:
            absent = sorted(set(range(num_classes)) - set(present.tolist()))
            listed = ", ".join(map(str, absent[:5])) + (" …" if len(absent) > 5 else "")
            raise ValueError(
                f"labels have gaps: no image of class {listed}; number the classes 0 to {len(present) - 1}"
            )
        if balanced and not num_classes:
            raise ValueError("balanced sampling needs classes; this data set has none")
        self.store, self.labels, self.num_classes, self.resolution = store, labels, num_classes, resolution
        self.seed, self.flip = seed, flip
        self._blocks: dict[int, Tensor] = {}
        self.order = BalancedOrder(labels, seed) if balanced else Order(len(store), seed)

    def __len__(self) -> int:
        return len(self.store)

    def batch(self, start: int, size: int) -> tuple[Tensor, Tensor]:
        """Images number ``start`` to ``start + size``: uint8 (size, 3, H, W) channels-last, int64 labels (size,)."""
        records = self.order.records(start, size)
        pixels = self.store.read(records)
        following = start + size * replicas.place()[1]  # in between are the other processes' parts
        self.store.prefetch(self.order.records(following, size))
        if self.flip:
            pixels = _mirrored(pixels, self._coins(start, size))
        return pixels.permute(0, 3, 1, 2), self.labels[records]

    def _coins(self, start: int, size: int) -> Tensor:
        """Which places are mirrored, bool (size,); found for many at once, since few cost as much."""
        first, last = start // COINS, (start + size - 1) // COINS
        for block in range(first, last + 1):
            if block not in self._blocks:
                while len(self._blocks) >= max(2, last - first + 1):
                    del self._blocks[next(iter(self._blocks))]
                places = torch.arange(block * COINS, (block + 1) * COINS)
                self._blocks[block] = noise.bits(self.seed, "flip", places, 1)[:, 0] < 0
        found = torch.cat([self._blocks[block] for block in range(first, last + 1)])
        return found[start - first * COINS :][:size]


def _mirrored(pixels: Tensor, chosen: Tensor) -> Tensor:
    """Images (n, H, W, 3), the chosen ones mirrored left to right; rows are copied whole, which is quickest."""
    n, turned = len(pixels), chosen.nonzero().flatten()
    row = torch.arange(n)
    row[turned] = torch.arange(n, n + len(turned))
    return torch.cat([pixels, pixels.index_select(0, turned).flip(2)]).index_select(0, row)
