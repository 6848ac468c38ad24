"""Images as networks have them, float in [−1, 1], and as people and files have them, uint8."""

from __future__ import annotations

import torch
from torch import Tensor


def to_uint8(images: Tensor) -> Tensor:
    """Images in [−1, 1], any float type, to uint8 0–255, rounded to nearest."""
    return images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def to_float(images: Tensor) -> Tensor:
    """uint8 images 0–255 to float32 in [−1, 1]; what is float already, such as points in the plane, stays as it is."""
    if images.is_floating_point():
        return images.float()
    return images.float().div_(127.5).sub_(1)
