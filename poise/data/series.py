"""Images of a source that can only be read from front to back, shard by shard, as training sees them.

What such a source allows: each epoch takes the shards in a permutation that is a function of (seed, epoch), and their
records pass through a buffer from which the next one is drawn, a function of (seed, epoch, draw). So the series is a
pure function of (seed, position), as with every other source, and a run resumes bit for bit. What it does not allow is
to begin in the middle: to get to a position, the records of its epoch before it are read again, though not decoded; and
those of the epochs before too, unless the source says how many records it has. Every process of several reads all.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from poise import noise
from poise.data.order import Order
from poise.data.pictures import Pixels
from poise.data.reading import BrokenImage
from poise.data.stored import FEW, LARGEST, mirrored, squares

READERS = 2  # at once: a generator's update may ask for other images than the discriminator's
STANDING_IN = 100  # records tried in a broken one's place
AT_ONCE = 4096  # draws

Record = tuple[Any, str]  # what the source gave, and its place for people


class Series:
    """An endless series of images from shards that are read from front to back.

    Args:
        shards: how many.
        read: shard's number ↦ its records, always the same in the same order.
        decode: record ↦ uint8 (H, W, 3), neither side below the resolution, and its label.
        resolution: height and width, pixels; ``crop_at`` says which square of the picture.
        name: of the source, for people.
        num_classes: labels are 0 to num_classes − 1; 0: unlabelled.
        length: records in all shards, if known.
        buffer: records from which the next is drawn; a source already shuffled needs few.
        seed, flip, crop_at, on_error: as ``folder``'s.
    """

    def __init__(
        self,
        shards: int,
        read: Callable[[int], Iterable[Any]],
        decode: Callable[[Any], tuple[Pixels, int]],
        resolution: int,
        name: str,
        num_classes: int = 0,
        length: int | None = None,
        buffer: int = 1000,
        seed: int = 0,
        flip: bool = False,
        crop_at: str = "centre",
        on_error: str = "stop",
    ) -> None:
        if buffer < 1:
            raise ValueError(f"buffer is {buffer}; needed: at least 1 record to draw from")
        if length is not None and length < FEW:
            few = f"{length} images are few: a discriminator soon knows them by heart"
            warnings.warn(few, RuntimeWarning, stacklevel=3)
        self.shards, self.read, self.decode, self.name = shards, read, decode, name
        self.resolution, self.num_classes, self.length = resolution, num_classes, length
        self.buffer, self.seed, self.on_error = buffer, seed, on_error
        self.flip = noise.Ahead(noise.bits, seed, "flip", 1) if flip else None
        self.corners = noise.Ahead(noise.bits, seed, "crop", 2) if crop_at == "random" else None
        self.broken: set[str] = set()
        self._counting = threading.Lock()
        self._readers: list[Reader] = []  # the one used last comes last
        self._turn, self._decoders = ThreadPoolExecutor(1), ThreadPoolExecutor(os.cpu_count())
        self._ahead: dict[tuple[int, int], Future[tuple[Tensor, Tensor]]] = {}

    def batch(self, start: int, size: int) -> tuple[Tensor, Tensor]:
        """Images number ``start`` to ``start + size``: uint8 (size, 3, H, W) channels-last, int64 labels (size,).

        Raises:
            BrokenImage: unless it is to be skipped; then the next that can be used stands in.
            ValueError: a source that changes, or has a label that it should not.
        """
        waiting = self._ahead.pop((start, size), None) or self._turn.submit(self._made, start, size)
        found = waiting.result()
        following = (start + size, size)
        if following not in self._ahead:
            self._ahead = {following: self._turn.submit(self._made, *following)}
        return found

    def _made(self, start: int, size: int) -> tuple[Tensor, Tensor]:
        reader = self._reader(start)
        tried = list(self._decoders.map(self._attempt, [reader.at(start + i) for i in range(size)]))
        whole, labels = [], []
        for place, found in enumerate(tried, start):
            following = place
            while isinstance(found, BrokenImage):
                following += 1
                if following > place + STANDING_IN:
                    raise BrokenImage(f"{STANDING_IN} images one after the other cannot be used; the last: {found}")
                found = self._attempt(reader.at(following))
            whole.append(torch.from_numpy(found[0]))
            labels.append(found[1])
        drawn = self.corners(start, size) & LARGEST if self.corners is not None else None
        pixels = squares(whole, self.resolution, drawn)
        if self.flip is not None:
            pixels = mirrored(pixels, self.flip(start, size)[:, 0] < 0)
        return pixels.permute(0, 3, 1, 2), torch.tensor(labels, dtype=torch.int64)

    def _attempt(self, record: Record) -> tuple[Pixels, int] | BrokenImage:
        given, where = record
        try:
            pixels, label = self.decode(given)
        except BrokenImage as error:
            told = f"{where} cannot be used: {error}"
            if self.on_error == "stop":
                raise BrokenImage(told) from error
            with self._counting:
                new = where not in self.broken
                self.broken.add(where)
            if new:
                warnings.warn(f"skipped, {len(self.broken)} so far: {told}", RuntimeWarning, stacklevel=2)
            return BrokenImage(told)
        if self.num_classes and not 0 <= label < self.num_classes:
            raise ValueError(f"{where} has label {label}; {self.num_classes} classes were said, 0 to one less")
        return np.require(pixels, requirements="W"), label

    def _reader(self, start: int) -> Reader:
        """One that stands at or before the place, nearest; else a new one."""
        before = [reader for reader in self._readers if reader.first <= start]
        reader = max(before, key=lambda reader: reader.first) if before else Reader(self, start)
        self._readers = [*(other for other in self._readers if other is not reader), reader][-READERS:]
        reader.forget(start)
        return reader


class Reader:
    """Records of a series from some place on; ``first`` is the earliest that can still be given."""

    def __init__(self, series: Series, start: int) -> None:
        self.series = series
        epochs = start // series.length if series.length else 0
        self.first = epochs * (series.length or 0)
        self._records = _endless(series, epochs)
        self._kept: deque[Record] = deque()

    def at(self, place: int) -> Record:
        """The record there, at ``first`` or after."""
        while place >= self.first + len(self._kept):
            self._kept.append(next(self._records))
        return self._kept[place - self.first]

    def forget(self, place: int) -> None:
        """What comes before the place, reading on to it if need be."""
        while self.first < place:
            if self._kept:
                self._kept.popleft()
            else:
                next(self._records)
            self.first += 1


def _endless(series: Series, epoch: int) -> Iterator[Record]:
    while True:
        count = 0
        for record in _epoch(series, epoch):
            count += 1
            yield record
        if not count:
            raise ValueError(f"{series.name} has no records")
        if series.length not in (None, count):
            raise ValueError(
                f"{series.name} gave {count} records where {series.length} were said or read before; it must not change"
            )
        series.length, epoch = count, epoch + 1


def _epoch(series: Series, epoch: int) -> Iterator[Record]:
    """Each record once, out of the buffer."""
    order = Order(series.shards, series.seed, "shards").records(epoch * series.shards, series.shards)
    draws, buffer = _draws(series.seed, epoch), list[Record]()
    for shard in order.tolist():
        for number, given in enumerate(series.read(shard)):
            record = (given, f"{series.name}, shard {shard}, record {number},")
            if len(buffer) < series.buffer:
                buffer.append(record)
                continue
            place = next(draws) % len(buffer)
            yield buffer[place]
            buffer[place] = record
    while buffer:
        place = next(draws) % len(buffer)
        buffer[place], buffer[-1] = buffer[-1], buffer[place]
        yield buffer.pop()


def _draws(seed: int, epoch: int) -> Iterator[int]:
    first = 0
    while True:
        places = torch.arange(first, first + AT_ONCE)
        yield from (noise.bits(seed, f"buffer-{epoch}", places, 1)[:, 0] & LARGEST).tolist()
        first += AT_ONCE
