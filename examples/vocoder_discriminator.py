"""The monitor and BSSN in a vocoder's discriminator of 1-D sound, such as HiFi-GAN's (Kong et al. 2020); tiny.

    python examples/vocoder_discriminator.py [--steps 40]

HiFi-GAN's multi-period discriminator folds a wave into rows of p samples and normalizes every convolution's weight; a
generator makes waves from their spectrograms; least-squares loss, feature matching; sounds of a few harmonics made on
the spot. What poise adds are the lines marked "poise:"; what stood there before is in the comment beside them.
"""

import argparse
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import poise  # poise: one import; before: from torch.nn.utils import weight_norm

LENGTH, HOP, BATCH, PERIODS = 480, 16, 8, (2, 3, 5)


def sounds(n: int) -> tuple[Tensor, Tensor]:
    """Waves (n, 1, 480) in [−1, 1], and their magnitudes by frame (n, 17, 30)."""
    time, pitch = torch.arange(LENGTH) / 480, 8 + 24 * torch.rand(n, 1)
    loud = torch.rand(n, 3)
    wave = sum(loud[:, [k]] * torch.sin(2 * math.pi * (k + 1) * pitch * time) for k in range(3)) / 3
    assert isinstance(wave, Tensor)
    spectrum = torch.stft(wave, 32, HOP, window=torch.hann_window(32), return_complex=True).abs()
    return wave[:, None], spectrum[:, :, : LENGTH // HOP].log1p()


class PeriodDiscriminator(nn.Module):
    """A wave folded into rows of ``period`` samples, through convolutions along each column."""

    def __init__(self, period: int) -> None:
        super().__init__()
        self.period = period
        # poise: before: weight_norm(nn.Conv2d(…)) around each, which holds no singular value down
        self.convs = nn.ModuleList([nn.Conv2d(1, 8, (5, 1), (3, 1), (2, 0)), nn.Conv2d(8, 16, (5, 1), (3, 1), (2, 0))])
        self.last = nn.Conv2d(16, 1, (3, 1), 1, (1, 0))

    def forward(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        x, features = wave.view(len(wave), 1, -1, self.period), []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.1)
            features.append(x)
        return self.last(x).flatten(1), features


class MultiPeriodDiscriminator(nn.Module):
    """Logits of every period, side by side, (n, places); with their features, if asked."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([PeriodDiscriminator(period) for period in PERIODS])

    def forward(self, wave: Tensor) -> Tensor:
        return self.heard(wave)[0]

    def heard(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        found = [part(wave) for part in self.parts]
        return torch.cat([logits for logits, _ in found], 1), [one for _, features in found for one in features]


def vocoder() -> nn.Sequential:
    """Magnitudes (n, 17, frames) to waves (n, 1, 16·frames)."""
    return nn.Sequential(
        *(nn.Conv1d(17, 32, 5, 1, 2), nn.LeakyReLU(0.1), nn.ConvTranspose1d(32, 16, 8, 4, 2), nn.LeakyReLU(0.1)),
        *(nn.ConvTranspose1d(16, 16, 8, 4, 2), nn.LeakyReLU(0.1), nn.Conv1d(16, 1, 7, 1, 3), nn.Tanh()),
    )


def train(steps: int) -> poise.Monitor:
    """Train, and return the monitor."""
    generator = vocoder()
    discriminator = MultiPeriodDiscriminator()
    # poise: new, in place of weight_norm within
    poise.normalize(discriminator, "bssn", scale=2.0)
    # poise: new; the "latents" of this generator are spectrograms
    monitor = poise.Monitor(generator=generator, discriminator=discriminator, latents=(sounds(32)[1],))
    monitor.on("failing", lambda verdict: print(f"{verdict.name}: {verdict.evidence}; {verdict.advice}"))

    g_optimizer = torch.optim.AdamW(generator.parameters(), 1e-3, (0.8, 0.99))
    d_optimizer = torch.optim.AdamW(discriminator.parameters(), 1e-3, (0.8, 0.99))
    for step in range(1, steps + 1):
        real, spectrum = sounds(BATCH)
        fake = generator(spectrum)

        real_logits, fake_logits = discriminator(real), discriminator(fake.detach())
        d_loss = ((1 - real_logits) ** 2).mean() + (fake_logits**2).mean()
        d_optimizer.zero_grad()
        d_loss.backward()
        d_optimizer.step()

        logits, features = discriminator.heard(fake)
        wanted = discriminator.heard(real)[1]
        g_loss = ((1 - logits) ** 2).mean()
        matching = torch.stack([F.l1_loss(a, b.detach()) for a, b in zip(features, wanted, strict=True)]).sum()
        g_optimizer.zero_grad()
        (g_loss + 2 * matching + 10 * F.l1_loss(fake, real)).backward()
        g_optimizer.step()

        # poise: new
        seen = {"real_logits": real_logits, "fake_logits": fake_logits, "real": real, "fake": fake}
        monitor.observe(step, d_loss=d_loss, g_loss=g_loss, **seen)
    print(f"step {steps}: {monitor.verdict.name}, error {F.l1_loss(fake, real).item():.3f}")
    return monitor


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=40)
    torch.manual_seed(0)
    train(parser.parse_args().steps)
