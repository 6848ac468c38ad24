"""Tar shards as WebDataset writes them, read at random.

WebDataset reads shards from front to back and shuffles in a buffer. Here the headers are read once and kept in the
cache; after that each picture is one seek and one read, so that the order is a permutation of all pictures, a pure
function of (seed, position), and a run resumes anywhere at once. The price: shards lie on disks, uncompressed.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import re
import tarfile
import tempfile
from pathlib import Path
from typing import IO, Any

import torch

from poise.cache import cache_folder
from poise.data.files import SUFFIXES
from poise.data.pictures import Pixels, decoded
from poise.data.reading import RGB

BRACES = re.compile(r"\{([^{}]*)\}")


class TarPictures:
    """One picture for each key of the shards that has one, in the order of the shards and of their members.

    Args:
        path: a shard; or several, as train-{000..146}.tar, {a,b}.tar, train-*.tar, or the folder they lie in.
        label: what holds the class number: "cls", or "json:field"; "": "cls" if the first key has it; "none": nothing.

    Raises:
        ValueError: no shards, one missing, compressed or broken off, no picture, or a key without the label.
    """

    def __init__(self, path: str | Path, label: str = "") -> None:
        if label not in ("", "none", "cls") and not re.fullmatch("json:.+", label):
            raise ValueError(f"label is {label!r}; allowed: 'cls', 'json:field', 'none', or '' for cls if there is one")
        self.name, self.threads = str(path), None
        self.shards = shards(str(path))
        found = [_indexed(shard, label) for shard in self.shards]
        self.members: list[tuple[int, str, int, int]] = []
        labels: list[int | None] = []
        for number, samples in enumerate(found):
            self.members += [(number, name, offset, size) for name, offset, size, _ in samples]
            labels += [sample[3] for sample in samples]
        if not self.members:
            raise ValueError(f"{path} has no images in {len(self.shards)} shards; known endings: {', '.join(SUFFIXES)}")
        labelled = label not in ("", "none") or (label == "" and labels[0] is not None)
        if labelled and None in labels:
            where = self.where(labels.index(None))
            raise ValueError(f"{where} has no {label or 'cls'} beside it; label=none trains without labels")
        numbers = [number or 0 for number in labels] if labelled else [0] * len(labels)
        self.labels = torch.tensor(numbers, dtype=torch.int64)
        self.classes = [str(number) for number in range(max(numbers) + 1)] if labelled else []

    def __len__(self) -> int:
        return len(self.members)

    def pixels(self, index: int, background: RGB) -> Pixels:
        """The picture decoded."""
        shard, _, offset, size = self.members[index]
        with self.shards[shard].open("rb") as file:
            return decoded(io.BytesIO(_read(file, offset, size)), background)

    def where(self, index: int) -> str:
        """The shard and the member's name."""
        shard, name, _, _ = self.members[index]
        return f"{self.shards[shard]}:{name}"

    def fingerprint(self) -> str:
        """64 hexadecimal digits that change with any shard's place, size or date, and with the labels."""
        told = hashlib.sha256(self.labels.numpy().tobytes())
        for shard in self.shards:
            told.update(_stamp(shard).encode())
        return told.hexdigest()


def shards(pattern: str) -> list[Path]:
    """The files a pattern stands for, or a folder's tar files, by name. Raises ValueError where there are none."""
    paths: list[Path] = []
    for name in _expanded(pattern):
        path = Path(name).expanduser()
        if path.is_dir():
            found = sorted(path.glob("*.tar"))
        elif any(sign in name for sign in "*?["):
            found = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        else:
            found = [path] if path.is_file() else []
        if not found:
            remote = (
                "; shards are read from disks: copy them first" if "://" in name or name.startswith("pipe:") else ""
            )
            raise ValueError(f"{name} does not exist, or holds no .tar{remote or '; give shards of WebDataset'}")
        paths += found
    return paths


def _expanded(pattern: str) -> list[str]:
    """Names with every {a,b} and {00..12} written out."""
    found = BRACES.search(pattern)
    if found is None:
        return [pattern]
    span = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    parts = found[1].split(",")
    if span:
        parts = [str(number).zfill(len(span[1])) for number in range(int(span[1]), int(span[2]) + 1)]
    front, back = pattern[: found.start()], pattern[found.end() :]
    return list(itertools.chain.from_iterable(_expanded(front + part + back) for part in parts))


def _stamp(shard: Path) -> str:
    status = shard.stat()
    return f"{shard.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\n"


def _indexed(shard: Path, label: str) -> list[list[Any]]:
    """[member's name, offset, bytes, class or None] of each picture; kept in the cache."""
    key = hashlib.sha256(f"1{_stamp(shard)}{label}".encode()).hexdigest()[:32]
    kept = cache_folder() / "shards" / f"{key}.json"
    if kept.exists():
        known: list[list[Any]] = json.loads(kept.read_text(encoding="utf-8"))
        return known
    found = _index(shard, label)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=kept.parent, delete=False, encoding="utf-8") as file:
        json.dump(found, file)
    Path(file.name).replace(kept)  # at once: another process may be at it too
    return found


def _index(shard: Path, label: str) -> list[list[Any]]:
    pictures: dict[str, list[Any]] = {}
    labels: dict[str, int] = {}
    wanted = {"": "cls", "none": None}.get(label, label.partition(":")[0])
    try:
        with tarfile.open(shard, "r:") as archive, shard.open("rb") as file:
            for member in archive:
                folder, slash, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                key, ending = folder + slash + stem, ending.lower()
                if not member.isfile() or not stem:
                    continue
                if f".{ending}" in SUFFIXES:
                    pictures.setdefault(key, [member.name, member.offset_data, member.size])
                elif ending == wanted:
                    text = _read(file, member.offset_data, member.size)
                    labels[key] = _class(text, label, f"{shard}:{member.name}")
    except tarfile.TarError as error:
        raise ValueError(f"{shard} is no uncompressed tar file, or broken off: {error}") from error
    return [[*picture, labels.get(key)] for key, picture in pictures.items()]


def _class(text: bytes, label: str, where: str) -> int:
    field = label.partition(":")[2]
    try:
        number = json.loads(text)[field] if field else int(text)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{where} has no class number{f' in {field!r}' if field else ''}: {error!r}") from error
    if type(number) is not int or number < 0:
        raise ValueError(f"{where} has {number!r} for a class; needed: an integer from 0")
    return number


def _read(file: IO[bytes], offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)
