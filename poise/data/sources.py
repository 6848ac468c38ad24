"""Data sets on disk, by name: what a recipe's ``data`` section can choose beside what is built in.

Every one gives ``StoredImages``. CIFAR, STL-10 and LSUN are read by torchvision, from the files that their authors
publish; nothing is downloaded. All others are folders or zip files of pictures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from poise.data.files import Pictures
from poise.data.pictures import Pixels, fitted
from poise.data.prepared import BrokenImage, Reading, prepared
from poise.data.stored import Memory, Store, StoredImages
from poise.data.streamed import Streamed

OnError = Literal["stop", "skip"]
WHITE = (255, 255, 255)


def folder(
    path: str = "",
    resolution: int = 64,
    crop: int | None = None,
    flip: bool = True,
    balanced: bool = False,
    background: tuple[int, int, int] = WHITE,
    on_error: OnError = "stop",
    stream: bool = False,
    seed: int = 0,
) -> StoredImages:
    """Any folder or zip of pictures; folders in its first level are classes.

    Args:
        path: the folder or zip.
        resolution: pixels; the largest centred square, or ``crop`` pixels of it, is resized to that.
        crop: side of the square, pixels.
        flip: mirror every second image.
        balanced: every class equally often.
        background: RGB 0–255, seen through transparent pictures.
        on_error: "stop" at a broken picture, or "skip" it.
        stream: decode again each time instead of once into a file of n·3·resolution² bytes.
        seed: which of all orders.
    """
    pictures = Pictures(_given(path, "a folder or zip file of images"))
    reading = Reading(pictures, resolution, crop, background)
    store: Store
    if stream:
        store, labels = Streamed(len(pictures), reading, on_error), pictures.labels
    else:
        pixels, labels = prepared(reading, on_error)
        store = Memory(pixels)
    return StoredImages(store, labels, len(pictures.classes), resolution, seed, flip, balanced)


def cifar10(
    path: str = "", split: str = "train", flip: bool = True, balanced: bool = False, seed: int = 0
) -> StoredImages:
    """CIFAR-10 (Krizhevsky 2009): 32 pixels, 10 classes; ``path`` holds cifar-10-batches-py."""
    return _cifar("CIFAR10", path, split, 10, flip, balanced, seed)


def cifar100(
    path: str = "", split: str = "train", flip: bool = True, balanced: bool = False, seed: int = 0
) -> StoredImages:
    """CIFAR-100 (Krizhevsky 2009): 32 pixels, 100 classes; ``path`` holds cifar-100-python."""
    return _cifar("CIFAR100", path, split, 100, flip, balanced, seed)


def stl10(
    path: str = "", split: str = "unlabeled", resolution: int = 48, flip: bool = True, seed: int = 0
) -> StoredImages:
    """STL-10 (Coates et al. 2011), 96 pixels shrunk to ``resolution``, without labels; ``path`` holds stl10_binary."""
    if split not in ("unlabeled", "train", "test", "train+unlabeled"):
        raise ValueError(f"split is {split!r}; STL-10 has 'unlabeled', 'train', 'test' and 'train+unlabeled'")
    images = _torchvision("STL10", path, split=split).data  # (n, 3, 96, 96)
    small = np.stack([fitted(image.transpose(1, 2, 0), resolution) for image in images])
    return StoredImages(
        Memory(torch.from_numpy(small)), torch.zeros(len(small), dtype=torch.int64), 0, resolution, seed, flip
    )


def celeba(path: str = "", resolution: int = 64, crop: int = 160, flip: bool = True, seed: int = 0) -> StoredImages:
    """CelebA, aligned (Liu et al. 2015): the central ``crop`` pixels of 178×218; ``path`` is img_align_celeba."""
    return folder(path, resolution, crop, flip, seed=seed)


def imagenet(
    path: str = "", resolution: int = 128, flip: bool = True, stream: bool = False, seed: int = 0
) -> StoredImages:
    """ImageNet (Deng et al. 2009): ``path`` is the folder of the 1000 classes' folders, "train" as a rule."""
    return folder(path, resolution, flip=flip, stream=stream, seed=seed)


def lsun(
    path: str = "", category: str = "bedroom_train", resolution: int = 64, flip: bool = True, seed: int = 0
) -> StoredImages:
    """LSUN (Yu et al. 2015): one category, unlabelled; ``path`` holds e.g. bedroom_train_lmdb. Needs lmdb."""
    records = _torchvision("LSUN", path, classes=[category])

    def read(index: int) -> Pixels:
        try:
            return fitted(np.asarray(records[index][0]), resolution)
        except (OSError, ValueError) as error:
            raise BrokenImage(f"record {index} of {path} cannot be used: {error}") from error

    store = Streamed(len(records), read, workers=1)  # lmdb's cursor belongs to one thread
    return StoredImages(store, torch.zeros(len(records), dtype=torch.int64), 0, resolution, seed, flip)


def _cifar(kind: str, path: str, split: str, classes: int, flip: bool, balanced: bool, seed: int) -> StoredImages:
    if split not in ("train", "test"):
        raise ValueError(f"split is {split!r}; {kind} has 'train' and 'test'")
    found = _torchvision(kind, path, train=split == "train")
    labels: Tensor = torch.tensor(found.targets, dtype=torch.int64)
    return StoredImages(Memory(torch.from_numpy(found.data)), labels, classes, 32, seed, flip, balanced)


def _torchvision(kind: str, path: str, **options: Any) -> Any:
    """A data set of torchvision's, which finds and checks the files."""
    from torchvision import datasets

    root = _given(path, f"the folder that holds {kind}'s files")
    try:
        return getattr(datasets, kind)(root, **options)
    except ModuleNotFoundError as error:
        raise ValueError(f"{kind} needs the package {error.name!r}; pip install {error.name}") from error
    except (RuntimeError, OSError) as error:
        raise ValueError(f"{root} does not hold {kind}: {error}") from error


def _given(path: str, what: str) -> Path:
    if not path:
        raise ValueError(f"path is empty; give {what}")
    return Path(path).expanduser()
