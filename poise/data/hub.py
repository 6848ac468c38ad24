"""Hugging Face ``datasets``: tables of images on this machine or on the Hub, by record or as a stream."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from poise.data.pictures import UNREADABLE, Pixels, decoded, fitted, rgb, scaled
from poise.data.prepared import ON_ERROR
from poise.data.reading import RGB, BrokenImage, Reading
from poise.data.series import Series
from poise.data.sources import WHITE, CropAt, OnError, images_of
from poise.data.stored import StoredImages
from poise.registry import nearest

DISK_SHARDS = 64  # a table on disk, streamed


def huggingface(
    path: str = "",
    split: str = "train",
    config: str | None = None,
    image: str = "",
    label: str = "",
    num_classes: int | None = None,
    resolution: int = 64,
    crop: int | None = None,
    crop_at: CropAt = "centre",
    flip: bool = True,
    balanced: bool = False,
    background: RGB = WHITE,
    on_error: OnError = "stop",
    stream: bool = False,
    buffer: int = 1000,
    seed: int = 0,
) -> StoredImages | Series:
    """Hugging Face data sets: ``path`` is a folder, a parquet file, what ``save_to_disk`` left, or a name on the Hub.

    Without ``stream`` the data set is downloaded where need be, and every record can be had by its number: order,
    preparing and resuming are as with a folder. With ``stream`` nothing is kept on disk, and records come from front
    to back only. Then shards are read in an order drawn for each epoch, and images drawn from a buffer: still a pure
    function of (seed, position), but less thoroughly shuffled, and a resumed run first reads again, without decoding,
    what came before in its epoch; and the epochs before where the data set does not say its length. ``series.py`` has
    the details.

    Args:
        split: "train", "train[:10%]" …
        config: where a data set has several.
        image: the column of images; "": the first of that type.
        label: the column of classes, of integers; "": the first of class labels; "none": unlabelled.
        num_classes: for streams whose column of integers does not say.
        buffer: records from which a stream's next is drawn.
        resolution, crop, crop_at, flip, balanced, background, on_error, seed: as ``folder``'s.
    """
    table = opened(path, split, config, stream)
    image, label = _columns(table.features, image, label)
    if not stream:
        pictures = HubPictures(table, image, label, f"{path} ({split})", num_classes)
        reading = Reading(pictures, resolution, crop, background, crop_at == "random")
        return images_of(reading, flip, balanced, on_error, False, seed)
    if balanced:
        raise ValueError("balanced sampling needs all labels, and a stream does not know them; set stream=false")
    if on_error not in ON_ERROR:
        raise ValueError(f"on_error is {on_error!r}; allowed: {' and '.join(map(repr, ON_ERROR))}")
    if label:
        num_classes = num_classes or getattr(table.features[label], "num_classes", None)
        if num_classes is None:
            raise ValueError(
                f"column {label!r} does not say how many classes there are; set num_classes, or label=none"
            )
    encoded = _encoded(table, image, label)
    known = (table.info.splits or {}).get(split)
    fit = scaled if crop_at == "random" else fitted

    def decode(record: dict[str, Any]) -> tuple[Pixels, int]:
        try:
            return fit(_pixels(record[image], background), resolution, crop), int(record[label]) if label else 0
        except UNREADABLE as error:
            raise BrokenImage(str(error)) from error

    def read(shard: int) -> Iterable[dict[str, Any]]:
        return encoded.shard(num_shards=encoded.num_shards, index=shard)

    return Series(
        encoded.num_shards,
        read,
        decode,
        resolution,
        f"{path} ({split})",
        (num_classes or 0) if label else 0,
        known.num_examples if known else None,
        buffer,
        seed,
        flip,
        crop_at,
        on_error,
    )


class HubPictures:
    """The records of a table that is on this machine.

    Args:
        table: a ``datasets.Dataset``.
        image, label: its columns; label "": unlabelled.
        name: for people.
        num_classes: where the column does not say; else one more than the largest label.
    """

    def __init__(self, table: Any, image: str, label: str, name: str, num_classes: int | None = None) -> None:
        if not len(table):
            raise ValueError(f"{name} has no records")
        self.table, self.image, self.name = _encoded(table, image, ""), image, name
        self._print = f"{table._fingerprint}\0{len(table)}\0{image}"
        self.labels, self.classes = torch.zeros(len(table), dtype=torch.int64), list[str]()
        if label:
            column = table.select_columns([label]).with_format("numpy")[:][label]
            if not np.issubdtype(np.asarray(column).dtype, np.integer):
                raise ValueError(f"column {label!r} of {name} is not of integers; choose another, or label=none")
            self.labels = torch.from_numpy(np.array(column, dtype=np.int64))
            names = getattr(table.features[label], "names", None)
            self.classes = list(names or map(str, range(num_classes or int(self.labels.max()) + 1)))

    @property
    def threads(self) -> int | None:
        """As many as there are cores."""
        return None

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, index: int, background: RGB) -> Pixels:
        """The picture decoded."""
        return _pixels(self.table[index][self.image], background)

    def where(self, index: int) -> str:
        """The record's number."""
        return f"{self.name}, record {index},"

    def fingerprint(self) -> str:
        """64 hexadecimal digits, of the fingerprint that ``datasets`` keeps of a table's origin."""
        return hashlib.sha256(self._print.encode()).hexdigest()


