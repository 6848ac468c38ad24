"""LSUN's databases: LMDB files with one encoded picture a key, read with the lmdb package.

torchvision's reader is not used: it leaves a pickled list of keys in whatever folder the program is started from.
"""

from __future__ import annotations

import hashlib
import io
import weakref
from pathlib import Path
from typing import Any

import torch

from poise.data.pictures import Pixels, decoded
from poise.data.reading import RGB
from poise.registry import nearest


class LmdbPictures:
    """The pictures of one category, in the order of their keys; unlabelled.

    Args:
        path: a folder that holds ``<category>_lmdb``, or the database itself: a folder with data.mdb.
        category: such as "bedroom_train".

    Raises:
        ValueError: nothing of the kind there, another category's, an unreadable or empty database, or no lmdb package.
    """

    def __init__(self, path: str | Path, category: str = "") -> None:
        folder = _database(Path(path).expanduser(), category)
        try:
            import lmdb
        except ModuleNotFoundError:
            raise ValueError("LSUN needs the package 'lmdb'; pip install lmdb") from None
        self.name, self.classes, self.threads = str(folder), list[str](), None
        self._file = folder / "data.mdb"
        try:
            self._environment = _environment(lmdb, folder.resolve())
            with self._environment.begin() as transaction:
                self.keys = list(transaction.cursor().iternext(keys=True, values=False))
        except lmdb.Error as error:
            raise ValueError(f"{folder} is no readable LMDB database: {error}") from error
        if not self.keys:
            raise ValueError(f"{folder} is an empty database")
        self.labels = torch.zeros(len(self.keys), dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.keys)

    def pixels(self, index: int, background: RGB) -> Pixels:
        """The picture decoded."""
        with self._environment.begin() as transaction:
            return decoded(io.BytesIO(transaction.get(self.keys[index])), background)

    def where(self, index: int) -> str:
        """The database and the key."""
        return f"{self.name}:{self.keys[index].decode('ascii', 'backslashreplace')}"

    def fingerprint(self) -> str:
        """64 hexadecimal digits that change with the database's place, size or date."""
        status = self._file.stat()
        told = f"{self._file.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\0{len(self)}"
        return hashlib.sha256(told.encode()).hexdigest()


_OPEN: weakref.WeakValueDictionary[Path, Any] = weakref.WeakValueDictionary()


def _environment(lmdb: Any, folder: Path) -> Any:
    """The database open; the one already open, as LMDB allows no second in a process."""
    environment = _OPEN.get(folder)
    if environment is None:
        # Locks are for writers, and would leave a file where there may be no right to write.
        environment = lmdb.open(str(folder), readonly=True, lock=False, readahead=False, meminit=False)
        _OPEN[folder] = environment
    return environment


def _database(path: Path, category: str) -> Path:
    if (path / "data.mdb").is_file():
        return path
    if not path.is_dir():
        raise ValueError(f"{path} is no folder; give the one that holds {category or 'bedroom_train'}_lmdb")
    folder = path / f"{category}_lmdb"
    if (folder / "data.mdb").is_file():
        return folder
    found = sorted(file.parent.name.removesuffix("_lmdb") for file in path.glob("*_lmdb/data.mdb"))
    if not found:
        raise ValueError(f"{path} holds no {category or '…'}_lmdb with a data.mdb; unzip LSUN's archives into it")
    if not category and len(found) == 1:
        return path / f"{found[0]}_lmdb"
    raise ValueError(f"{path} holds no category {category!r}; {nearest(category, found)}")
