"""One update of each player: what is drawn for it, in how many parts it is computed, and the optimizer's step."""

from __future__ import annotations

import torch
from torch import Tensor

from poise import replicas
from poise.augmentation import drawn
from poise.data import Images
from poise.sampling import labels
from poise.training.recipe import Recipe
from poise.training.step import Players, discriminator_gradients, generator_gradients


def discriminator_update(players: Players, data: Images, recipe: Recipe, update: int) -> dict[str, Tensor]:
    """The discriminator's update number ``update``. Returns its signals, means over this process's part, on device."""
    found = []
    for index, (first, size) in enumerate(_parts(players, update, recipe.batch_size, recipe.accumulate)):
        real, y = drawn_real(players, data, first, size)
        z, fake_y = drawn_fake(players, recipe.seed, first, size, "d")
        part = (index, recipe.accumulate)
        u, fake_u = (drawn_augmentation(players, recipe.seed, first, size, f"d-{kind}") for kind in ("real", "fake"))
        with replicas.together():
            found.append(discriminator_gradients(players, real, z, y, fake_y, update, part, u, fake_u))
    players.processes.average_gradients(players.d_optimizer)
    players.d_optimizer.step()
    return _mean(found)


def generator_update(players: Players, data: Images, recipe: Recipe, update: int) -> dict[str, Tensor]:
    """The generator's update number ``update``. Returns its signals, means over this process's part, on device."""
    found, size = [], recipe.g_batch_size or recipe.batch_size
    for index, (first, count) in enumerate(_parts(players, update, size, recipe.accumulate)):
        z, fake_y = drawn_fake(players, recipe.seed, first, count, "g")
        real, y = drawn_real(players, data, first, count) if players.loss.needs_real else (None, None)
        part = (index, recipe.accumulate)
        u, fake_u = (drawn_augmentation(players, recipe.seed, first, count, f"g-{kind}") for kind in ("real", "fake"))
        with replicas.together():
            found.append(generator_gradients(players, z, fake_y, real, y, part, u, fake_u, update))
    players.processes.average_gradients(players.g_optimizer)
    players.g_optimizer.step()
    return _mean(found)


def drawn_real(players: Players, data: Images, first: int, size: int) -> tuple[Tensor, Tensor | None]:
    """Real images number ``first`` and on, uint8, on the device; and their labels, if the networks take any."""
    with replicas.together():
        real, y = data.batch(first, size)
    real = real.to(players.device, non_blocking=True)
    return real, y.to(players.device, non_blocking=True) if players.generator.num_classes else None


def drawn_fake(players: Players, seed: int, first: int, size: int, player: str) -> tuple[Tensor, Tensor | None]:
    """A player's latents number ``first`` and on, and labels if the generator takes any, on the device."""
    z = players.latents(seed, first, size, f"{player}-latent")
    y = labels(players.generator, seed, first, size, stream=f"{player}-label")
    return z.to(players.device), None if y is None else y.to(players.device)


def drawn_augmentation(players: Players, seed: int, first: int, size: int, stream: str) -> Tensor | None:
    """What decides the augmentation of images number ``first`` and on, on the device; None where there is none."""
    return drawn(seed, stream, first, size).to(players.device, non_blocking=True) if players.augment else None


def _parts(players: Players, update: int, size: int, count: int) -> list[tuple[int, int]]:
    """First number and size of each part of a batch, as far as it is this process's."""
    share = size // count
    return [players.processes.part(update * size + index * share, share) for index in range(count)]


def _mean(found: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    if len(found) == 1:
        return found[0]
    return {name: torch.stack([signals[name] for signals in found]).mean() for name in found[0]}
