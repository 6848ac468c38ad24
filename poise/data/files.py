"""Pictures in a folder or a zip file: which there are, their classes, and how one is opened.

Folders in the first level are classes, in the order of their names, as in torchvision's ImageFolder; pictures that all
lie at the top have none.
"""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import torch
from torch import Tensor

from poise.data.pictures import Pixels, decoded
from poise.data.reading import RGB

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")


@dataclass(frozen=True)
class Entry:
    """A picture's name within its folder or zip, its size in bytes and a stamp that changes with its content."""

    name: str
    size: int
    stamp: int


class Pictures:
    """The pictures of a folder, with all folders below it, or of a zip file, in the order of their names.

    Args:
        path: the folder or .zip file.
        part: which pictures to take, by their names; all by default.

    Raises:
        ValueError: nothing there, no picture in it, or pictures both at the top and in folders.
    """

    def __init__(self, path: str | Path, part: Callable[[str], bool] | None = None) -> None:
        self.path, self.name = Path(path).expanduser(), str(path)
        self.threads: int | None = None
        if not self.path.exists():
            raise ValueError(f"{path} does not exist; give a folder or zip file of images")
        self.is_zip = self.path.is_file()
        if self.is_zip and not zipfile.is_zipfile(self.path):
            raise ValueError(f"{path} is a file but no zip; give a folder or zip file of images")
        self.entries: Sequence[Entry] = sorted(self._found(), key=lambda entry: entry.name)
        if part is not None:
            self.entries = [entry for entry in self.entries if part(entry.name)]
        if not self.entries:
            raise ValueError(f"{path} has no images; known endings: {', '.join(SUFFIXES)}")
        tops = [PurePosixPath(entry.name).parts[0] if "/" in entry.name else None for entry in self.entries]
        if None in tops and len(set(tops)) > 1:
            loose = next(entry.name for entry in self.entries if "/" not in entry.name)
            raise ValueError(
                f"{path} has images both at the top ({loose}) and in folders ({next(filter(None, tops))}); folders are "
                "classes: move the loose images into one, or give a single class's folder"
            )
        self.classes = sorted(set(filter(None, tops)))
        number = {name: index for index, name in enumerate(self.classes)}
        self.labels: Tensor = torch.tensor([number[top] if top else 0 for top in tops], dtype=torch.int64)
        self._local = threading.local()  # a zip file cannot be read by two threads at once

    def __len__(self) -> int:
        return len(self.entries)

    def open(self, index: int) -> IO[bytes]:
        """The picture as a stream of bytes."""
        name = self.entries[index].name
        if not self.is_zip:
            return (self.path / name).open("rb")
        if not hasattr(self._local, "zip"):
            self._local.zip = zipfile.ZipFile(self.path)
        archive: zipfile.ZipFile = self._local.zip
        return io.BytesIO(archive.read(name))

    def pixels(self, index: int, background: RGB) -> Pixels:
        """The picture decoded."""
        with self.open(index) as file:
            return decoded(file, background)

    def where(self, index: int) -> str:
        """The picture's place, for people."""
        return f"{self.path}{':' if self.is_zip else '/'}{self.entries[index].name}"

    def fingerprint(self) -> str:
        """64 hexadecimal digits that change with any name, size or date."""
        told = hashlib.sha256()
        for entry in self.entries:
            told.update(f"{entry.name}\0{entry.size}\0{entry.stamp}\n".encode())
        return told.hexdigest()

    def _found(self) -> list[Entry]:
        if self.is_zip:
            with zipfile.ZipFile(self.path) as archive:
                infos = [info for info in archive.infolist() if _is_picture(info.filename) and not info.is_dir()]
                return [Entry(info.filename, info.file_size, info.CRC) for info in infos]
        found = []
        for file in self.path.rglob("*"):
            name = file.relative_to(self.path).as_posix()
            if _is_picture(name) and file.is_file():
                status = file.stat()
                found.append(Entry(name, status.st_size, status.st_mtime_ns))
        return found


def _is_picture(name: str) -> bool:
    """By its ending; what a Mac or an editor hides beside is none."""
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not any(part.startswith((".", "__MACOSX")) for part in path.parts)
