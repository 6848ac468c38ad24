"""Images of a finite data set as training sees them: shuffled, flipped, in whole batches.

Where the pixels are is the store's affair: a tensor in memory, a memory-mapped file, or files decoded on demand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from poise import noise, replicas
from poise.data.order import BalancedOrder, Order

CROP_AT = ("centre", "random")
LARGEST = 2**63 - 1
FEW = 1000
"""images below which a discriminator learns them by heart in no time (Zhao et al. 2020, arXiv 2006.10738)"""


class Store(Protocol):
    """Pixels by record."""

    def __len__(self) -> int: ...

    def read(self, records: Tensor) -> Tensor:
        """uint8 (size, H, W, 3) of records, int64 (size,); a new tensor."""
        ...

    def prefetch(self, records: Tensor) -> None:
        """Begin with what will be asked for next, where that spares time."""
        ...

    def shown(self, records: Tensor) -> Tensor:
        """Which records were read: those asked for, but for broken ones that others stand in for."""
        ...


@runtime_checkable
class Cuttable(Store, Protocol):
    """A store of whole pictures, of sizes of their own, of which squares are cut out."""

    def cut(self, records: Tensor, drawn: Tensor) -> Tensor:
        """uint8 (size, resolution, resolution, 3): of each record, int64 (size,), the square that was drawn.

        Args:
            drawn: int64 (size, 2), large numbers ≥ 0; modulo the places that fit, the square's top and left.
        """
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

    def shown(self, records: Tensor) -> Tensor:
        """All as asked."""
        return records


class Uncut:
    """Whole pictures one after the other in one tensor.

    Args:
        pixels: uint8, flat: each picture's rows of pixels of 3 values.
        sizes: int64 (n, 2), heights and widths, pixels.
        resolution: side of the squares cut out, pixels.
    """

    def __init__(self, pixels: Tensor, sizes: Tensor, resolution: int) -> None:
        self.pixels, self.sizes, self.resolution = pixels, sizes, resolution
        self.ends = (sizes.prod(1) * 3).cumsum(0)

    def __len__(self) -> int:
        return len(self.sizes)

    def read(self, records: Tensor) -> Tensor:
        """The centred squares."""
        return squares(self._whole(records), self.resolution)

    def cut(self, records: Tensor, drawn: Tensor) -> Tensor:
        """The squares drawn."""
        return squares(self._whole(records), self.resolution, drawn)

    def prefetch(self, records: Tensor) -> None:
        """Nothing."""

    def shown(self, records: Tensor) -> Tensor:
        """All as asked."""
        return records

    def _whole(self, records: Tensor) -> list[Tensor]:
        sizes, ends = self.sizes[records].tolist(), self.ends[records].tolist()
        return [self.pixels[end - h * w * 3 : end].view(h, w, 3) for (h, w), end in zip(sizes, ends, strict=True)]


def squares(whole: Sequence[Tensor], side: int, drawn: Tensor | None = None) -> Tensor:
    """A square of each picture, uint8 (n, side, side, 3): in the centre, or drawn as ``Cuttable.cut`` says."""
    room = torch.tensor([picture.shape[:2] for picture in whole]) - side
    corners = room // 2 if drawn is None else drawn % (room + 1)
    found = torch.empty(len(whole), side, side, 3, dtype=torch.uint8)
    # One by one: an index of every pixel would be larger than the pixels.
    for square, picture, (top, left) in zip(found, whole, corners.tolist(), strict=True):
        square.copy_(picture[top : top + side, left : left + side])
    return found


class StoredImages:
    """A finite data set as an endless series: ``batch(start, size)`` is a pure function of (seed, start, size).

    Args:
        store: the pixels, all of one size.
        labels: int64 (n,); with num_classes 0 they are given out, and mean nothing.
        num_classes: labels are 0 to num_classes − 1; 0: unlabelled.
        seed: which of all orders.
        flip: mirror every second image, drawn at random, left to right.
        balanced: every class equally often.
        crop_at: "centre", or "random": from a ``Cuttable`` store, another square each time.

    Raises:
        ValueError: no images, labels that do not fit, an unknown ``crop_at``, or classes without images where they are
            to be balanced.
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
        crop_at: str = "centre",
    ) -> None:
        if crop_at not in CROP_AT:
            raise ValueError(f"crop_at is {crop_at!r}; allowed: {' and '.join(map(repr, CROP_AT))}")
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
                f"labels have gaps: no image of class {listed}; leave such classes out and number the others "
                f"0 to {len(present) - 1}"
            )
        if balanced and not num_classes:
            raise ValueError("balanced sampling needs classes; this data set has none")
        self.store, self.labels, self.num_classes, self.resolution = store, labels, num_classes, resolution
        self.flip = noise.Ahead(noise.bits, seed, "flip", 1) if flip else None
        self.corners = noise.Ahead(noise.bits, seed, "crop", 2) if crop_at == "random" else None
        self.cut = store.cut if isinstance(store, Cuttable) else None
        if self.corners is not None and self.cut is None:
            raise ValueError("crop_at is 'random', but the store holds squares that are cut already; use 'centre'")
        self.order = BalancedOrder(labels, seed) if balanced else Order(len(store), seed)

    def __len__(self) -> int:
        return len(self.store)

    def batch(self, start: int, size: int) -> tuple[Tensor, Tensor]:
        """Images number ``start`` to ``start + size``: uint8 (size, 3, H, W) channels-last, int64 labels (size,)."""
        records = self.order.records(start, size)
        if self.cut is None or self.corners is None:
            pixels = self.store.read(records)
        else:
            pixels = self.cut(records, self.corners(start, size) & LARGEST)
        following = start + size * replicas.place()[1]  # in between are the other processes' parts
        self.store.prefetch(self.order.records(following, size))
        if self.flip is not None:
            pixels = mirrored(pixels, self.flip(start, size)[:, 0] < 0)
        return pixels.permute(0, 3, 1, 2), self.labels[self.store.shown(records)]


def mirrored(pixels: Tensor, chosen: Tensor) -> Tensor:
    """Images (n, H, W, 3), the chosen ones mirrored left to right; rows are copied whole, which is quickest."""
    n, turned = len(pixels), chosen.nonzero().flatten()
    row = torch.arange(n)
    row[turned] = torch.arange(n, n + len(turned))
    return torch.cat([pixels, pixels.index_select(0, turned).flip(2)]).index_select(0, row)
