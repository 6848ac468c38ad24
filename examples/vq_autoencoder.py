"""The monitor and BSSN in a VQ autoencoder with an adversarial loss, such as VQGAN (Esser et al. 2021); tiny.

    python examples/vq_autoencoder.py [--steps 60]

A program as people have it: encoder, codebook, decoder, patch discriminator, hinge loss, images of coloured blobs made
on the spot. What poise adds are the lines marked "poise:"; what stood there before is in the comment beside them.
"""

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import poise  # poise: one import

SIZE, BATCH = 16, 16


def blobs(n: int) -> Tensor:
    """Images (n, 3, 16, 16) in [−1, 1], each with one coloured blob."""
    grid = torch.linspace(-1, 1, SIZE)
    centre, colour = torch.rand(n, 2, 1, 1) * 1.2 - 0.6, torch.rand(n, 3, 1, 1)
    distance = (grid[None, :, None] - centre[:, 0]) ** 2 + (grid[None, None, :] - centre[:, 1]) ** 2
    return 2 * colour * torch.exp(-8 * distance)[:, None] - 1


class Autoencoder(nn.Module):
    """Encoder, 64 codes of 8 numbers each, decoder: images (n, 3, 16, 16) ↦ themselves and the codebook's loss."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 16, 4, 2, 1), nn.SiLU(), nn.Conv2d(16, 8, 4, 2, 1))
        self.codes = nn.Parameter(torch.randn(64, 8) * 0.5)
        self.decoder = nn.Sequential(
            *(nn.ConvTranspose2d(8, 16, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Tanh())
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.reconstruct(x)[0]

    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encoder(x)
        flat = z.movedim(1, -1)
        nearest = torch.cdist(flat.reshape(-1, 8), self.codes).argmin(1)
        chosen = self.codes[nearest].view_as(flat).movedim(-1, 1)
        loss = F.mse_loss(chosen, z.detach()) + 0.25 * F.mse_loss(z, chosen.detach())
        return self.decoder(z + (chosen - z).detach()), loss


def patch_discriminator() -> nn.Sequential:
    """Images to logits (n, 1, 3, 3), one for each patch."""
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(16, 32, 4, 2, 1), nn.LeakyReLU(0.2)),
        nn.Conv2d(32, 1, 2),
    )


def train(steps: int) -> poise.Monitor:
    """Train, and return the monitor."""
    autoencoder = Autoencoder()
    # poise: before: discriminator = patch_discriminator()
    discriminator = poise.normalize(patch_discriminator(), "bssn", scale=1.4)
    # poise: new; the "latents" of this generator are images
    monitor = poise.Monitor(generator=autoencoder, discriminator=discriminator, latents=(blobs(32),))
    monitor.on("failing", lambda verdict: print(f"{verdict.name}: {verdict.evidence}; {verdict.advice}"))

    g_optimizer = torch.optim.Adam(autoencoder.parameters(), 2e-3, (0.5, 0.9))
    d_optimizer = torch.optim.Adam(discriminator.parameters(), 1e-3, (0.5, 0.9))
    for step in range(1, steps + 1):
        real = blobs(BATCH)
        fake, code_loss = autoencoder.reconstruct(real)

        g_loss = -discriminator(fake).mean()
        g_optimizer.zero_grad()
        (F.l1_loss(fake, real) + code_loss + 0.1 * g_loss).backward()
        g_optimizer.step()

        real_logits, fake_logits = discriminator(real), discriminator(fake.detach())
        d_loss = F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()
        d_optimizer.zero_grad()
        d_loss.backward()
        d_optimizer.step()

        # poise: new
        logits = {"real_logits": real_logits, "fake_logits": fake_logits}
        monitor.observe(step, d_loss=d_loss, g_loss=g_loss, **logits, real=real, fake=fake)
    print(f"step {steps}: {monitor.verdict.name}, error {F.l1_loss(fake, real).item():.3f}")
    return monitor


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=60)
    torch.manual_seed(0)
    train(parser.parse_args().steps)
