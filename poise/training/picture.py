"""One picture of many samples: images side by side, or points in the plane over the modes they should lie at."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.utils import make_grid

from poise.data import Images
from poise.data.toys import Mixture, Points

COLUMNS = 8
SIDE, MARGIN = 480, 32  # of a picture of the plane, pixels
INK, GREY, ORANGE, BLUE = "#202020", "#d8d8d8", "#e8833a", "#3d7fe0"


def picture(samples: Tensor, data: Images) -> Tensor:
    """A picture of samples, float (3, H, W) in [0, 1].

    Args:
        samples: images in [−1, 1], (n, 3, H, W), put 8 to a row; or points (n, 2), over the modes of ``data``.
        data: what they were trained on.
    """
    if isinstance(data, Points):
        return scatter(samples, data.mixture)
    return make_grid(samples, nrow=COLUMNS, padding=1, normalize=True, value_range=(-1, 1))


def scatter(points: Tensor, mixture: Mixture) -> Tensor:
    """Points (n, 2) in the plane with its axes; a circle of 3σ about each centre, within which a point is good.

    The picture shows the mixture and a margin about it; points beyond are not in it. Returns float (3, 480, 480).
    """
    reach = math.ceil(1.2 * float(mixture.centres.abs().max()) + 4 * mixture.std)
    image = Image.new("RGB", (SIDE, SIDE), "white")
    pen = ImageDraw.Draw(image)

    def pixel(value: float, axis: int) -> float:
        scale = (SIDE - 2 * MARGIN) / (2 * reach)
        return SIDE / 2 + (value if axis == 0 else -value) * scale

    low, high = MARGIN, SIDE - MARGIN
    every = max(1, reach // 4)
    for tick in range(-reach, reach + 1, every):
        x, y = pixel(tick, 0), pixel(tick, 1)
        pen.line((x, low, x, high), GREY)
        pen.line((low, y, high, y), GREY)
        pen.text((x, high + 4), str(tick), INK, anchor="ma")
        pen.text((low - 4, y), str(tick), INK, anchor="rm")
    pen.rectangle((low, low, high, high), outline=INK)
    for x, y in points.tolist():
        if max(abs(x), abs(y)) < reach:  # not a number is not below it either
            across, down = pixel(x, 0), pixel(y, 1)
            pen.rectangle((across - 1, down - 1, across + 1, down + 1), BLUE)
    for x, y in mixture.centres.tolist():
        box = (pixel(x - 3 * mixture.std, 0), pixel(y + 3 * mixture.std, 1))
        pen.ellipse((*box, pixel(x + 3 * mixture.std, 0), pixel(y - 3 * mixture.std, 1)), outline=ORANGE, width=2)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