def opened(path: str, split: str = "train", config: str | None = None, stream: bool = False) -> Any:
    """A ``datasets.Dataset``, or an ``IterableDataset`` with ``stream``; ValueError where there is none."""
    if not path:
        raise ValueError("path is empty; give a folder, a parquet file, or a data set's name on the Hub")
    try:
        import datasets
    except ModuleNotFoundError:
        raise ValueError("Hugging Face data sets need the package 'datasets'; pip install datasets") from None
    place = Path(path).expanduser()
    if not place.exists() and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path):
        raise ValueError(f"{path} does not exist; give a folder, a parquet file, or a data set's name on the Hub")
    try:
        if (place / "state.json").exists() or (place / "dataset_dict.json").exists():
            return _from_disk(datasets.load_from_disk(str(place)), path, split, stream)
        if place.is_file():
            kind = {".parquet": "parquet", ".arrow": "arrow"}.get(place.suffix)
            if kind is None:
                raise ValueError(f"{path} is neither a .parquet nor an .arrow file; give one, or a folder")
            return datasets.load_dataset(kind, data_files={split: str(place)}, split=split, streaming=stream)
        return datasets.load_dataset(str(place) if place.exists() else path, config, split=split, streaming=stream)
    except (OSError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        what = "could not be read" if place.exists() else "is no folder here, and could not be had from the Hub"
        raise ValueError(f"{path} {what}: {error}") from error


def _from_disk(found: Any, path: str, split: str, stream: bool) -> Any:
    if hasattr(found, "keys"):
        if split not in found:
            raise ValueError(f"{path} has no split {split!r}; {nearest(split, found)}")
        found = found[split]
    return found.to_iterable_dataset(num_shards=min(len(found), DISK_SHARDS)) if stream else found


def _columns(features: Any, image: str, label: str) -> tuple[str, str]:
    """The columns of images and of labels, "" for none."""
    if features is None:
        raise ValueError("the stream does not say its columns; set stream=false")
    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    image = image or next((name for name, kind in kinds.items() if kind == "Image"), "")
    if not image:
        raise ValueError(f"no column is of images; set image to one of {', '.join(kinds)}")
    label = label or next((name for name, kind in kinds.items() if kind == "ClassLabel"), "none")
    for given in (image, *([] if label == "none" else [label])):
        if given not in kinds:
            raise ValueError(f"there is no column {given!r}; {nearest(given, kinds)}")
    return image, "" if label == "none" else label


def _encoded(table: Any, image: str, label: str) -> Any:
    """These columns alone, images as bytes or paths, so that what is only passed over is not decoded."""
    import datasets

    chosen = table.select_columns([image, label] if label else [image])
    if isinstance(table.features[image], datasets.Image):
        chosen = chosen.cast_column(image, datasets.Image(decode=False))
    return chosen


def _pixels(given: Any, background: RGB) -> Pixels:
    if isinstance(given, bytes):
        return decoded(io.BytesIO(given), background)
    if not isinstance(given, dict):
        raise ValueError(f"the record holds {type(given).__name__}, no image")
    if given.get("bytes"):
        return decoded(io.BytesIO(given["bytes"]), background)
    if given.get("path") and Path(given["path"]).exists():
        return decoded(Path(given["path"]), background)
    import datasets

    return rgb(datasets.Image().decode_example(given), background)
