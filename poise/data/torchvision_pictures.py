"""Any of torchvision's data sets of images: found and read by torchvision, picture by picture, never downloaded."""

from __future__ import annotations

import hashlib
import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from poise.data.pictures import Pixels, rgb
from poise.data.reading import RGB
from poise.registry import nearest

LABELS = ("targets", "labels", "_labels", "y")  # the names under which torchvision's data sets keep them
SAMPLES = ("samples", "_samples")  # or pairs of them
TRIED = 5  # records by which such a list is tried against what the data set hands out


class TorchvisionPictures:
    """The pictures of ``torchvision.datasets.<dataset>(root, **options)``; its integers are classes.

    Args:
        root: the folder that torchvision calls root.
        dataset: its class, such as "SVHN".
        options: its further arguments, such as {"split": "train"}.

    Raises:
        ValueError: an unknown data set or option, files that are not there, no images, a package that it needs.
    """

    def __init__(self, root: Path, dataset: str, options: dict[str, Any] | None = None) -> None:
        self.data, self.options = opened(root, dataset, options or {}), options or {}
        self.root, self.dataset, self.name = root, dataset, f"{dataset} in {root}"
        self.threads = 1  # some of torchvision's data sets hold one open file
        if not len(self):
            raise ValueError(f"{self.name} has no records")
        first, target = _record(self.data, 0, self.name)
        if not isinstance(first, Image.Image | np.ndarray | Tensor):
            raise ValueError(f"{self.name} hands out {type(first).__name__}, no images; choose another data set")
        self.labels, count = _labels(self.data, target)
        names = getattr(self.data, "classes", None) or []
        self.classes = [str(name) for name in names] if len(names) == count else [str(i) for i in range(count)]

    def __len__(self) -> int:
        return len(self.data)

    def pixels(self, index: int, background: RGB) -> Pixels:
        """The picture as RGB; tensors and arrays are taken to be (C, H, W) or (H, W[, C]) of uint8, or of [0, 1]."""
        return _rgb(self.data[index][0], background)

    def where(self, index: int) -> str:
        """The record's number."""
        return f"{self.name}, record {index},"

    def fingerprint(self) -> str:
        """64 hexadecimal digits that change with any file below the root, and with the options."""
        told = hashlib.sha256(json.dumps([self.dataset, self.options, len(self)], default=str).encode())
        for file in sorted(file for file in self.root.rglob("*") if file.is_file()):
            status = file.stat()
            told.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        return told.hexdigest()


def opened(root: Path, dataset: str, options: dict[str, Any]) -> Any:
    """One of torchvision's data sets. Errors as ``TorchvisionPictures``."""
    from torchvision import datasets

    known = [name for name in datasets.__all__ if "root" in inspect.signature(getattr(datasets, name)).parameters]
    known = [name for name in known if not name.startswith("LSUN")]  # it writes a file here; there is a source "lsun"
    if dataset not in known:
        raise ValueError(f"dataset is {dataset!r}, none of torchvision's; {nearest(dataset, known)}")
    parameters = inspect.signature(getattr(datasets, dataset)).parameters
    own = [
        name for name in parameters if name not in ("root", "download", "kwargs", "loader") and "transform" not in name
    ]
    for option in options:
        if option not in own and "kwargs" not in parameters:
            raise ValueError(f"{dataset} has no option {option!r}; {nearest(option, own)}")
    try:
        return getattr(datasets, dataset)(root, **options)
    except ModuleNotFoundError as error:
        raise ValueError(f"{dataset} needs the package {error.name!r}; pip install {error.name}") from error
    except (RuntimeError, OSError, ValueError, TypeError) as error:
        raise ValueError(f"{root} does not hold {dataset}: {error}") from error


def _record(data: Any, index: int, name: str) -> tuple[Any, Any]:
    record = data[index]
    if not isinstance(record, tuple | list) or len(record) < 2:
        return record, None
    return record[0], record[1]


def _labels(data: Any, first: Any) -> tuple[Tensor, int]:
    """Labels, and how many classes they number: zeros and 0 where the data set's targets are no integers.

    They are looked for where torchvision's data sets keep them, and compared with what some records say; a data set
    that keeps them elsewhere is read through once.
    """
    if _integer(first) is None:
        return torch.zeros(len(data), dtype=torch.int64), 0
    tried = {index: _integer(data[index][1]) for index in range(0, len(data), -(-len(data) // TRIED))}
    candidates = [getattr(data, name, None) for name in LABELS]
    candidates += [[pair[1] for pair in getattr(data, name, None) or ()] for name in SAMPLES]
    for listed in candidates:
        if listed is not None and len(listed) == len(data):
            found = [_integer(value) for value in listed]
            if None not in found and all(found[index] == value for index, value in tried.items()):
                break
    else:
        found = [_integer(data[index][1]) for index in range(len(data))]
    labels = torch.tensor([-1 if value is None else value for value in found], dtype=torch.int64)
    if int(labels.max()) < 0:  # torchvision's −1 says that there are none
        return torch.zeros_like(labels), 0
    return labels, int(labels.max()) + 1


def _integer(value: Any) -> int | None:
    """A whole number in whatever dress, else None."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer | np.ndarray | Tensor):
        return None
    array = np.asarray(value)
    return int(array) if array.ndim == 0 and np.issubdtype(array.dtype, np.integer) else None


def _rgb(picture: Any, background: RGB) -> Pixels:
    if isinstance(picture, Image.Image):
        return rgb(picture, background)
    array = np.asarray(picture)
    if isinstance(picture, Tensor) and array.ndim == 3:
        array = array.transpose(1, 2, 0)
    if np.issubdtype(array.dtype, np.floating):
        array = (array * 255).round().clip(0, 255)
    array = array.astype(np.uint8)
    return rgb(Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array), background)
