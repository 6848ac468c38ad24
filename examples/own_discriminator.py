"""poise in a training loop that is not poise's: a small GAN on a ring of eight Gaussians.

    python examples/own_discriminator.py [--steps 2000]

Two lines make the difference: ``poise.normalize`` on the discriminator, and a ``poise.Monitor`` that looks on.
"""

import argparse
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import poise

MODES, SPREAD = 8, 0.05


def ring(n: int) -> Tensor:
    """Points (n, 2) near eight places on the unit circle."""
    angle = torch.randint(MODES, (n,)) * (2 * math.pi / MODES)
    return torch.stack([angle.cos(), angle.sin()], dim=1) + SPREAD * torch.randn(n, 2)


def modes_hit(points: Tensor) -> int:
    """How many of the eight places have a point within three standard deviations."""
    angle = torch.arange(MODES) * (2 * math.pi / MODES)
    centres = torch.stack([angle.cos(), angle.sin()], dim=1)
    return int((torch.cdist(centres, points).amin(1) < 3 * SPREAD).sum())


def mlp(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, 128), nn.LeakyReLU(0.1), nn.Linear(128, 128), nn.LeakyReLU(0.1), nn.Linear(128, outputs)
    )


def train(steps: int) -> int:
    """Train and return the number of modes that 1,000 samples hit."""
    generator, discriminator = mlp(8, 2), mlp(2, 1)
    poise.normalize(discriminator, "bssn", scale=2.0)
    monitor = poise.Monitor(generator=generator, discriminator=discriminator)
    g_optimizer = torch.optim.Adam(generator.parameters(), 1e-3, (0.0, 0.99), fused=True)
    d_optimizer = torch.optim.Adam(discriminator.parameters(), 1e-3, (0.0, 0.99), fused=True)

    for step in range(1, steps + 1):
        fake = generator(torch.randn(256, 8))
        d_loss = F.softplus(-discriminator(ring(256))).mean() + F.softplus(discriminator(fake.detach())).mean()
        d_optimizer.zero_grad()
        d_loss.backward()
        d_optimizer.step()

        g_loss = F.softplus(-discriminator(fake)).mean()
        g_optimizer.zero_grad()
        g_loss.backward()
        g_optimizer.step()

        if step % 100 == 0 or step == steps:
            gradients = monitor.gradient_norms("G") | monitor.gradient_norms("D")
            seen = monitor.observe(step, gradients, d_loss=d_loss, g_loss=g_loss)
            print(f"step {step}: d_loss {seen['d_loss']:.3f}, g_loss {seen['g_loss']:.3f}, {seen['verdict']}")
            if monitor.verdict.is_failing:
                raise SystemExit(f"{monitor.verdict.evidence}; {monitor.verdict.advice}")

    poise.denormalize(discriminator)  # plain weights again, the same outputs
    return modes_hit(generator(torch.randn(1000, 8)).detach())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=2000)
    torch.manual_seed(0)
    print(f"modes hit: {train(parser.parse_args().steps)} of {MODES}")
