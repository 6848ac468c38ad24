"""What is measured by showing samples to the networks: hidden outputs, logits, diversity, steepness.

Networks are shown them in evaluation mode and without a trace: no statistic, singular vector or random state changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from poise import noise
from poise.monitor.probes import weights

SATURATED = 4.6
"""the logit from which the sigmoid is within 1% of its end"""
NEAREST, LARGEST = 1e-3, 1e6
"""of the real samples' mean distance: the least that counts as one to a neighbour; and the largest ratio said"""
NARROW = 0.04
"""of the same: the least distance to a neighbour that others are measured by: fakes upon narrow modes are near"""


def logit_signals(real: Tensor | None, fake: Tensor | None) -> dict[str, Tensor]:
    """Of the logits of real and of fake samples, shapes (n,) and (m,), or any others: scalars, not read back.

    ``ranking`` is the probability that a real sample's logit is above a fake one's, ties counting half (the area under
    the ROC curve): 1 where D tells all apart, 1/2 where it is blind, whatever the loss. ``saturation`` is the share of
    samples whose sigmoid is within 1% of the right end.
    """
    found = {}
    logits = {}
    for name, given in (("real", real), ("fake", fake)):
        if given is not None:
            logits[name] = given.detach().float().reshape(-1)
            found[f"{name}_logit"] = logits[name].mean()
            found[f"{name}_logit_std"] = logits[name].std(correction=0)
    if len(logits) == 2:
        r, f = logits["real"][:256], logits["fake"][:256]
        found["logit_gap"] = found["real_logit"] - found["fake_logit"]
        found["ranking"] = 0.5 + 0.5 * (r[:, None] - f).sign().mean()
        found["saturation"] = torch.cat([r > SATURATED, f < -SATURATED]).float().mean()
    return found


def diversity(real: Tensor, fake: Tensor, most: int = 64) -> dict[str, Tensor]:
    """Of real and fake samples, flattened: scalars, but the last each a ratio of fake to real; 1 where both are alike.

    ``diversity``: mean distance between two; ``neighbours``: median distance to the nearest of one's own kind;
    ``coverage``: median distance of real samples to the nearest fake, over that to the nearest other real one, or over
    ``NARROW`` of the mean distance between two. None is above ``LARGEST``, so that real samples that are all alike make
    no infinity. ``copies``: share of real samples that lie as good as upon another one.

    Args:
        most: samples of each that are looked at.
    """
    n = min(len(real), len(fake), most)
    if n < 3:
        return {}
    real, fake = real[:n].detach().float().flatten(1), fake[:n].detach().float().flatten(1)
    far = torch.eye(n, device=real.device) * torch.finfo(torch.float32).max
    among_real, among_fake = torch.cdist(real, real), torch.cdist(fake, fake)
    tiny = torch.finfo(torch.float32).tiny
    nearest_real = torch.maximum((among_real + far).amin(1).median(), NEAREST * among_real.mean()).clamp_min(tiny)
    found = {
        "copies": ((among_real + far).amin(1) <= NEAREST * among_real.mean()).float().mean(),
        "diversity": among_fake.sum() / among_real.sum().clamp_min(tiny),
        "neighbours": (among_fake + far).amin(1).median() / nearest_real,
        "coverage": torch.cdist(real, fake).amin(1).median() / torch.maximum(nearest_real, NARROW * among_real.mean()),
    }
    return {name: value.clamp_max(LARGEST) for name, value in found.items()}


@torch.no_grad()
def hidden_variances(module: nn.Module, *inputs: Tensor) -> tuple[dict[str, Tensor], Tensor | None]:
    """Variance of each layer's output over samples, units and places, by layer; and D's features.

    The layers are those with a weight of at least 2 dimensions. Features are what enters the last of them, (n, …). The
    measure of vanishing of Lin et al. 2021.
    """
    found: dict[str, Tensor] = {}
    features: list[Tensor] = []

    def look(name: str) -> Any:
        def hook(layer: nn.Module, given: tuple[Any, ...], made: Any) -> None:
            if isinstance(made, Tensor) and made.is_floating_point():
                found.setdefault(name, made.detach().float().var(correction=0))
                if given and isinstance(given[0], Tensor) and given[0].is_floating_point():
                    features[:] = [given[0].detach()]

        return hook

    handles = [module.get_submodule(name).register_forward_hook(look(name)) for name in weights(module)]
    try:
        with unnoticed(module):
            module(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found, features[0] if features else None


def lipschitz(module: nn.Module, real: Tensor, fake: Tensor, *labels: Tensor) -> Tensor:
    """The steepest ``‖∇D(x)‖`` at one point on each line from a real to a fake sample: a lower bound, a scalar.

    Where on the line is fixed, evenly spread. Of a network with several outputs, that of their sum.
    """
    n = min(len(real), len(fake))
    place = noise.uniform(0, "monitor-line", torch.arange(n), 1).to(real).view(-1, *[1] * (real.ndim - 1))
    x = torch.lerp(real[:n].detach(), fake[:n].detach(), place).requires_grad_(True)
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    try:
        for (
            weight
        ) in trained:  # no gradient of theirs is needed, and no norm makes a graph that a later step would find
            weight.requires_grad_(False)
        with unnoticed(module), torch.enable_grad():
            (slope,) = torch.autograd.grad(_total(module(x, *labels)), x)
    finally:
        for weight in trained:
            weight.requires_grad_(True)
    return slope.detach().float().flatten(1).norm(dim=1).amax()


def _total(logits: Any) -> Tensor:
    """The sum of all outputs, so that each sample's slope is its own."""
    if isinstance(logits, Tensor):
        return logits.float().sum()
    return torch.stack([_total(one) for one in logits]).sum()


def as_input(samples: Tensor, module: nn.Module, most: int) -> Tensor:
    """The first samples as the network takes them: uint8 images scaled to [−1, 1], in the weights' type and place."""
    like = next((p for p in module.parameters() if p.is_floating_point()), None)
    samples = samples[:most].detach()
    if samples.dtype == torch.uint8:
        samples = samples.float() / 127.5 - 1
    return samples if like is None or not samples.is_floating_point() else samples.to(like)


def latents_for(generator: nn.Module, most: int) -> tuple[Tensor, ...] | None:
    """Latents, and labels if it takes any, for a generator that says ``latent_dim``; None for any other."""
    width, classes = getattr(generator, "latent_dim", None), getattr(generator, "num_classes", 0)
    like = next(generator.parameters(), None)
    if not isinstance(width, int) or like is None:
        return None
    z = noise.normal(0, "monitor-latent", torch.arange(most), width).to(like)
    return (z, torch.arange(most, device=like.device) % classes) if classes else (z,)


@contextmanager
def unnoticed(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, without autocast; afterwards each module's own mode, and the random state, as they were."""
    training = [one for one in module.modules() if one.training]
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    for one in training:
        one.training = False
    try:
        forked = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(forked), torch.autocast(device.type, enabled=False):
            yield
    finally:
        for one in training:
            one.training = True
