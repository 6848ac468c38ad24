"""Pictures made ready once: decoded, cut and resized into one file that is mapped into memory ever after.

The file lies in a cache folder under a fingerprint of the pictures and of what was done to them: a changed picture or
another resolution makes another. ``POISE_CACHE`` names the folder; default ``~/.cache/poise``.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from poise.cache import cache_folder
from poise.data.pictures import Pixels
from poise.data.reading import BrokenImage, Reading
from poise.data.stored import Memory, Store, Uncut

ON_ERROR = ("stop", "skip")
AT_ONCE = 256  # pictures decoded before they are written


def prepared(reading: Reading, on_error: str = "stop", say: Callable[[str], None] = print) -> tuple[Store, Tensor]:
    """All pictures at one scale, from the cache or made for it.

    Args:
        reading: which pictures, and what is done to each.
        on_error: "stop" at a broken picture, or "skip" those and say how many.
        say: where that is said.

    Returns:
        ``Memory`` of uint8 (n, resolution, resolution, 3), or ``Uncut`` where the reading leaves pictures whole, mapped
        from the file, private to the process; int64 labels (n,).

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
    labels = pictures.labels[torch.tensor(about["records"], dtype=torch.int64)]
    sizes = torch.tensor(about["sizes"], dtype=torch.int64).view(-1, 2) if reading.whole else None
    pixels = torch.from_file(
        str(folder / "pixels.uint8"),
        shared=False,
        size=about["images"] * side**2 * 3 if sizes is None else int(sizes.prod(1).sum()) * 3,
        dtype=torch.uint8,
    )
    if sizes is None:
        return Memory(pixels.view(about["images"], side, side, 3)), labels
    return Uncut(pixels, sizes, side), labels


def beyond_disk(reading: Reading) -> str:
    """Why the prepared file would not fit on the cache's disk; "" where it does, or lies there already."""
    folder = cache_folder() / reading.fingerprint()[:32]
    if (folder / "about.json").exists():
        return ""
    folder.parent.mkdir(parents=True, exist_ok=True)
    needed, free = len(reading.pictures) * reading.resolution**2 * 3, shutil.disk_usage(folder.parent).free
    if needed < free:
        return ""
    return f"{needed / 1e9:.1f} GB of prepared images do not fit into {folder.parent}, with {free / 1e9:.1f} GB free"


def _prepare(reading: Reading, folder: Path, on_error: str) -> None:
    """Write the cache's folder under a temporary name, then rename it: another process may be at it too."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="making-", dir=folder.parent))
    records, skipped, sizes = [], [], []
    try:
        with (work / "pixels.uint8").open("wb") as file:
            for index, result in _each(reading):
                if isinstance(result, BrokenImage):
                    if on_error == "stop":
                        raise result
                    skipped.append(str(result))
                    continue
                records.append(index)
                sizes.append(result.shape[:2])
                file.write(result.tobytes())
            file.flush()
            os.fsync(file.fileno())
        if not records:
            raise ValueError(f"no image of {reading.pictures.name} can be used; the first: {skipped[0]}")
        about = {"source": reading.pictures.name, "images": len(records), "records": records, "skipped": skipped}
        about |= {"sizes": sizes} if reading.whole else {}
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
    with ThreadPoolExecutor(reading.pictures.threads or os.cpu_count()) as threads:
        for first in range(0, n, AT_ONCE):
            indices = range(first, min(first + AT_ONCE, n))
            yield from zip(indices, threads.map(attempt, indices), strict=True)
