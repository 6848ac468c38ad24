"""Data sets on disk, by name: what a recipe's ``data`` section can choose beside what is built in.

Every one gives ``StoredImages``. CIFAR, STL-10 and LSUN are read by torchvision, from the files that their authors
publish; nothing is downloaded. All others are folders or zip files of pictures.
"""

from __future__ import annotations

import warnings
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from poise.data.files import Pictures
from poise.data.lmdb_pictures import LmdbPictures
from poise.data.pictures import fitted
from poise.data.prepared import ON_ERROR, beyond_disk, prepared
from poise.data.reading import RGB, Reading
from poise.data.shards import TarPictures
from poise.data.stored import FEW, Memory, Store, StoredImages
from poise.data.streamed import Streamed
from poise.data.torchvision_pictures import TorchvisionPictures

OnError = Literal["stop", "skip"]
CropAt = Literal["centre", "random"]
WHITE = (255, 255, 255)
CELEBA = {"train": range(1, 162_771), "val": range(162_771, 182_638), "test": range(182_638, 202_600)}
"""numbers of the pictures in the authors' list_eval_partition.txt"""
LOOKS = 100  # pictures of a stream looked at before training where none may be resized


def folder(
    path: str = "",
    resolution: int = 64,
    crop: int | None = None,
    crop_at: CropAt = "centre",
    resize: bool = True,
    flip: bool = True,
    balanced: bool = False,
    background: RGB = WHITE,
    on_error: OnError = "stop",
    stream: bool = False,
    seed: int = 0,
) -> StoredImages:
    """Any folder or zip of pictures; folders in its first level are classes.

    Args:
        path: the folder or zip.
        resolution: pixels; the largest square, or ``crop`` pixels of it, is resized to that.
        crop: side of the square, pixels.
        crop_at: "centre", or "random": another square of the picture each time.
        resize: False: refuse pictures that would have to be resized.
        flip: mirror every second image.
        balanced: every class equally often.
        background: RGB 0–255, seen through transparent pictures.
        on_error: "stop" at a broken picture, or "skip" it.
        stream: decode again each time instead of once into a file of n·3·resolution² bytes.
        seed: which of all orders.
    """
    pictures = Pictures(given(path, "a folder or zip file of images"))
    reading = Reading(pictures, resolution, crop, background, crop_at == "random", resize)
    return images_of(reading, flip, balanced, on_error, stream, seed)


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


def celeba(
    path: str = "",
    split: str = "all",
    resolution: int = 64,
    crop: int = 160,
    crop_at: CropAt = "centre",
    flip: bool = True,
    on_error: OnError = "stop",
    stream: bool = False,
    seed: int = 0,
) -> StoredImages:
    """CelebA, aligned (Liu et al. 2015): the central ``crop`` pixels of 178×218; ``path`` is img_align_celeba.

    Args:
        split: "all", or the authors' "train", "val" or "test", which they give by the pictures' numbers.
        path, resolution, crop, crop_at, flip, on_error, stream, seed: as ``folder``'s.
    """
    if split not in ("all", *CELEBA):
        raise ValueError(f"split is {split!r}; CelebA has 'all', {', '.join(map(repr, CELEBA))}")
    part = None if split == "all" else lambda name: _number(name) in CELEBA[split]
    pictures = Pictures(given(path, "the folder img_align_celeba"), part)
    reading = Reading(pictures, resolution, crop, whole=crop_at == "random")
    return images_of(reading, flip, False, on_error, stream, seed)


def _number(name: str) -> int:
    """Of a picture of CelebA's: 1 of 000001.jpg; 0 of others, which only "all" takes."""
    stem = PurePosixPath(name).stem
    return int(stem) if stem.isdecimal() else 0


def imagenet(
    path: str = "",
    resolution: int = 128,
    crop_at: CropAt = "centre",
    flip: bool = True,
    balanced: bool = False,
    on_error: OnError = "stop",
    stream: bool = False,
    seed: int = 0,
) -> StoredImages:
    """ImageNet (Deng et al. 2009): ``path`` is the folder of the 1000 classes' folders, "train" as a rule."""
    return folder(
        path, resolution, None, crop_at, flip=flip, balanced=balanced, on_error=on_error, stream=stream, seed=seed
    )


def lsun(
    path: str = "",
    category: str = "bedroom_train",
    resolution: int = 64,
    crop: int | None = None,
    crop_at: CropAt = "centre",
    flip: bool = True,
    on_error: OnError = "stop",
    stream: bool = False,
    seed: int = 0,
) -> StoredImages:
    """LSUN (Yu et al. 2015): one category, unlabelled; ``path`` holds e.g. bedroom_train_lmdb. Needs lmdb."""
    records = LmdbPictures(given(path, "the folder that holds bedroom_train_lmdb or another category"), category)
    reading = Reading(records, resolution, crop, whole=crop_at == "random")
    return images_of(reading, flip, False, on_error, stream, seed)


