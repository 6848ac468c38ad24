"""Pictures made ready once: decoded, cut and resized into one file that is mapped into memory ever after.

The file lies in a cache folder under a fingerprint of the pictures and of what was done to them: a changed picture or
another resolution makes another. ``POISE_CACHE`` names the folder; default ``~/.cache/poise``.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from poise.data.files import Pictures
from poise.data.pictures import Pixels, decoded, fitted

ON_ERROR = ("stop", "skip")
FORMAT = 1  # of the cached file; raised when the same pictures would give other pixels
AT_ONCE = 256  # pictures decoded before they are written


class BrokenImage(ValueError):
    """A picture that cannot be read; the message has its path and the reason."""


def cache_folder() -> Path:
    """Where prepared images are kept."""
    given = os.environ.get("POISE_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "poise"


@dataclass(frozen=True)
class Reading:
    """What is done to each picture: ``reading(index)`` → uint8 (resolution, resolution, 3), or BrokenImage.

    Args:
        pictures: what there is.
        resolution, crop: as ``fitted`` takes them, pixels.
        background: RGB 0–255, seen through transparent pictures.
    """

    pictures: Pictures
    resolution: int
    crop: int | None = None
    background: tuple[int, int, int] = (255, 255, 255)

    def __call__(self, index: int) -> Pixels:
        try:
            with self.pictures.open(index) as file:
                return fitted(decoded(file, self.background), self.resolution, self.crop)
        except (OSError, ValueError, SyntaxError) as error:  # Pillow says a broken PNG with the last
            raise BrokenImage(f"{self.pictures.where(index)} cannot be used: {error}") from error

    def fingerprint(self) -> str:
        """64 hexadecimal digits that change with any picture and with what is done to it."""
        done = [FORMAT, self.resolution, self.crop, self.background]
        return hashlib.sha256((self.pictures.fingerprint() + json.dumps(done)).encode()).hexdigest()


def prepared(reading: Reading, on_error: str = "stop", say: Callable[[str], None] = print) -> tuple[Tensor, Tensor]:
    """All pictures at one size, from the cache or made for it.

    Args:
        reading: which pictures, and what is done to each.
        on_error: "stop" at a broken picture, or "skip" those and say how many.
        say: where that is said.

    Returns:
        uint8 (n, resolution, resolution, 3), mapped from the file, private to the process; int64 labels (n,).

    Raises:
        BrokenImage: with "stop".
        ValueError: an unknown ``on_error``, or every picture is broken.
    """
    if on_error not in ON_ERROR:
        raise ValueError(f"on_error is {on_error!r}; allowed: {' and '.join(map(repr, ON_ERROR))}")
    pictures, side = reading.pictures, reading.resolution
    folder = cache_folder() / reading.fingerprint()[:32]
    if not (folder / "about.json").exists():
        _prepare(reading, folder, on_error)
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    if about["skipped"] and on_error == "stop":
        raise BrokenImage(about["skipped"][0])
    if about["skipped"]:
        say(f"{len(about['skipped'])} of {len(pictures)} images skipped, the first: {about['skipped'][0]}")
    shape = (about["images"], side, side, 3)
    pixels = torch.from_file(str(folder / "pixels.uint8"), shared=False, size=math.prod(shape), dtype=torch.uint8)
    return pixels.view(shape), pictures.labels[torch.tensor(about["records"], dtype=torch.int64)]


def _prepare(reading: Reading, folder: Path, on_error: str) -> None:
    """Write the cache's folder under a temporary name, then rename it: another process may be at it too."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="making-", dir=folder.parent))
    records, skipped = [], []
    try:
        with (work / "pixels.uint8").open("wb") as file:
            for index, result in _each(reading):
                if isinstance(result, BrokenImage):
                    if on_error == "stop":
                        raise result
                    skipped.append(str(result))
                    continue
                records.append(index)
                file.write(result.tobytes())
            file.flush()
            os.fsync(file.fileno())
        if not records:
            raise ValueError(f"no image of {reading.pictures.path} can be used; the first: {skipped[0]}")
        about = {"source": str(reading.pictures.path), "images": len(records), "records": records, "skipped": skipped}
        (work / "about.json").write_text(json.dumps(about), encoding="utf-8")
        try:
            work.rename(folder)
        except OSError:
            if not (folder / "about.json").exists():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _each(reading: Reading) -> Iterator[tuple[int, Pixels | BrokenImage]]:
    """All records in order, decoded by a thread for each core: Pillow lets go of the interpreter meanwhile."""

    def attempt(index: int) -> Pixels | BrokenImage:
        try:
            return reading(index)
        except BrokenImage as error:
            return error

    n = len(reading.pictures)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for first in range(0, n, AT_ONCE):
            indices = range(first, min(first + AT_ONCE, n))
            yield from zip(indices, threads.map(attempt, indices), strict=True)
