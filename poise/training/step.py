"""One update of each player, and what makes it fast.

Both steps follow algorithm 1 of Goodfellow et al. 2014 with the tricks every GAN can have for nothing: fakes for the
discriminator are made without a graph; real and fake go through it in one pass; its weights are frozen while the
generator learns, so that no gradient is computed for them; images are channels-last and the networks run under bf16
autocast where that pays; Adam is one fused kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from poise.losses import AdversarialLoss
from poise.norms import weight_penalty
from poise.sampling import to_float


@dataclass
class Players:
    """The two networks, their optimizers and how they compute."""

    generator: nn.Module
    discriminator: nn.Module
    g_optimizer: torch.optim.Optimizer
    d_optimizer: torch.optim.Optimizer
    loss: AdversarialLoss
    device: torch.device
    precision: str
    """"bf16" for autocast, "fp32" for none"""

    def __post_init__(self) -> None:
        # Batch norm in D would see real and fake mixed in one pass; such a D takes them one after the other.
        self.one_pass = not any(isinstance(m, _BatchNorm) for m in self.discriminator.modules())
        self.d_weights = list(self.discriminator.parameters())

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


def discriminator_gradients(players: Players, real: Tensor, z: Tensor) -> dict[str, Tensor]:
    """Gradients of the discriminator's loss, and of its norms' penalty if they have one, into ``.grad``.

    Args:
        real: uint8 images (n, 3, H, W). z: latents (n, latent_dim).

    Returns:
        d_loss, without the penalty, and the mean logits of real and fake: scalars on the device, not read back.
    """
    d = players.discriminator
    with players.autocast():
        with torch.no_grad():
            fake = players.generator(z).float()
        images = to_float(real)
        if players.one_pass:
            batch = torch.cat([images, fake]).contiguous(memory_format=torch.channels_last)
            real_logits, fake_logits = d(batch).float().split([len(images), len(fake)])
        else:
            real_logits, fake_logits = d(images).float(), d(fake).float()
        loss = players.loss.discriminator(real_logits, fake_logits)
    players.d_optimizer.zero_grad()
    (loss + weight_penalty(d)).backward()
    return {
        "d_loss": loss.detach(),
        "real_logit": real_logits.detach().mean(),
        "fake_logit": fake_logits.detach().mean(),
    }


def generator_gradients(players: Players, z: Tensor) -> dict[str, Tensor]:
    """Gradients of the generator's loss into ``.grad``; none for the discriminator. Returns g_loss, not read back."""
    for weight in players.d_weights:
        weight.requires_grad_(False)
    try:
        with players.autocast():
            logits = players.discriminator(players.generator(z)).float()
            loss = players.loss.generator(logits)
        players.g_optimizer.zero_grad()
        loss.backward()
    finally:
        for weight in players.d_weights:
            weight.requires_grad_(True)
    return {"g_loss": loss.detach()}
