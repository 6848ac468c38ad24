"""Penalties on the discriminator's gradient in the images.

Each takes ``(discriminator, real, fake, y=None, fake_y=None, generator=None)`` and returns a scalar to add to D's loss,
differentiable in its weights. The gradient is that of the logit, before any sigmoid, in logits per image unit (images
are in [−1, 1], n×3×H×W); a norm is taken over all of an image, in float32 or wider. It costs one forward and one
backward with a graph. Where samples meet within D, as in batch norm, the gradient is that of the sum of logits.

``y`` are the labels of the real images, (n,), and ``fake_y`` those of the fakes, the same by default; a
``torch.Generator``, on any device, draws what is random.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from poise import replicas
from poise.norms.normalization import full_precision, wide


def input_gradient(discriminator: nn.Module, images: Tensor, y: Tensor | None = None) -> Tensor:
    """``∇ₓD(x, y)`` of every sample, shaped as the images; with a graph where gradients are enabled.

    Args:
        images: (n, …); they are taken as constants, so nothing flows back to what made them. y: labels (n,) or None.
    """
    with_graph = torch.is_grad_enabled()
    # Attention's fused kernels have no second derivative (seen with torch 2.14); the plain one has.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        x = images.detach().requires_grad_(True)
        logits = discriminator(x) if y is None else discriminator(x, y)
        # Sample i's logit depends on image i alone, so the sum's gradient holds every sample's.
        (gradient,) = torch.autograd.grad(logits.sum(dtype=wide(logits).dtype), x, create_graph=with_graph)
    return wide(gradient)


def _squares(gradient: Tensor) -> Tensor:
    """‖∇‖² of each sample, (n,)."""
    return full_precision(lambda g: g.square().flatten(1).sum(1), gradient.device)(gradient)


def _norms(gradient: Tensor) -> Tensor:
    """‖∇‖ of each sample, (n,); its derivative is 0 where the gradient is, not NaN."""
    return full_precision(lambda g: torch.linalg.vector_norm(g.flatten(1), dim=1), gradient.device)(gradient)


def _uniform(n: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """One number in [0, 1) a sample, shaped to multiply images."""
    device = like.device if generator is None else generator.device
    drawn = replicas.part(lambda k: torch.rand(k, generator=generator, device=device, dtype=like.dtype), n)
    return drawn.to(like.device).view(-1, *[1] * (like.ndim - 1))


def _deviation(x: Tensor) -> Tensor:
    """Standard deviation of all numbers of the batch, a scalar."""
    if replicas.place()[1] == 1:
        return x.std(correction=0)
    return replicas.mean((x - replicas.mean(x.mean())).square().mean()).sqrt()


def interpolates(real: Tensor, fake: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """``εx + (1 − ε)G(z)``, ε ~ U[0, 1) for each pair (Gulrajani et al. 2017, algorithm 1).

    Raises:
        ValueError: real and fake images of different shapes.
    """
    if real.shape != fake.shape:
        given = f"{tuple(real.shape)} and {tuple(fake.shape)}"
        raise ValueError(f"real and fake images have shapes {given}; interpolates need pairs of the same shape")
    return torch.lerp(fake.detach(), real.detach(), _uniform(len(real), real, generator))


def r1_penalty(
    discriminator: nn.Module,
    real: Tensor,
    fake: Tensor | None = None,
    y: Tensor | None = None,
    fake_y: Tensor | None = None,
    generator: torch.Generator | None = None,
    *,
    gamma: float = 10.0,
) -> Tensor:
    """``γ/2·E‖∇D(x)‖²`` on real images (Mescheder et al. 2018, eq. 9)."""
    return gamma / 2 * _squares(input_gradient(discriminator, real, y)).mean()


def r2_penalty(
    discriminator: nn.Module,
    real: Tensor,
    fake: Tensor,
    y: Tensor | None = None,
    fake_y: Tensor | None = None,
    generator: torch.Generator | None = None,
    *,
    gamma: float = 10.0,
) -> Tensor:
    """``γ/2·E‖∇D(G(z))‖²`` on fakes (Mescheder et al. 2018, eq. 10); ``fake_y`` are their labels, ``y`` by default."""
    return gamma / 2 * _squares(input_gradient(discriminator, fake, y if fake_y is None else fake_y)).mean()


def wgan_gp_penalty(
    discriminator: nn.Module,
    real: Tensor,
    fake: Tensor,
    y: Tensor | None = None,
    fake_y: Tensor | None = None,
    generator: torch.Generator | None = None,
    *,
    weight: float = 10.0,
) -> Tensor:
    """``λ·E(‖∇D(x̂)‖ − 1)²`` on interpolates x̂ of real and fake (Gulrajani et al. 2017, eq. 3).

    Under the Wasserstein loss this is WGAN-GP; under the non-saturating loss, D's logit in its place, it is the GAN-GP
    that Miyato et al. 2018, table 2, compare with. Labels cannot be interpolated: the pairs' are ``y``.
    """
    gradient = input_gradient(discriminator, interpolates(real, fake, generator), y)
    return weight * (_norms(gradient) - 1).square().mean()


def zero_centred_penalty(
    discriminator: nn.Module,
    real: Tensor,
    fake: Tensor,
    y: Tensor | None = None,
    fake_y: Tensor | None = None,
    generator: torch.Generator | None = None,
    *,
    weight: float = 10.0,
) -> Tensor:
    """``λ·E‖∇D(x̂)‖²`` on interpolates x̂ of real and fake (Thanh-Tung et al. 2019).

    Labels cannot be interpolated: the pairs' are ``y``.
    """
    return weight * _squares(input_gradient(discriminator, interpolates(real, fake, generator), y)).mean()


def dragan_penalty(
    discriminator: nn.Module,
    real: Tensor,
    fake: Tensor | None = None,
    y: Tensor | None = None,
    fake_y: Tensor | None = None,
    generator: torch.Generator | None = None,
    *,
    weight: float = 10.0,
    deviation: float = 0.5,
    target: float = 1.0,
) -> Tensor:
    """``λ·E(‖∇D(x + δ)‖ − k)²``, δ ~ N(0, c·I), around real images (Kodali et al. 2017).

    Args:
        deviation: √c in units of the standard deviation of the batch's pixels.
        target: k, logits per image unit.
    """
    device = real.device if generator is None else generator.device
    shape = real.shape[1:]
    noise = replicas.part(
        lambda k: torch.randn((k, *shape), generator=generator, device=device, dtype=real.dtype), len(real)
    )
    near = real.detach() + deviation * _deviation(real.detach()) * noise.to(real.device)
    return weight * (_norms(input_gradient(discriminator, near, y)) - target).square().mean()
