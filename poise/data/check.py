"""A look at every picture of a folder, zip, LMDB database or tar shards before training on it."""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from poise.data.files import Pictures
from poise.data.lmdb_pictures import LmdbPictures
from poise.data.pictures import UNREADABLE
from poise.data.reading import Collection
from poise.data.shards import TarPictures
from poise.data.stored import FEW

TOLD = 5  # findings listed one by one


@dataclass(frozen=True)
class Finding:
    """What was found.

    Attributes:
        images: that can be used. classes: images by class name; empty without classes.
        sizes: images by (width, height), pixels, upright.
        broken: a line for each picture that cannot be used.
        warnings: what to think of before training, one line each.
    """

    images: int
    classes: dict[str, int]
    sizes: dict[tuple[int, int], int]
    broken: list[str]
    warnings: list[str]

    def lines(self) -> list[str]:
        """As told to people."""
        told = [f"{self.images} images" + (f" in {len(self.classes)} classes" if self.classes else ", no classes")]
        if self.classes:
            counts = sorted(self.classes.values())
            told.append(f"{counts[0]} to {counts[-1]} images a class")
        widths, heights = zip(*self.sizes, strict=True) if self.sizes else ((0,), (0,))
        told.append(f"{min(widths)}×{min(heights)} to {max(widths)}×{max(heights)} pixels, {len(self.sizes)} sizes")
        told += [f"broken: {line}" for line in self.broken[:TOLD]]
        if len(self.broken) > TOLD:
            told.append(f"broken: {len(self.broken) - TOLD} more")
        return told + [f"warning: {line}" for line in self.warnings]


def check(path: str | Path) -> Finding:
    """Decode every picture of a folder or zip, of LSUN's database, or of WebDataset's tar shards.

    Raises:
        ValueError: nothing there that could be checked.
    """
    pictures = collection(path)

    def size(index: int) -> tuple[int, int] | str:
        try:
            height, width = pictures.pixels(index, (255, 255, 255)).shape[:2]
            return width, height
        except UNREADABLE as error:
            return f"{pictures.where(index)}: {error}"

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        found = list(threads.map(size, range(len(pictures))))
    broken = [result for result in found if isinstance(result, str)]
    whole = [index for index, result in enumerate(found) if not isinstance(result, str)]
    sizes = Counter(result for result in found if not isinstance(result, str))
    classes = dict.fromkeys(pictures.classes, 0)
    for index in whole if classes else ():
        classes[pictures.classes[int(pictures.labels[index])]] += 1
    return Finding(len(whole), classes, dict(sizes), broken, _warnings(len(whole), classes, sizes, broken))


def collection(path: str | Path) -> Collection:
    """The pictures there, whatever holds them."""
    folder = Path(path).expanduser()
    if (folder / "data.mdb").exists() or any(folder.glob("*_lmdb/data.mdb")):
        return LmdbPictures(path)
    if str(path).endswith(".tar") or any(folder.glob("*.tar")):
        return TarPictures(path)
    return Pictures(path)


def _warnings(images: int, classes: dict[str, int], sizes: dict[tuple[int, int], int], broken: list[str]) -> list[str]:
    told = []
    if images < FEW:
        told.append(f"{images} images are few: a discriminator soon knows them by heart")
    empty = [name for name, count in classes.items() if not count]
    if empty:
        told.append(f"no image of class {', '.join(empty[:TOLD])} can be used; leave the class out")
    if classes and min(classes.values()) * 10 < max(classes.values()):
        told.append("some classes have ten times the images of others; balanced=true draws them equally often")
    if len(sizes) > 1:
        told.append("sizes differ: each image is cut to its largest centred square and resized to the resolution")
    if broken:
        told.append(f"{len(broken)} cannot be used: training stops at them, unless on_error=skip")
    return told
