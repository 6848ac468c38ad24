"""The judge of stacked digits: a small classifier of single digits, trained once in seconds and cached.

It sees one plane at a time. Trained on the training split only, with small shifts and noise; about 99% right on the
held-out digits. The cache is ``$POISE_CACHE``, or ``~/.cache/poise``; without a writable one it is trained each time.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from poise import noise
from poise.cache import cache_folder
from poise.data.digits import digits
from poise.sampling import to_float

VERSION = 1  # part of the cache's file name: raise it when the network, its training or its data change
STEPS, BATCH, PEAK_LR = 300, 128, 6e-3
FEATURES = 64


class DigitsClassifier(nn.Module):
    """``planes (n, 1, R, R) in [−1, 1] → features (n, 64), logits (n, 10)``."""

    def __init__(self, resolution: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.hidden = nn.Linear(64 * (resolution // 4) ** 2, FEATURES)
        self.logits = nn.Linear(FEATURES, 10)

    def forward(self, planes: Tensor) -> tuple[Tensor, Tensor]:
        h = F.max_pool2d(F.relu(self.conv1(planes)), 2)
        h = F.max_pool2d(F.relu(self.conv2(h)), 2)
        features = F.relu(self.hidden(h.flatten(1)))
        return features, self.logits(features)

    @torch.no_grad()
    def accuracy(self, split: str, resolution: int = 16) -> float:
        """Share of a split's digits named rightly, 0 to 1."""
        planes, labels = digits(split, resolution)
        return (self(to_float(planes[:, None]))[1].argmax(1) == labels).float().mean().item()


def digits_classifier(resolution: int = 16) -> DigitsClassifier:
    """The trained classifier, from the cache where it is there and whole; in evaluation mode, on the CPU."""
    path = cache_folder() / f"digits-classifier-v{VERSION}-{resolution}.safetensors"
    with torch.random.fork_rng(devices=[]):  # initial weights, about to be replaced
        classifier = DigitsClassifier(resolution).eval().requires_grad_(False)
    try:
        classifier.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError):  # not there, damaged, or of another shape: made anew
        classifier = train_digits_classifier(resolution)
        _keep(classifier, path)
    return classifier


@torch.inference_mode(False)
@torch.enable_grad()  # judging goes on without gradients, and may be what calls this
def train_digits_classifier(resolution: int = 16) -> DigitsClassifier:
    """Train from scratch; the caller's random state stays as it was."""
    planes, labels = digits("train", resolution)
    x = to_float(planes[:, None])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = DigitsClassifier(resolution)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=PEAK_LR / 2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, STEPS)
    reach = max(1, resolution // 16)  # shifts of at most half a pen stroke
    for step in range(STEPS):
        drawn = noise.integers(0, "classifier", torch.arange(step * BATCH, (step + 1) * BATCH), 1, len(x))[:, 0]
        down, right = (noise.integers(0, "shift", torch.tensor([step]), 2, 2 * reach + 1)[0] - reach).tolist()
        grain = noise.normal(0, "grain", torch.arange(step * BATCH, (step + 1) * BATCH), resolution**2)
        batch = torch.roll(x[drawn], (down, right), (2, 3)) + 0.1 * grain.view(BATCH, 1, resolution, resolution)
        loss = F.cross_entropy(classifier(batch)[1], labels[drawn])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return classifier.eval().requires_grad_(False)


def _keep(classifier: DigitsClassifier, path: Path) -> None:
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(classifier.state_dict(), unfinished)
        unfinished.replace(path)
    except (OSError, SafetensorError):  # a read-only or full disk costs the next run a few seconds, nothing else
        with contextlib.suppress(OSError):
            unfinished.unlink()
