"""Differentiable augmentation: real images and fakes are changed alike on their way to D, for small sets.

Zhao et al. 2020 (arXiv 2006.10738), "DiffAugment": D sees T(x) and T(G(z)) in its own step and T(G(z)) in G's, whose
gradient goes through T. Three kinds of T, each with numbers of its own for every image: color (brightness, saturation,
contrast), translation, cutout. Images are (n, C, H, W) in [−1, 1], any float type, device and memory format.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from poise import noise
from poise.registry import Registry

DRAWN = 7
"""uniform numbers that an image takes, whichever kinds are used: each kind has columns of its own"""


def drawn(seed: int, stream: str, start: int, size: int) -> Tensor:
    """What decides how images number ``start`` and on are changed: uniform in (0, 1), float32 (size, 7), on the CPU.

    A pure function of (seed, stream, number of the image): a batch in parts, or a resumed run, is augmented alike.
    """
    return noise.uniform(seed, f"{stream}-augmentation", torch.arange(start, start + size), DRAWN)


def color(images: Tensor, u: Tensor) -> Tensor:
    """Brightness, saturation and contrast, one after the other, as the authors have it.

    ``x + b``, b ~ U(−½, ½); ``s(x − m) + m``, m a pixel's mean over channels, s ~ U(0, 2); ``c(x − m) + m``, m the
    image's mean, c ~ U(½, 3/2). Nothing is clipped.
    """
    b, s, c = (u[:, column].to(images.dtype).view(-1, 1, 1, 1) for column in range(3))
    images = images + (b - 0.5)
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * (2 * s) + grey
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * (c + 0.5) + mean


def translation(images: Tensor, u: Tensor) -> Tensor:
    """``y[i, j] = x[i + a, j + b]``, 0 beyond the edge; a and b uniform whole numbers within ±⌊H/8⌋ and ±⌊W/8⌋."""
    for dim, column in ((2, 3), (3, 4)):
        reach = images.shape[dim] // 8
        images = _shifted(images, dim, _whole(u[:, column], 2 * reach + 1) - reach)
    return images


def cutout(images: Tensor, u: Tensor) -> Tensor:
    """0 in a square of ⌊H/2⌋ × ⌊W/2⌋ pixels whose centre lies anywhere in the image, so that part may lie outside."""
    within = None
    for dim, column in ((2, 5), (3, 6)):
        size = images.shape[dim]
        side = size // 2
        # The authors' range: an even square is centred between pixels, of which there is one place more.
        first = _whole(u[:, column], size + 1 - side % 2) - side // 2
        place = torch.arange(size, device=images.device).view(_along(dim, size))
        first = first.view(-1, 1, 1, 1)
        covered = (place >= first) & (place < first + side)
        within = covered if within is None else within & covered
    assert within is not None
    return images * ~within


AUGMENTATIONS: Registry[Callable[[Tensor, Tensor], Tensor]] = Registry(
    "augmentation", {"color": color, "translation": translation, "cutout": cutout}
)


def augment(images: Tensor, kinds: Sequence[str], u: Tensor) -> Tensor:
    """Images changed by these kinds one after the other; differentiable in the images, twice too.

    Args:
        images: (n, C, H, W). kinds: of ``AUGMENTATIONS``, in order; none gives the images themselves.
        u: (n, 7), as ``drawn`` gives it, on the images' device.

    Returns:
        Images of the same shape, type and memory format.

    Raises:
        ValueError: an unknown kind, what is not a batch of images, or numbers for another batch.
    """
    if images.ndim != 4:
        raise ValueError(f"images have shape {tuple(images.shape)}; augmentation takes (n, C, H, W)")
    if u.shape != (len(images), DRAWN):
        raise ValueError(f"u has shape {tuple(u.shape)}; {len(images)} images take ({len(images)}, {DRAWN})")
    was_channels_last = not images.is_contiguous() and images.is_contiguous(memory_format=torch.channels_last)
    for kind in kinds:
        images = AUGMENTATIONS[kind](images, u)
    return images.contiguous(memory_format=torch.channels_last) if was_channels_last and kinds else images


def _whole(u: Tensor, count: int) -> Tensor:
    """0 to count − 1, int64, each as likely; rounding may not reach ``count``."""
    return (u * count).long().clamp_max(count - 1)


def _along(dim: int, size: int = -1) -> list[int]:
    """The shape of a vector that lies along one dimension of images."""
    return [size if index == dim else 1 for index in range(4)]


def _shifted(images: Tensor, dim: int, by: Tensor) -> Tensor:
    """``x[i + by]`` along one dimension, each image by its own number, 0 beyond the edge."""
    n, size = len(images), images.shape[dim]
    place = torch.arange(size, device=images.device) + by[:, None]
    shape = [n, *_along(dim, size)[1:]]
    inside = ((place >= 0) & (place < size)).view(shape)
    # Wrapped round, so that no two places share a source: the gradient's sum is the same in any order.
    source = place.remainder(size).view(shape).expand_as(images)
    return images.gather(dim, source) * inside
