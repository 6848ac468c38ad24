"""Pictures decoded when they are asked for, for data sets too large to be prepared.

Nothing is lost by that but speed: places are asked for in any order, so that a batch is the same as from memory. While
one batch is used the next of its size is already being decoded.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from poise.data.pictures import Pixels
from poise.data.prepared import BrokenImage


class Streamed:
    """A store that decodes.

    Args:
        n: records.
        read: record ↦ uint8 (H, W, 3); raises BrokenImage.
        on_error: "stop" raises for a broken picture; "skip" puts the next record in its place and warns, once for each.
        workers: threads; one for each core by default.
    """

    def __init__(
        self, n: int, read: Callable[[int], Pixels], on_error: str = "stop", workers: int | None = None
    ) -> None:
        self.n, self._read, self.on_error = n, read, on_error
        self.broken: dict[int, str] = {}
        self._threads = ThreadPoolExecutor(workers or os.cpu_count())
        self._ahead: dict[tuple[int, ...], list[Future[Pixels]]] = {}

    def __len__(self) -> int:
        return self.n

    def read(self, records: Tensor) -> Tensor:
        """uint8 (size, H, W, 3) of records, int64 (size,)."""
        key = tuple(records.tolist())
        waiting = self._ahead.pop(key, None) or self._begin(key)
        return torch.from_numpy(np.stack([future.result() for future in waiting]))

    def prefetch(self, records: Tensor) -> None:
        """Begin with records that will be asked for next; only the last such call's are kept."""
        key = tuple(records.tolist())
        if key not in self._ahead:
            self._ahead = {key: self._begin(key)}

    def _begin(self, records: tuple[int, ...]) -> list[Future[Pixels]]:
        return [self._threads.submit(self._attempt, record) for record in records]

    def _attempt(self, record: int) -> Pixels:
        if self.on_error == "stop":
            return self._read(record)
        for candidate in range(record, record + self.n):
            candidate %= self.n
            if candidate in self.broken:
                continue
            try:
                return self._read(candidate)
            except BrokenImage as error:
                self.broken[candidate] = str(error)
                warnings.warn(f"skipped, {len(self.broken)} so far: {error}", RuntimeWarning, stacklevel=2)
        raise BrokenImage(f"all {self.n} images are broken; the first: {next(iter(self.broken.values()))}")
