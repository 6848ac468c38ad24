"""What every generator and discriminator has: its sizes, and words for inputs that do not fit.

``G(z, y=None) → images (n, 3, H, W) in [−1, 1]``; ``D(x, y=None) → logits (n,)``.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn

from poise.registry import nearest


def positive(**sizes: int) -> None:
    """Raise ValueError for a size below 1, by its name."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}; it must be at least 1")


def known_resolution(resolution: int, known: Collection[int], architecture: str) -> int:
    """``resolution`` if the architecture has it; else a ValueError that names those it has and the nearest."""
    if resolution in known:
        return resolution
    near = min(known, key=lambda other: abs(other - resolution))
    listed = ", ".join(map(str, sorted(known)))
    raise ValueError(f"resolution is {resolution}; {architecture} has {listed} pixels: nearest {near}")


def known_choice(given: str, known: Collection[str], what: str) -> str:
    """``given`` if it is one of the known words; else a ValueError that names the nearest."""
    if given in known:
        return given
    raise ValueError(f"unknown {what} {given!r}; {nearest(given, known)}")


class Network(nn.Module):
    """A generator's or discriminator's sizes.

    Attributes:
        resolution: height and width of the images, pixels.
        num_classes: labels are 0 to num_classes − 1; 0: the network takes none.
    """

    def __init__(self, resolution: int, num_classes: int = 0) -> None:
        super().__init__()
        if num_classes < 0:
            raise ValueError(f"num_classes is {num_classes}; it must be 0, for no labels, or more")
        self.resolution, self.num_classes = resolution, num_classes

    def check_labels(self, y: Tensor | None, n: int) -> None:
        """Raise ValueError unless ``y`` holds n known labels, or is None for a network without classes.

        Their range is looked at where that waits for no device; elsewhere torch's own lookup refuses them.
        """
        kind = type(self).__name__
        if not self.num_classes:
            if y is not None:
                raise ValueError(f"labels were given to {kind}, which has no classes (num_classes 0); leave y out")
            return
        if y is None:
            raise ValueError(f"{kind} has {self.num_classes} classes; give labels y of shape ({n},)")
        if y.is_floating_point() or y.is_complex() or y.shape != (n,):
            given = f"{str(y.dtype).removeprefix('torch.')} of shape {tuple(y.shape)}"
            raise ValueError(f"labels are {given}; {kind} takes integers of shape ({n},)")
        if y.is_cpu and type(y) is Tensor and n and not 0 <= int(y.min()) <= int(y.max()) < self.num_classes:
            wrong = int(y.min()) if int(y.min()) < 0 else int(y.max())
            near = min(max(wrong, 0), self.num_classes - 1)
            raise ValueError(f"a label is {wrong}; {kind} has labels 0 to {self.num_classes - 1}: nearest {near}")


class Generator(Network):
    """``G(z, y=None) → images``: latents (n, latent_dim) to images (n, 3, resolution, resolution) in [−1, 1]."""

    def __init__(self, resolution: int, latent_dim: int, num_classes: int = 0) -> None:
        super().__init__(resolution, num_classes)
        positive(latent_dim=latent_dim)
        self.latent_dim = latent_dim

    def check(self, z: Tensor, y: Tensor | None) -> None:
        """Raise ValueError for latents or labels that do not fit."""
        if z.ndim != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"latents have shape {tuple(z.shape)}; this generator takes (n, {self.latent_dim})")
        self.check_labels(y, len(z))


class Discriminator(Network):
    """``D(x, y=None) → logits``: images (n, 3, resolution, resolution) in [−1, 1] to logits (n,)."""

    def check(self, x: Tensor, y: Tensor | None) -> None:
        """Raise ValueError for images or labels that do not fit."""
        if x.ndim != 4 or x.shape[1:] != (3, self.resolution, self.resolution):
            expected = f"(n, 3, {self.resolution}, {self.resolution})"
            raise ValueError(f"images have shape {tuple(x.shape)}; this discriminator takes {expected}")
        self.check_labels(y, len(x))
