"""The monitor in a training loop that is not poise's, with callbacks and a tracker: a GAN that is made to fail.

    python examples/own_loop_with_monitor.py [--steps 600] [--fail-at 400]

A small GAN on a ring of eight Gaussians; from the step given on, the generator's loss also asks that all samples be
alike. The monitor sees it, says why and what to do, and the loop stops.
"""

import argparse
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import poise

MODES, SPREAD, BATCH = 8, 0.1, 64


def ring(n: int) -> Tensor:
    """Points (n, 2) near eight places on the unit circle."""
    angle = torch.randint(MODES, (n,)) * (2 * math.pi / MODES)
    return torch.stack([angle.cos(), angle.sin()], dim=1) + SPREAD * torch.randn(n, 2)


def mlp(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, outputs))


def train(steps: int, fail_at: int) -> poise.Monitor:
    """Train until ``steps`` or until the monitor speaks of failure, and return the monitor."""
    generator, discriminator = mlp(8, 2), poise.normalize(mlp(2, 1), "bssn", scale=2.0)
    g_optimizer = torch.optim.Adam(generator.parameters(), 1e-3, (0.0, 0.99))
    d_optimizer = torch.optim.Adam(discriminator.parameters(), 1e-3, (0.0, 0.99))

    tracked: dict[str, Any] = {}  # in its place: accelerator.log, or wandb.log
    monitor = poise.Monitor(
        generator=generator,
        discriminator=discriminator,
        tracker=lambda scalars, step: tracked.update(scalars, step=step),
    )
    monitor.on("change", lambda verdict: print(f"step {verdict.step}: {verdict.name} {verdict.evidence}"))
    monitor.on("failing", lambda verdict: print(f"advice: {verdict.advice}"))

    for step in range(1, steps + 1):
        real, fake = ring(BATCH), generator(torch.randn(BATCH, 8))
        real_logits, fake_logits = discriminator(real), discriminator(fake.detach())
        d_loss = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
        d_optimizer.zero_grad()
        d_loss.backward()
        d_optimizer.step()

        g_loss = F.softplus(-discriminator(fake)).mean()
        if step >= fail_at:
            g_loss = g_loss + 0.1 * (step - fail_at) * fake.var(0).mean()
        g_optimizer.zero_grad()
        g_loss.backward()
        g_optimizer.step()

        logits = {"real_logits": real_logits, "fake_logits": fake_logits}
        monitor.observe(step, d_loss=d_loss, g_loss=g_loss, **logits, real=real, fake=fake)
        if monitor.verdict.is_failing:
            break
    print(f"stopped at step {step}; {len(tracked)} numbers tracked; diversity {tracked.get('diversity', math.nan):.2f}")
    return monitor


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--fail-at", type=int, default=400)
    torch.manual_seed(0)
    arguments = parser.parse_args()
    train(arguments.steps, arguments.fail_at)
