"""The networks of a finished run as they were at a step, and the images they are shown."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from poise.norms import denormalize
from poise.sampling import Sampler, to_float
from poise.training import Run
from poise.training.checkpoint import find, load_network, steps
from poise.training.run import build, build_latent


def kept(run: Run) -> list[int]:
    """Steps at which a run can be measured: 0, before the first one, and those of its checkpoints, rising."""
    return [0, *steps(run.checkpoints)]


def networks_at(run: Run, step: int, device: torch.device) -> tuple[nn.Module, nn.Module]:
    """(G, D) as they were after a step, in evaluation mode, norms in place; step 0 is made again from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.recipe.seed)
        generator, discriminator, _ = build(run.recipe)
    if step:
        path, _ = find(run.checkpoints, step)
        generator.load_state_dict(load_network(path, "generator"))
        discriminator.load_state_dict(load_network(path, "discriminator"))
    return generator.to(device).eval(), discriminator.to(device).eval()


def baked(network: nn.Module) -> nn.Module:
    """The network with its effective weights as plain ones, which can be differentiated."""
    return denormalize(network)


def sampler_at(run: Run, step: int, device: torch.device) -> Sampler:
    """The averaged generator after a step; at step 0 the generator before the first one."""
    if step:
        return run.sampler("ema", str(device), step)
    return Sampler(networks_at(run, 0, device)[0], build_latent(run.recipe))


def real_images(run: Run, n: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """The first n of the run's data as D sees them, and their labels where its networks take some."""
    images, labels = run.data().batch(0, n)
    images = images.to(device)
    takes_labels = run.recipe.model.options.get("num_classes", 0)
    return to_float(images), labels.to(device) if takes_labels else None


def layers(network: nn.Module) -> dict[str, nn.Module]:
    """Its linear and convolutional layers by name, in the order they are made."""
    kinds = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, kinds)}
