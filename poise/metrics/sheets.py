"""Pictures to judge by eye: held-out images beside their reconstructions, generated images beside their nearest."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from poise.data import Images
from poise.data.order import Order
from poise.data.stored import StoredImages
from poise.metrics.memorization import Nearest
from poise.metrics.reconstruction import Reconstruction
from poise.sampling import to_uint8

SIDE = 64  # pixels that small images are enlarged to, by whole numbers
GAP, LINE = 8, 16
SHOWN = 8  # rows
INK, GREY = "#202020", "#707070"
Numbered = Callable[[Tensor], Tensor]
"""numbers of images, int64 (n,) ↦ those images, uint8 (n, 3, H, W)"""
Row = tuple[Sequence[Tensor], str]
"""images uint8 (3, H, W), the first set apart from the others, and what is written under the first"""


def sheet(blocks: Sequence[tuple[str, Sequence[Row]]]) -> Image.Image:
    """Blocks of rows side by side, each under its title. All images are of one size."""
    side = blocks[0][1][0][0][0].shape[1]
    zoom = max(1, SIDE // side)
    cell = side * zoom
    widths = [max(len(images) for images, _ in rows) * (cell + 2) + 2 * GAP for _, rows in blocks]
    height = LINE + GAP + max(len(rows) for _, rows in blocks) * (cell + LINE) + GAP
    canvas = Image.new("RGB", (sum(widths) + GAP * (len(blocks) + 1), height), "white")
    pen = ImageDraw.Draw(canvas)
    left = GAP
    for (title, rows), width in zip(blocks, widths, strict=True):
        pen.text((left, GAP // 2), title, INK)
        for index, (images, under) in enumerate(rows):
            top = LINE + GAP + index * (cell + LINE)
            for column, image in enumerate(images):
                pixels = image.permute(1, 2, 0).cpu().numpy().repeat(zoom, 0).repeat(zoom, 1)
                canvas.paste(
                    Image.fromarray(np.ascontiguousarray(pixels)),
                    (left + column * (cell + 2) + GAP * (column > 0), top),
                )
            pen.text((left, top + cell + 1), under, GREY)
        left += width + GAP
    return canvas


@torch.no_grad()
def reconstruction_sheet(
    generator: nn.Module, targets: Tensor, y: Tensor | None, found: Reconstruction, blocks: int = 4
) -> Image.Image:
    """The first held-out images, each with its reconstruction to the right and its error below; four pairs to a row.

    Args:
        targets, y: as ``reconstruct`` was given them, uint8. found: what it gave.
    """
    n = min(len(targets), SHOWN * blocks)
    where = next(generator.parameters())
    labels = () if y is None else (y[:n].to(where.device),)
    made = to_uint8(generator(found.latents[:n].to(where), *labels)).cpu()
    steps = max(found.errors)
    errors = found.errors[steps].tolist()
    rows = [([targets[i], made[i]], f"{errors[i]:.3f}") for i in range(n)]
    titles = [f"held out, and after {steps} steps", *["mean squared error below"] * (blocks - 1)]
    tall = -(-n // blocks)
    return sheet(
        [(titles[i], rows[i * tall : (i + 1) * tall]) for i in range(blocks) if rows[i * tall : (i + 1) * tall]]
    )


def neighbours_sheet(nearest: Nearest, generated: Numbered, real: Images) -> Image.Image:
    """Generated images, each with its nearest training images to the right: on the left the nearest of all, on the
    right the first ones drawn. Below each is its distance, over that of a duplicate.

    Args:
        generated: gives those that ``nearest`` is of. real: the training images, as ``reference_features`` took them.
    """
    distances = nearest.distances[:, 0]
    blocks = []
    shown = min(SHOWN, len(distances))
    for title, chosen in (
        ("nearest of all, and their nearest training images", distances.argsort()[:shown]),
        ("as drawn, and their nearest training images", torch.arange(shown)),
    ):
        images = generated(chosen)
        beside = numbered(real, nearest.indices[chosen].flatten()).unflatten(0, (shown, -1))
        rows = [
            ([image, *others], f"{distance / nearest.threshold:.2f}" if nearest.threshold else f"{distance:.2f}")
            for image, others, distance in zip(images, beside, distances[chosen].tolist(), strict=True)
        ]
        blocks.append((title, rows))
    return sheet(blocks)


def numbered(data: Images, numbers: Tensor) -> Tensor:
    """Images of a source by their number in ``real_batches``: uint8 (n, 3, H, W)."""
    if isinstance(data, StoredImages):
        records = Order(len(data), 0).records(0, int(numbers.max()) + 1)[numbers]
        return data.store.read(records).permute(0, 3, 1, 2)
    return torch.cat([data.batch(int(number), 1)[0] for number in numbers])
