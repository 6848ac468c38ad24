"""The named family of penalties, each with its options, evaluated every k steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from poise.penalties.gradient import dragan_penalty, r1_penalty, r2_penalty, wgan_gp_penalty, zero_centred_penalty
from poise.penalties.orthogonality import off_diagonal_penalty, orthonormal_penalty
from poise.registry import Builders

Penalty = Callable[..., Tensor]
"""(discriminator, real, fake, y=None, fake_y=None, generator=None) ↦ a scalar"""


@dataclass(frozen=True)
class Lazy:
    """A penalty evaluated at every k-th step only, k times as large (Karras et al. 2020, appendix B).

    Its sum over training, and so the mean pull on the weights, is that of evaluating it always. StyleGAN2 also scales
    Adam's rate by c = k/(k + 1) and its β to βᶜ, because there the penalty has an optimizer step of its own; here it is
    part of D's loss, the number of steps stays, and nothing of Adam's is to change.

    Attributes:
        penalty: what is called with all arguments after the step.
        every: k, at least 1.
    """

    penalty: Penalty
    every: int = 16

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every is {self.every}; a penalty is evaluated every 1 steps or more")

    def is_due(self, step: int) -> bool:
        return step % self.every == 0

    def __call__(
        self,
        step: int,
        discriminator: nn.Module,
        real: Tensor,
        fake: Tensor | None = None,
        y: Tensor | None = None,
        fake_y: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The penalty's k-fold at steps 0, k, 2k …, and in between a constant 0, for which nothing is computed."""
        if not self.is_due(step):
            return torch.zeros((), device=real.device)
        return self.every * self.penalty(discriminator, real, fake, y, fake_y, generator)


def _of(penalty: Penalty, every: int, **settings: float) -> Lazy:
    for name, value in settings.items():
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name} is {value}; it must be at least 0 and finite")
    return Lazy(partial(penalty, **settings), every)


def r1(gamma: float = 10.0, every: int = 1) -> Lazy:
    """``γ/2·E‖∇D(x)‖²`` on real images (Mescheder et al. 2018)."""
    return _of(r1_penalty, every, gamma=gamma)


def r2(gamma: float = 10.0, every: int = 1) -> Lazy:
    """``γ/2·E‖∇D(G(z))‖²`` on fakes (Mescheder et al. 2018)."""
    return _of(r2_penalty, every, gamma=gamma)


def wgan_gp(weight: float = 10.0, every: int = 1) -> Lazy:
    """``λ·E(‖∇D(x̂)‖ − 1)²`` on interpolates (Gulrajani et al. 2017)."""
    return _of(wgan_gp_penalty, every, weight=weight)


def gan_gp(weight: float = 10.0, every: int = 1) -> Lazy:
    """The term of "wgan-gp", to stand beside the non-saturating loss (Miyato et al. 2018, table 2)."""
    return _of(wgan_gp_penalty, every, weight=weight)


def dragan(weight: float = 10.0, deviation: float = 0.5, target: float = 1.0, every: int = 1) -> Lazy:
    """``λ·E(‖∇D(x + δ)‖ − k)²`` around real images (Kodali et al. 2017)."""
    return _of(dragan_penalty, every, weight=weight, deviation=deviation, target=target)


def zero_centred(weight: float = 10.0, every: int = 1) -> Lazy:
    """``λ·E‖∇D(x̂)‖²`` on interpolates (Thanh-Tung et al. 2019)."""
    return _of(zero_centred_penalty, every, weight=weight)


def orthonormal_weights(weight: float = 1e-4, every: int = 1) -> Lazy:
    """``β·Σ‖WᵀW − I‖²_F`` of the weights (Brock et al. 2017)."""
    return _of(orthonormal_penalty, every, weight=weight)


def off_diagonal_weights(weight: float = 1e-4, every: int = 1) -> Lazy:
    """``β·Σ‖WᵀW ⊙ (1 − I)‖²_F`` of the weights (Brock et al. 2019, eq. 3)."""
    return _of(off_diagonal_penalty, every, weight=weight)


OF_WEIGHTS = ("orthonormal", "off-diagonal")
"""penalties that look at weights alone, and so can be a generator's"""

PENALTIES: Builders[Lazy] = Builders(
    "penalty",
    {
        "r1": r1,
        "r2": r2,
        "wgan-gp": wgan_gp,
        "gan-gp": gan_gp,
        "dragan": dragan,
        "zero-centred": zero_centred,
        "orthonormal": orthonormal_weights,
        "off-diagonal": off_diagonal_weights,
    },
)
