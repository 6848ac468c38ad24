"""Paths between two latents or two classes."""

from __future__ import annotations

from contextlib import ExitStack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poise.sampling.distributions import check_labels

BATCH = 500  # images per forward


def _fractions(steps: int, like: Tensor) -> Tensor:
    """What lies strictly between 0 and 1, shaped to multiply ``like`` with a dimension before it."""
    if steps < 2:
        raise ValueError(f"steps is {steps}; a path has at least its 2 ends")
    inner = torch.linspace(0, 1, steps, device=like.device, dtype=like.dtype)[1:-1]
    return inner.view(-1, *[1] * like.ndim)


def _same_shape(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or not a.is_floating_point():
        raise ValueError(f"the ends have shapes {tuple(a.shape)} and {tuple(b.shape)}; give two float tensors alike")


def linear(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """``(1 − t)a + tb`` for ``steps`` values of t from 0 to 1: shape (steps, *a.shape), the ends exact.

    Raises:
        ValueError: fewer than 2 steps, or ends of different shapes.
    """
    _same_shape(a, b)
    return torch.cat([a[None], torch.lerp(a[None], b[None], _fractions(steps, a)), b[None]])


def spherical(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """From a to b at an even rate along a great circle, the norm changing evenly: shape (steps, *a.shape), ends exact.

    For ends of the same norm it is the slerp of Shoemake 1985, as White 2016 (arXiv 1609.04468) has it for latents. It
    holds for all ends: between parallel ones it is linear, between opposite ones it goes by a direction across both.

    Args:
        a, b: (…, d); paths are taken along the last dimension, each for itself.

    Raises:
        ValueError: fewer than 2 steps, or ends of different shapes.
    """
    _same_shape(a, b)
    fractions = _fractions(steps, a)
    lengths = [torch.linalg.vector_norm(end, dim=-1, keepdim=True) for end in (a, b)]
    start, end = F.normalize(a, dim=-1, eps=_tiny(a)), F.normalize(b, dim=-1, eps=_tiny(a))
    along = (start * end).sum(-1, keepdim=True)
    rest = end - along * start
    across = torch.linalg.vector_norm(rest, dim=-1, keepdim=True)
    angle = torch.atan2(across, along)
    # Of (nearly) opposite ends the rest is rounding: the axis that a has least of stands for it, made orthogonal to a.
    axis = F.one_hot(start.abs().argmin(-1), a.shape[-1]).to(a.dtype)
    axis = axis - (axis * start).sum(-1, keepdim=True) * start
    is_rounding = across <= 4 * torch.finfo(a.dtype).eps
    direction = F.normalize(torch.where(is_rounding, axis, rest), dim=-1, eps=_tiny(a))
    # A second time, for of a small rest what rounding left along the start is no small part.
    direction = F.normalize(direction - (direction * start).sum(-1, keepdim=True) * start, dim=-1, eps=_tiny(a))
    turned = (fractions * angle).cos() * start + (fractions * angle).sin() * direction
    inner = torch.lerp(lengths[0], lengths[1], fractions) * turned
    return torch.cat([a[None], inner, b[None]])


def _tiny(x: Tensor) -> float:
    return torch.finfo(x.dtype).tiny


@torch.no_grad()
def class_path(generator: nn.Module, z: Tensor, y_from: Tensor | int, y_to: Tensor | int, steps: int) -> Tensor:
    """Images on the way from one class to another, z held: float32 (steps, n, 3, H, W) on z's device.

    What each class embedding of the generator (``nn.Embedding``: one shared, or gains and biases of each conditional
    batch norm) gives is replaced by ``(1 − t)e(y_from) + t·e(y_to)`` (Miyato and Koyama 2018, category morphing). The
    generator's mode is left as it is; sample in evaluation mode.

    Args:
        generator: whose labels enter by nothing but ``nn.Embedding``. z: latents (n, latent_dim).
        y_from, y_to: labels, int64 (n,), or one for all. steps: images a path, at least 2.

    Raises:
        ValueError: a generator without classes or without a class embedding, an unknown label, or fewer than 2 steps.
    """
    kind = type(generator).__name__
    if not generator.num_classes:
        raise ValueError(f"{kind} has no classes; there is no path between them")
    embeddings = [layer for layer in generator.modules() if isinstance(layer, nn.Embedding)]
    if not embeddings:
        raise ValueError(f"{kind} has no class embedding (nn.Embedding) to interpolate")
    if steps < 2:
        raise ValueError(f"steps is {steps}; a path has at least its 2 ends")
    for y in (y_from, y_to):
        check_labels(torch.as_tensor(y), int(generator.num_classes))  # type: ignore[arg-type]
    n = len(z)
    first, last = (torch.as_tensor(y, device=z.device).expand(n).repeat(steps) for y in (y_from, y_to))
    fractions = torch.linspace(0, 1, steps, device=z.device).repeat_interleave(n)
    parts = []
    for start in range(0, steps * n, BATCH):
        stop = min(start + BATCH, steps * n)
        rows = torch.arange(start, stop, device=z.device) % n
        with ExitStack() as stack:
            replaced = _Replaced(first[start:stop], last[start:stop], fractions[start:stop])
            for layer in embeddings:
                stack.callback(layer.register_forward_hook(replaced).remove)
            parts.append(generator(z[rows], first[start:stop]).float())
        if not replaced.count:
            raise ValueError(f"{kind} looked no label up in its class embeddings; there is no path between classes")
    return torch.cat(parts).unflatten(0, (steps, n))


class _Replaced:
    """A forward hook on embeddings: what they give for the first labels moves towards that of the last ones."""

    def __init__(self, first: Tensor, last: Tensor, fractions: Tensor) -> None:
        self.first, self.last, self.fractions = first, last, fractions
        self.count = 0

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if not torch.equal(inputs[0], self.first):
            return None  # not the labels
        self.count += 1
        last = F.embedding(self.last, layer.weight)  # type: ignore[arg-type]
        return torch.lerp(output, last, self.fractions[:, None].to(output.dtype))
