"""Stacked digits: the 1000-mode benchmark (StackedMNIST, Metz et al. 2017) from scikit-learn's handwritten digits.

Three digits drawn at random become the red, green and blue planes of one image; its label is the number they spell,
0–999. The 1,797 digits are split once, by class, into 1,437 for training and 360 held out; images are put together on
the fly, so there is nothing on disk and no end to them.
"""

from __future__ import annotations

import functools
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from poise import noise

TEST_DIGITS = 360
RESOLUTIONS = (8, 16, 32, 64)


@functools.cache
def digits(split: str, resolution: int = 16) -> tuple[Tensor, Tensor]:
    """The single digits of a split, enlarged bilinearly from 8×8.

    Returns:
        uint8 planes (n, resolution, resolution), 0 (paper) to 255 (ink), and int64 labels (n,), 0–9.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    if split not in ("train", "test"):
        raise ValueError(f"split is {split!r}; stacked digits have 'train' and 'test'")
    if resolution not in RESOLUTIONS:
        raise ValueError(
            f"resolution is {resolution}; stacked digits come in {', '.join(map(str, RESOLUTIONS))} pixels"
        )
    pixels, labels = load_digits(return_X_y=True)
    train, test = train_test_split(range(len(labels)), test_size=TEST_DIGITS, stratify=labels, random_state=0)
    chosen = train if split == "train" else test
    small = torch.tensor(pixels[chosen], dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    large = F.interpolate(small, size=(resolution, resolution), mode="bilinear", align_corners=False)
    return (large * 255).round().to(torch.uint8).squeeze(1), torch.tensor(labels[chosen], dtype=torch.int64)


class StackedDigits:
    """Three handwritten digits as R, G and B; 1000 modes, made on the fly from scikit-learn's 1,797 digits.

    Image i is a pure function of (seed, i).

    Args:
        split: "train", or "test" for digits that training never sees.
        resolution: pixels, one of 8, 16, 32, 64.
        seed: which of all orders.
        labels: "all" for the number that the three digits spell, 0–999; "first" for the red one alone, 0–9, so that
            what a label leaves open is as varied as in a photograph.

    Raises:
        ValueError: a split, resolution or kind of labels that there is not.
    """

    def __init__(
        self, split: str = "train", resolution: int = 16, seed: int = 0, labels: Literal["all", "first"] = "all"
    ) -> None:
        if labels not in ("all", "first"):
            raise ValueError(f"labels is {labels!r}; stacked digits have 'all', of 1000, and 'first', of 10")
        self.planes, self.plane_labels = digits(split, resolution)
        self.split, self.resolution = split, resolution
        self.num_classes = 1000 if labels == "all" else 10
        self._chosen = noise.Ahead(functools.partial(noise.integers, high=len(self.planes)), seed, f"digits-{split}", 3)

    def batch(self, start: int, size: int) -> tuple[Tensor, Tensor]:
        """Images number ``start`` to ``start + size``: uint8 (size, 3, H, W) channels-last, int64 labels (size,)."""
        drawn = self._chosen(start, size)
        stacked = self.planes[drawn].contiguous(memory_format=torch.channels_last)
        spelled = self.plane_labels[drawn]
        if self.num_classes == 10:
            return stacked, spelled[:, 0]
        return stacked, (spelled * torch.tensor([100, 10, 1])).sum(1)

    def mode_distribution(self) -> Tensor:
        """The probability of each of the 1000 labels, float64, exact."""
        single = torch.bincount(self.plane_labels, minlength=10).double() / len(self.plane_labels)
        return torch.einsum("r,g,b->rgb", single, single, single).flatten()
