"""Adversarial losses on logits; each pair is (discriminator loss, generator loss), both to be minimized.

All functions take logits of shape (n,) and return the mean over the batch, a scalar: in nats (non-saturating, minimax,
relativistic, the auxiliary classifier's), in logits (hinge, wasserstein), or in logits² (least-squares).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from poise.registry import Registry


@dataclass(frozen=True)
class AdversarialLoss:
    """A pair of losses: ``discriminator(real_logits, fake_logits)`` and ``generator(fake_logits)``.

    With ``needs_real`` the generator's loss looks at real images too: ``generator(fake_logits, real_logits)``.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[..., Tensor]
    source: str
    needs_real: bool = False


def logistic_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """``E softplus(−D(x)) + E softplus(D(G(z)))``: binary cross-entropy (Goodfellow et al. 2014, eq. 1)."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def non_saturating_generator(fake_logits: Tensor) -> Tensor:
    """``E softplus(−D(G(z)))`` (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-fake_logits).mean()


def minimax_generator(fake_logits: Tensor) -> Tensor:
    """``−E softplus(D(G(z)))``, the mean of log(1 − p): G's side of the game of Goodfellow et al. 2014, eq. 1.

    Its gradient, ``−sigmoid(D(G(z)))/n``, vanishes where D is sure of a fake.
    """
    return -F.softplus(fake_logits).mean()


def hinge_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """``E max(0, 1 − D(x)) + E max(0, 1 + D(G(z)))`` (Miyato et al. 2018, eq. 16)."""
    return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()


def wasserstein_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """``E D(G(z)) − E D(x)`` (Arjovsky et al. 2017, eq. 2)."""
    return fake_logits.mean() - real_logits.mean()


def linear_generator(fake_logits: Tensor) -> Tensor:
    """``−E D(G(z))`` (Miyato et al. 2018, eq. 17; Arjovsky et al. 2017)."""
    return -fake_logits.mean()


def least_squares_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """``½E(D(x) − 1)² + ½E D(G(z))²``: real ones are to have 1, fakes 0 (Mao et al. 2017, eq. 9)."""
    return 0.5 * ((real_logits - 1).square().mean() + fake_logits.square().mean())


def least_squares_generator(fake_logits: Tensor) -> Tensor:
    """``½E(D(G(z)) − 1)²`` (Mao et al. 2017, eq. 9)."""
    return 0.5 * (fake_logits - 1).square().mean()


def relativistic_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """``E softplus(−(D(x) − D(G(z))))`` over pairs (Jolicoeur-Martineau 2018; Huang et al. 2025, eq. 2).

    Raises:
        ValueError: not as many real logits as fake ones.
    """
    return F.softplus(-_paired(real_logits, fake_logits)).mean()


def relativistic_generator(fake_logits: Tensor, real_logits: Tensor) -> Tensor:
    """``E softplus(−(D(G(z)) − D(x)))`` over pairs (Jolicoeur-Martineau 2018; Huang et al. 2025, eq. 2).

    Raises:
        ValueError: not as many real logits as fake ones.
    """
    return F.softplus(_paired(real_logits, fake_logits)).mean()


def _paired(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    if real_logits.shape != fake_logits.shape:
        given = f"{tuple(real_logits.shape)} and {tuple(fake_logits.shape)}"
        raise ValueError(f"real and fake logits have shapes {given}; this loss pairs them one to one")
    return real_logits - fake_logits


def auxiliary_classifier_discriminator(
    real_class_logits: Tensor, real_y: Tensor, fake_class_logits: Tensor, fake_y: Tensor
) -> Tensor:
    """``−E log P(y | x) − E log P(y | G(z, y))``, added to D's adversarial loss (Odena et al. 2017, eq. 3: −L_C).

    Args:
        real_class_logits, fake_class_logits: of D's classifier, (n, classes). real_y, fake_y: int64 (n,).
    """
    return F.cross_entropy(real_class_logits, real_y) + F.cross_entropy(fake_class_logits, fake_y)


def auxiliary_classifier_generator(fake_class_logits: Tensor, fake_y: Tensor) -> Tensor:
    """``−E log P(y | G(z, y))``, added to G's adversarial loss (Odena et al. 2017, eq. 3: G's part of −L_C)."""
    return F.cross_entropy(fake_class_logits, fake_y)


LOSSES: Registry[AdversarialLoss] = Registry(
    "loss",
    {
        "non-saturating": AdversarialLoss(logistic_discriminator, non_saturating_generator, "Goodfellow et al. 2014"),
        "minimax": AdversarialLoss(logistic_discriminator, minimax_generator, "Goodfellow et al. 2014, eq. 1"),
        "hinge": AdversarialLoss(hinge_discriminator, linear_generator, "Miyato et al. 2018, eq. 16–17"),
        "wasserstein": AdversarialLoss(wasserstein_discriminator, linear_generator, "Arjovsky et al. 2017"),
        "least-squares": AdversarialLoss(
            least_squares_discriminator, least_squares_generator, "Mao et al. 2017, eq. 9"
        ),
        "relativistic": AdversarialLoss(
            relativistic_discriminator,
            relativistic_generator,
            "Jolicoeur-Martineau 2018; Huang et al. 2025, eq. 2",
            needs_real=True,
        ),
    },
)
