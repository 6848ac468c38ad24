"""Image sources behind one interface, ``Images``: batches whose order is a pure function of (seed, position)."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from poise.data import hub, sources
from poise.data.digits import StackedDigits
from poise.data.toys import grid2d, ring2d
from poise.registry import Builders


class Images(Protocol):
    """What the trainer and the metrics ask of a source."""

    num_classes: int
    resolution: int

    def batch(self, start: int, size: int) -> tuple[Tensor, Tensor]:
        """Images number ``start`` to ``start + size``: uint8 (size, 3, H, W) and int64 labels (size,).

        Points in the plane, whose resolution is 0, are float32 (size, 2).
        """
        ...


SOURCES: Builders[Images] = Builders(
    "data",
    {
        "stacked-digits": StackedDigits,
        "ring2d": ring2d,
        "grid2d": grid2d,
        "folder": sources.folder,
        "cifar10": sources.cifar10,
        "cifar100": sources.cifar100,
        "stl10": sources.stl10,
        "celeba": sources.celeba,
        "lsun": sources.lsun,
        "imagenet": sources.imagenet,
        "torchvision": sources.torchvision,
        "webdataset": sources.webdataset,
        "huggingface": hub.huggingface,
    },
)
