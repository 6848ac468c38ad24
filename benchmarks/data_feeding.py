"""Batches of 32×32 images from memory, mirrored at random: ``StoredImages`` against torchvision and a ``DataLoader``.

50,000 random images as CIFAR-10 holds them, batches of 64, one thread. The loader shuffles, mirrors each image with
``RandomHorizontalFlip`` and makes float tensors in [−1, 1], in this process and with two workers; ours gives uint8,
which the training scales on its device, and is also timed with that scaling.

    python benchmarks/data_feeding.py

Writes ``benchmarks/results/data_feeding.csv`` and ``.png``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from timing import bar_plot, interleaved, write_csv
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from poise.data.stored import Memory, StoredImages
from poise.sampling import to_float

IMAGES, BATCH, BATCHES, TURNS = 50_000, 64, 40, 9


class Cifar(Dataset[tuple[Tensor, int]]):
    """As torchvision's CIFAR10 hands out its records: one image at a time, through a transform."""

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        self.pixels, self.labels = pixels.permute(0, 3, 1, 2), labels.tolist()
        self.transform = v2.Compose(
            [v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.pixels[index]), self.labels[index]


def endless(loader: DataLoader[Any]) -> Iterator[Any]:
    while True:
        yield from loader


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (IMAGES, 32, 32, 3), dtype=torch.uint8)
    labels = torch.arange(IMAGES) % 10
    images = StoredImages(Memory(pixels), labels, 10, 32, flip=True)
    places = itertools.count(step=BATCH)
    loaders = {
        name: endless(DataLoader(Cifar(pixels, labels), BATCH, shuffle=True, num_workers=workers, drop_last=True))
        for name, workers in {"DataLoader": 0, "DataLoader, 2 workers": 2}.items()
    }

    def ours(prepare: Callable[[Tensor], Tensor]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(BATCHES):
                prepare(images.batch(next(places), BATCH)[0])

        return run

    def theirs(loader: Iterator[Any]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(BATCHES):
                next(loader)

        return run

    ways = {"poise": ours(lambda x: x), "poise, to float": ours(to_float)}
    ways |= {name: theirs(loader) for name, loader in loaders.items()}
    medians = interleaved(ways, TURNS)
    rows = []
    for way, seconds in medians.items():
        rate, ratio = BATCH * BATCHES / seconds, medians["DataLoader"] / seconds
        rows.append({"way": way, "images_per_second": f"{rate:.0f}", "speed": f"{ratio:.2f}", "images": "32×32"})
        print(f"{way:24} {rate:12,.0f} images/s  {ratio:7.1f} × DataLoader", flush=True)
    write_csv(rows, "data_feeding.csv")
    bar_plot(
        rows,
        "data_feeding.png",
        group="images",
        value="images_per_second",
        label="images a second, one core",
        limits={"100,000": 100_000.0},
    )


if __name__ == "__main__":
    main()
