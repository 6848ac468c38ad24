"""Adversarial losses on logits; each pair is (discriminator loss, generator loss), both to be minimized.

All functions take logits of shape (n,) and return the mean over the batch, a scalar in nats (non-saturating) or logits
(hinge, wasserstein).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from poise.registry import Registry


@dataclass(frozen=True)
class AdversarialLoss:
    """A pair of losses: ``discriminator(real_logits, fake_logits)`` and ``generator(fake_logits)``."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]
    source: str


def logistic_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """``E softplus(−D(x)) + E softplus(D(G(z)))``: binary cross-entropy (Goodfellow et al. 2014, eq. 1)."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def non_saturating_generator(fake_logits: Tensor) -> Tensor:
    """``E softplus(−D(G(z)))`` (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-fake_logits).mean()


def hinge_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """``E max(0, 1 − D(x)) + E max(0, 1 + D(G(z)))`` (Miyato et al. 2018, eq. 16)."""
    return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()


def wasserstein_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """``E D(G(z)) − E D(x)`` (Arjovsky et al. 2017, eq. 2)."""
    return fake_logits.mean() - real_logits.mean()


def linear_generator(fake_logits: Tensor) -> Tensor:
    """``−E D(G(z))`` (Miyato et al. 2018, eq. 17; Arjovsky et al. 2017)."""
    return -fake_logits.mean()


LOSSES: Registry[AdversarialLoss] = Registry(
    "loss",
    {
        "non-saturating": AdversarialLoss(logistic_discriminator, non_saturating_generator, "Goodfellow et al. 2014"),
        "hinge": AdversarialLoss(hinge_discriminator, linear_generator, "Miyato et al. 2018, eq. 16–17"),
        "wasserstein": AdversarialLoss(wasserstein_discriminator, linear_generator, "Arjovsky et al. 2017"),
    },
)
