"""From images to what the measures need: statistics in float64, scores, and, only if asked, the features themselves.

Images are never kept. Statistics of a reference are kept on disk, under a fingerprint of its images, the extractor, its
weights and its preprocessing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from poise.cache import cache_folder
from poise.data import Images
from poise.data.order import Order
from poise.data.stored import StoredImages
from poise.metrics.extractor import Extractor
from poise.metrics.frechet import GaussianStatistics
from poise.metrics.inception_score import SplitScores
from poise.metrics.uncertainty import square_root

BATCH = 128  # images in an extractor at once
VERSION = 1  # of what is kept on disk
Batches = Iterable[tuple[Tensor, Tensor | None]]
"""uint8 images (size, 3, H, W) and, where there are classes, int64 labels (size,)"""


@dataclass(frozen=True)
class Features:
    """What was found of a set of images.

    Attributes:
        n: images. mean: (d,), covariance: (d, d), float64.
        features: float32 (n, d) on the CPU, or None where they were not kept; labels: int64 (n,), or None.
        scores: the class score of each split, or None without a classifier or where it was not asked for.
        fingerprint: of a reference's images, hexadecimal; the same images, the same fingerprint.
    """

    n: int
    mean: Tensor
    covariance: Tensor
    features: Tensor | None = None
    labels: Tensor | None = None
    scores: Tensor | None = None
    fingerprint: str = ""

    @cached_property
    def root(self) -> Tensor:
        """The covariance's symmetric root, (d, d), found once."""
        return square_root(self.covariance)


def extract(batches: Batches, n: int, extractor: Extractor, keep: bool = False, splits: int = 0) -> Features:
    """Features' statistics of n images, streamed.

    Args:
        batches: n images in all.
        keep: keep the features too, 4·d bytes an image. splits: of the class score; 0 for none.

    Raises:
        ValueError: fewer than 2 images, or a class score from an extractor that is no classifier.
    """
    statistics: GaussianStatistics | None = None
    scores: SplitScores | None = None
    kept: list[Tensor] = []
    labels: list[Tensor] = []
    for images, y in batches:
        for first in range(0, len(images), BATCH):
            features, logits = extractor(images[first : first + BATCH])
            if statistics is None:
                where = "cuda" if extractor.device.type == "cuda" else "cpu"  # others may lack float64
                statistics = GaussianStatistics(features.shape[1], where)
                if splits and logits is None:
                    raise ValueError(f"{extractor.name} gives no classes; a class score needs an extractor that does")
                scores = SplitScores(n, logits.shape[1], splits) if splits and logits is not None else None
            statistics.add(features)
            if scores is not None and logits is not None:
                scores.add(logits)
            if keep:
                kept.append(features.cpu())
        if y is not None:
            labels.append(y.cpu())
    if statistics is None or statistics.n < 2:
        raise ValueError(f"{statistics.n if statistics else 0} images were judged; a judgement needs at least 2")
    return Features(
        statistics.n,
        statistics.mean,
        statistics.covariance,
        torch.cat(kept) if keep else None,
        torch.cat(labels) if labels else None,
        None if scores is None else scores.values(),
    )


def real_batches(data: Images, n: int, size: int = 512) -> Iterator[tuple[Tensor, Tensor | None]]:
    """n images of a source with their labels: of a finite one each at most once and as it is, not mirrored."""
    if not isinstance(data, StoredImages):
        for first in range(0, n, size):
            yield data.batch(first, min(size, n - first))
        return
    order = Order(len(data), 0)
    for first in range(0, n, size):
        records = order.records(first, min(size, n - first))
        yield data.store.read(records).permute(0, 3, 1, 2), data.labels[records]


def available(data: Images, most: int) -> int:
    """How many images of a source there are to compare with, at most ``most``."""
    return min(len(data), most) if isinstance(data, StoredImages) else most


def data_fingerprint(data: Images, n: int) -> str:
    """SHA-256 of the n images that are compared with, and their labels."""
    told = hashlib.sha256(f"{n}\0{data.resolution}\0{data.num_classes}".encode())
    for images, labels in real_batches(data, n):
        told.update(images.permute(0, 2, 3, 1).contiguous().numpy().data)
        if labels is not None:
            told.update(labels.numpy().tobytes())
    return told.hexdigest()


def reference_features(data: Images, n: int, extractor: Extractor, keep: int = 0) -> Features:
    """Statistics of n real images, and features of the first ``keep`` of them, from the cache or made for it.

    A cache that is damaged or cannot be written costs time, nothing else.
    """
    fingerprint = data_fingerprint(data, n)
    told = {"version": VERSION, "data": fingerprint, "n": n, "keep": keep, **extractor.describe()}
    key = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    path = cache_folder() / "references" / f"{key[:32]}.safetensors"
    found = _read(path)
    if found is None:
        made = extract(real_batches(data, n), n, extractor, keep=keep > 0)
        features = None if made.features is None else made.features[:keep].clone()
        found = Features(n, made.mean, made.covariance, features, made.labels)
        _write(path, found, told)
    return replace(found, fingerprint=fingerprint)


def _write(path: Path, found: Features, told: dict[str, object]) -> None:
    state = {"mean": found.mean, "covariance": found.covariance}
    state |= {} if found.features is None else {"features": found.features}
    state |= {} if found.labels is None else {"labels": found.labels}
    state = {name: value.contiguous() for name, value in state.items()}
    about = {"n": str(found.n), "checksum": _checksum(state), "of": json.dumps(told)}
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(state, unfinished, about)
        unfinished.replace(path)
    except (OSError, SafetensorError):
        with contextlib.suppress(OSError):
            unfinished.unlink()


def _read(path: Path) -> Features | None:
    """What was kept, or None where nothing whole was."""
    try:
        with safe_open(path, "pt") as file:
            about, state = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if about["checksum"] != _checksum(state):
            return None
        return Features(int(about["n"]), state["mean"], state["covariance"], state.get("features"), state.get("labels"))
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def _checksum(state: dict[str, Tensor]) -> str:
    told = hashlib.sha256()
    for name in sorted(state):
        told.update(name.encode())
        told.update(state[name].numpy().data)
    return told.hexdigest()
