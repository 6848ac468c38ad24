"""What every data set of encoded pictures has in common, whatever holds them, and how one picture is made ready."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from poise.data.pictures import UNREADABLE, Pixels, fitted, scaled

FORMAT = 1  # of prepared pixels; raised when the same pictures would give other ones
RGB = tuple[int, int, int]


class BrokenImage(ValueError):
    """A picture that cannot be used; the message has its place and the reason."""


class Collection(Protocol):
    """Pictures by number: a folder, a zip, lmdb, tar shards, a table.

    Attributes:
        name: of the whole, for people. classes: their names; none: unlabelled.
        labels: int64 (n,), 0 to len(classes) − 1; zeros where there are no classes.
    """

    name: str
    classes: list[str]
    labels: Tensor

    @property
    def threads(self) -> int | None:
        """That may read at once; None: as many as there are cores."""
        ...

    def __len__(self) -> int: ...

    def pixels(self, index: int, background: RGB) -> Pixels:
        """A picture decoded, upright, over the background: uint8 (H, W, 3); raises one of UNREADABLE."""
        ...

    def where(self, index: int) -> str:
        """The picture's place, for people."""
        ...

    def fingerprint(self) -> str:
        """Hexadecimal digits that change with any picture."""
        ...


@dataclass(frozen=True)
class Reading:
    """What is done to each picture: ``reading(index)`` → uint8 (resolution, resolution, 3), or BrokenImage.

    Args:
        pictures: what there is.
        resolution, crop: as ``fitted`` takes them, pixels.
        background: RGB 0–255, seen through transparent pictures.
        whole: leave the cutting for later: uint8 (H, W, 3), neither side below resolution, as ``scaled`` gives it.
        resize: False: a square that is not of the resolution already is refused.
    """

    pictures: Collection
    resolution: int
    crop: int | None = None
    background: RGB = (255, 255, 255)
    whole: bool = False
    resize: bool = True

    def __call__(self, index: int) -> Pixels:
        try:
            return self.made(self.pictures.pixels(index, self.background))
        except UNREADABLE as error:
            raise BrokenImage(f"{self.pictures.where(index)} cannot be used: {error}") from error

    def made(self, pixels: Pixels) -> Pixels:
        """The same of a decoded picture, uint8 (H, W, 3). Raises ValueError where it does not fit."""
        height, width = pixels.shape[:2]
        if not self.resize and (self.crop or height, self.crop or width) != (self.resolution, self.resolution):
            raise ValueError(
                f"it is {width}×{height} pixels, not {self.resolution}×{self.resolution}, and resize is false; "
                f"set resize=true, or crop={self.resolution} to cut"
            )
        return (scaled if self.whole else fitted)(pixels, self.resolution, self.crop)

    def fingerprint(self) -> str:
        """64 hexadecimal digits that change with any picture and with what is done to it."""
        done = [FORMAT, self.resolution, self.crop, self.background, self.whole, self.resize]
        return hashlib.sha256((self.pictures.fingerprint() + json.dumps(done)).encode()).hexdigest()
