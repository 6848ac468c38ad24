"""Reconstruction error: how near a generator comes to images it never saw (Xiang & Li 2017, arXiv 1704.03971).

For each held-out image x a latent is sought from z = 0 by RMSProp on the mean of (G(z) − x)² over pixels and channels;
what is left of it after 50 steps, in a running test, or 2000, in a final one, is the image's error. A generator that
leaves out modes cannot reach their images; one that is only good at a few is found out where FID may not see it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from poise.metrics.extractor import PRECISIONS
from poise.metrics.uncertainty import interval
from poise.sampling import to_float

RUNNING, FINAL = 50, 2000
"""steps of a test during training, and of the last one"""
IMAGES = {RUNNING: 200, FINAL: 2000}
"""held-out images that the authors' code takes for each"""
RATE, DECAY, EPSILON = 0.01, 0.9, 1e-6
PIXELS = 2**20  # of a batch: bounds memory, has no effect on the result but for rounding


@dataclass(frozen=True)
class Reconstruction:
    """What was left of each image.

    Attributes:
        errors: by number of steps, float32 (n,): mean over pixels and channels of (G(z) − x)², images in [−1, 1].
            Where images are in [0, 1] it is a quarter of that.
        latents: those after the last step, (n, latent_dim).
    """

    errors: dict[int, Tensor]
    latents: Tensor

    def mean(self, steps: int) -> tuple[float, tuple[float, float] | None]:
        """The mean error after that many steps and its 95% interval over images, None for a single image."""
        errors = self.errors[steps].double()
        value, n = errors.mean().item(), len(errors)
        return value, interval(value, errors.std().item() / math.sqrt(n)) if n > 1 else None


def reconstruct(
    generator: nn.Module,
    targets: Tensor,
    y: Tensor | None = None,
    steps: int | Iterable[int] = RUNNING,
    precision: str = "fp32",
    batch: int = 0,
) -> Reconstruction:
    """Seek latents for images, whole batches at once.

    The generator is in evaluation mode meanwhile and its weights have no gradients; both are put back. The loss is the
    sum over images of their mean errors, so that an image's latent does not depend on what else is in its batch.

    Args:
        generator: ``G(z, y=None) → images in [−1, 1]`` with ``latent_dim`` and ``num_classes``, on any device.
        targets: uint8 (n, 3, H, W), or float in [−1, 1]. y: their labels, int64 (n,), for a generator with classes.
        steps: of RMSProp with rate 0.01, α = 0.9 and ε = 1e-6; of several numbers, errors are kept at each. 0: G(0).
        precision: "fp32", or "bf16" for the search; errors are always those of full precision.
        batch: images at once; as many as 2²⁰ pixels by default.

    Raises:
        ValueError: images that differ in size from the generator's, labels that do not fit, negative steps.
    """
    asked = sorted({steps} if isinstance(steps, int) else set(steps))
    if not asked or asked[0] < 0:
        raise ValueError(f"steps is {steps}; give one number or several, 0 or more")
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; allowed: {', '.join(map(repr, PRECISIONS))}")
    _check(generator, targets, y)
    batch = batch or max(1, PIXELS // targets[0, 0].numel())
    errors: dict[int, list[Tensor]] = {step: [] for step in asked}
    latents = []
    with _still(generator):
        for first in range(0, len(targets), batch):
            part = slice(first, first + batch)
            found, z = _seek(generator, targets[part], None if y is None else y[part], asked, precision)
            latents.append(z)
            for step, error in found.items():
                errors[step].append(error)
    return Reconstruction({step: torch.cat(parts).cpu() for step, parts in errors.items()}, torch.cat(latents).cpu())


def _seek(
    generator: nn.Module, targets: Tensor, y: Tensor | None, asked: list[int], precision: str
) -> tuple[dict[int, Tensor], Tensor]:
    """Errors of one batch by number of steps, and its last latents, where they lie: nothing is read back meanwhile."""
    parameter = next(generator.parameters())
    x = (targets if targets.is_floating_point() else to_float(targets)).to(parameter)
    labels = () if y is None else (y.to(parameter.device),)
    z = torch.zeros(len(x), int(generator.latent_dim), device=x.device, dtype=x.dtype)  # type: ignore[arg-type]
    z.requires_grad_()
    optimizer = torch.optim.RMSprop([z], lr=RATE, alpha=DECAY, eps=EPSILON)

    def error() -> Tensor:
        return (generator(z, *labels).to(x.dtype) - x).square().flatten(1).mean(1)

    found = {}
    for step in range(asked[-1] + 1):
        if step:
            with torch.enable_grad(), torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
                (z.grad,) = torch.autograd.grad(error().sum(), z)
            optimizer.step()
        if step in asked:
            with torch.no_grad():
                found[step] = error()
    return found, z.detach()


def _check(generator: nn.Module, targets: Tensor, y: Tensor | None) -> None:
    size, classes = int(generator.resolution), int(generator.num_classes)  # type: ignore[arg-type]
    if not len(targets):
        raise ValueError("there are no held-out images; give at least 1")
    if targets.ndim != 4 or targets.shape[1:] != (3, size, size):
        raise ValueError(
            f"held-out images have shape {tuple(targets.shape)}; this generator makes (n, 3, {size}, {size})"
        )
    if (y is not None) != bool(classes):
        told = "without labels" if y is None else "with labels"
        raise ValueError(f"held-out images come {told}, and this generator has {classes} classes; they must fit")
    if y is not None and y.shape != targets.shape[:1]:
        raise ValueError(f"labels have shape {tuple(y.shape)}; needed: ({len(targets)},)")
    if y is not None and not (int(y.min()) >= 0 and int(y.max()) < classes):
        raise ValueError(f"labels run from {int(y.min())} to {int(y.max())}; this generator has 0 to {classes - 1}")


@contextmanager
def _still(generator: nn.Module) -> Iterator[None]:
    """The generator in evaluation mode, its weights without gradients; afterwards all is as before."""
    modes = {module: module.training for module in generator.modules()}
    wanted = {parameter: parameter.requires_grad for parameter in generator.parameters()}
    generator.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter, needed in wanted.items():
            parameter.requires_grad_(needed)
