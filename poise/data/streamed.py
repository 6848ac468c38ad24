"""Pictures decoded when they are asked for, for data sets too large to be prepared.

Nothing is lost by that but speed: places are asked for in any order, so that a batch is the same as from memory. While
one batch is used the next of its size is already being decoded.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from poise.data.pictures import Pixels
from poise.data.reading import BrokenImage
from poise.data.stored import squares


class Streamed:
    """A store that decodes.

    Args:
        n: records.
        read: record ↦ uint8 (H, W, 3), all of one size, or of sizes of their own with a resolution; raises BrokenImage.
        on_error: "stop" raises for a broken picture; "skip" lets the next record stand in and warns, once for each.
        workers: threads; one for each core by default.
        resolution: side of the squares that are cut out of pictures left whole, pixels.
    """

    def __init__(
        self,
        n: int,
        read: Callable[[int], Pixels],
        on_error: str = "stop",
        workers: int | None = None,
        resolution: int | None = None,
    ) -> None:
        self.n, self._read, self.on_error, self.resolution = n, read, on_error, resolution
        self.broken: dict[int, str] = {}
        self._counting = threading.Lock()
        self._threads = ThreadPoolExecutor(workers or os.cpu_count())
        self._ahead: dict[tuple[int, ...], list[Future[Pixels]]] = {}

    def __len__(self) -> int:
        return self.n

    def read(self, records: Tensor) -> Tensor:
        """uint8 (size, H, W, 3) of records, int64 (size,); of whole pictures, their centred squares."""
        whole = self._pictures(records)
        return torch.stack(whole) if self.resolution is None else squares(whole, self.resolution)

    def cut(self, records: Tensor, drawn: Tensor) -> Tensor:
        """The squares drawn, of whole pictures; see ``Cuttable``."""
        if self.resolution is None:
            raise ValueError("pictures are cut already; give a resolution and leave them whole")
        return squares(self._pictures(records), self.resolution, drawn)

    def prefetch(self, records: Tensor) -> None:
        """Begin with records that will be asked for next; only the last such call's are kept."""
        key = tuple(records.tolist())
        if key not in self._ahead:
            self._ahead = {key: self._begin(key)}

    def shown(self, records: Tensor) -> Tensor:
        """The records, those that stand in for broken ones among them."""
        if not self.broken:
            return records
        return torch.tensor([self._sound(record) for record in records.tolist()], dtype=torch.int64)

    def _pictures(self, records: Tensor) -> list[Tensor]:
        key = tuple(records.tolist())
        waiting = self._ahead.pop(key, None) or self._begin(key)
        return [torch.from_numpy(future.result()) for future in waiting]

    def _begin(self, records: tuple[int, ...]) -> list[Future[Pixels]]:
        return [self._threads.submit(self._attempt, record) for record in records]

    def _sound(self, record: int) -> int:
        """The record, or the next not known to be broken."""
        for candidate in range(record, record + self.n):
            if candidate % self.n not in self.broken:
                return candidate % self.n
        raise BrokenImage(f"all {self.n} images are broken; the first: {next(iter(self.broken.values()))}")

    def _attempt(self, record: int) -> Pixels:
        if self.on_error == "stop":
            return self._read(record)
        while True:
            candidate = self._sound(record)
            try:
                return self._read(candidate)
            except BrokenImage as error:
                with self._counting:
                    new = candidate not in self.broken
                    self.broken[candidate] = str(error)
                if new:
                    warnings.warn(f"skipped, {len(self.broken)} so far: {error}", RuntimeWarning, stacklevel=2)