def torchvision(
    path: str = "",
    dataset: str = "",
    options: dict[str, Any] | None = None,
    resolution: int = 32,
    crop: int | None = None,
    crop_at: CropAt = "centre",
    flip: bool = False,
    balanced: bool = False,
    background: RGB = WHITE,
    on_error: OnError = "stop",
    stream: bool = False,
    seed: int = 0,
) -> StoredImages:
    """Any of torchvision's data sets of images, ``dataset`` SVHN or such, with ``options`` {split: train} of its own.

    Its labels are classes where they are integers; nothing is downloaded, ``path`` holds the files.

    Args:
        flip: off, since digits and letters are not to be mirrored; all others as ``folder``'s.
    """
    pictures = TorchvisionPictures(given(path, f"the folder that holds {dataset or 'the data set'}"), dataset, options)
    reading = Reading(pictures, resolution, crop, background, crop_at == "random")
    return images_of(reading, flip, balanced, on_error, stream, seed)


def webdataset(
    path: str = "",
    label: str = "",
    resolution: int = 64,
    crop: int | None = None,
    crop_at: CropAt = "centre",
    flip: bool = True,
    balanced: bool = False,
    background: RGB = WHITE,
    on_error: OnError = "stop",
    stream: bool = False,
    seed: int = 0,
) -> StoredImages:
    """Tar shards as WebDataset writes them: ``path`` is train-{000..146}.tar, train-*.tar, or a folder of shards.

    Args:
        path: shards on disk. Their headers are read once; any picture is then read by itself.
        label: what holds the class: "cls", or "json:field"; "": "cls" where there is one; "none": unlabelled.
        resolution, crop, crop_at, flip, balanced, background, on_error, stream, seed: as ``folder``'s.
    """
    given(path, "tar shards, such as train-{000..146}.tar")
    pictures = TarPictures(path, label)
    reading = Reading(pictures, resolution, crop, background, crop_at == "random")
    return images_of(reading, flip, balanced, on_error, stream, seed)


def images_of(reading: Reading, flip: bool, balanced: bool, on_error: str, stream: bool, seed: int) -> StoredImages:
    """Pictures as training sees them: prepared once, or decoded each time where asked or where the disk is too small.

    What had better be known before training is warned of.
    """
    pictures, resolution = reading.pictures, reading.resolution
    if resolution < 1:
        raise ValueError(f"resolution is {resolution}; it is a number of pixels, 1 or more")
    if on_error not in ON_ERROR:
        raise ValueError(f"on_error is {on_error!r}; allowed: {' and '.join(map(repr, ON_ERROR))}")
    store: Store
    if not stream and (lacking := beyond_disk(reading)):
        warnings.warn(f"{lacking}; pictures are decoded each time instead (stream=true)", RuntimeWarning, stacklevel=3)
        stream = True
    if stream:
        store = Streamed(len(pictures), reading, on_error, pictures.threads, resolution if reading.whole else None)
        labels = pictures.labels
        if not reading.resize:
            for index in range(0, len(pictures), -(-len(pictures) // LOOKS)):
                reading(index)
    else:
        store, labels = prepared(reading, on_error)
    if len(store) < FEW:
        few = f"{len(store)} images are few: a discriminator soon knows them by heart"
        warnings.warn(few, RuntimeWarning, stacklevel=3)
    crop_at = "random" if reading.whole else "centre"
    return StoredImages(store, labels, len(pictures.classes), resolution, seed, flip, balanced, crop_at)


def given(path: str, what: str) -> Path:
    """A path that is asked for."""
    if not path:
        raise ValueError(f"path is empty; give {what}")
    return Path(path).expanduser()


def _cifar(kind: str, path: str, split: str, classes: int, flip: bool, balanced: bool, seed: int) -> StoredImages:
    if split not in ("train", "test"):
        raise ValueError(f"split is {split!r}; {kind} has 'train' and 'test'")
    found = _torchvision(kind, path, train=split == "train")
    labels: Tensor = torch.tensor(found.targets, dtype=torch.int64)
    return StoredImages(Memory(torch.from_numpy(found.data)), labels, classes, 32, seed, flip, balanced)


def _torchvision(kind: str, path: str, **options: Any) -> Any:
    """A data set of torchvision's, which finds and checks the files."""
    from torchvision import datasets

    root = given(path, f"the folder that holds {kind}'s files")
    try:
        return getattr(datasets, kind)(root, **options)
    except ModuleNotFoundError as error:
        raise ValueError(f"{kind} needs the package {error.name!r}; pip install {error.name}") from error
    except (RuntimeError, OSError) as error:
        raise ValueError(f"{root} does not hold {kind}: {error}") from error
