"""The monitor and BSSN in super-resolution with a U-Net discriminator, such as Real-ESRGAN's (Wang et al. 2021); tiny.

    python examples/super_resolution.py [--steps 40]

A small network doubles the size of images; a U-Net judges every pixel, its convolutions spectrally normalized; the loss
is L1 and a non-saturating one; images of stripes made on the spot. What poise adds are the lines marked "poise:"; what
stood there before is in the comment beside them.
"""

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import poise  # poise: one import; before: from torch.nn.utils import spectral_norm

SIZE, BATCH = 16, 12


def stripes(n: int) -> Tensor:
    """Images (n, 3, 16, 16) in [−1, 1] of stripes of random colour, width, direction and place."""
    grid = torch.linspace(-1, 1, SIZE)
    angle, width, place = (torch.rand(n, 1, 1) * scale + least for scale, least in ((3.14, 0), (6, 4), (6.28, 0)))
    along = angle.cos() * grid[None, :, None] + angle.sin() * grid[None, None, :]
    return torch.rand(n, 3, 1, 1) * torch.sin(width * along + place)[:, None]


class UNetDiscriminator(nn.Module):
    """Images to a logit for each pixel, (n, 1, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        # poise: before: spectral_norm(nn.Conv2d(…)) around all but the first and the last, each iterating at every
        # forward, so that real and fake images of one step were judged by different weights
        self.first = nn.Conv2d(3, 12, 3, 1, 1)
        self.down = nn.ModuleList([nn.Conv2d(12, 24, 4, 2, 1), nn.Conv2d(24, 48, 4, 2, 1)])
        self.up = nn.ModuleList([nn.Conv2d(48, 24, 3, 1, 1), nn.Conv2d(24, 12, 3, 1, 1)])
        self.last = nn.Conv2d(12, 1, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.first(x), 0.2)
        skipped = []
        for conv in self.down:
            skipped.append(x)
            x = F.leaky_relu(conv(x), 0.2)
        for conv in self.up:
            x = F.interpolate(x, scale_factor=2, mode="bilinear")
            x = F.leaky_relu(conv(x), 0.2) + skipped.pop()
        return self.last(x)


def enlarger() -> nn.Sequential:
    """Images (n, 3, H, W) to twice the size."""
    return nn.Sequential(
        *(nn.Conv2d(3, 24, 3, 1, 1), nn.LeakyReLU(0.2), nn.Conv2d(24, 24, 3, 1, 1), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(24, 12, 3, 1, 1), nn.PixelShuffle(2)),
    )


def train(steps: int) -> poise.Monitor:
    """Train, and return the monitor."""
    generator = enlarger()
    discriminator = UNetDiscriminator()
    # poise: new; the same layers as before, now bidirectionally and scaled, one power iteration a weight update
    poise.normalize(discriminator, "bssn", layers=["down.*", "up.*"], scale=1.4)
    # poise: new; the "latents" of this generator are small images
    monitor = poise.Monitor(generator=generator, discriminator=discriminator, latents=(smaller(stripes(32)),))
    monitor.on("failing", lambda verdict: print(f"{verdict.name}: {verdict.evidence}; {verdict.advice}"))

    g_optimizer = torch.optim.Adam(generator.parameters(), 2e-3, (0.9, 0.99))
    d_optimizer = torch.optim.Adam(discriminator.parameters(), 1e-3, (0.9, 0.99))
    for step in range(1, steps + 1):
        real = stripes(BATCH)
        fake = generator(smaller(real))

        g_loss = F.softplus(-discriminator(fake)).mean()
        g_optimizer.zero_grad()
        (F.l1_loss(fake, real) + 0.1 * g_loss).backward()
        g_optimizer.step()

        real_logits, fake_logits = discriminator(real), discriminator(fake.detach())
        d_loss = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
        d_optimizer.zero_grad()
        d_loss.backward()
        d_optimizer.step()

        # poise: new
        logits = {"real_logits": real_logits, "fake_logits": fake_logits}
        monitor.observe(step, d_loss=d_loss, g_loss=g_loss, **logits, real=real, fake=fake)
    print(f"step {steps}: {monitor.verdict.name}, error {F.l1_loss(fake, real).item():.3f}")
    return monitor


def smaller(images: Tensor) -> Tensor:
    return F.avg_pool2d(images, 2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=40)
    torch.manual_seed(0)
    train(parser.parse_args().steps)
