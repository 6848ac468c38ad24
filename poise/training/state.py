"""What a training is at a step: two networks, their optimizers and the average; made, advanced, saved, restored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from poise.data import Images
from poise.losses import LOSSES
from poise.monitor import Verdict
from poise.penalties import PENALTIES, Lazy
from poise.training import checkpoint
from poise.training.changes import Changes, Clamps, damp
from poise.training.checkpoint import Checkpoint, Progress
from poise.training.ema import Ema
from poise.training.optimizers import build_optimizer, rate_factor
from poise.training.processes import Processes
from poise.training.recipe import Recipe
from poise.training.recovery import unsound
from poise.training.run import build_latent
from poise.training.sections import Choice, Optimizer, RecipeError
from poise.training.step import Players
from poise.training.update import discriminator_update, generator_update


@dataclass
class State:
    """The moving parts of a training."""

    recipe: Recipe
    data: Images
    players: Players
    ema: Ema
    changes: Changes = field(default_factory=Changes)
    """what is done otherwise than the recipe says, after returns to a checkpoint"""
    kept: dict[str, Any] = field(default_factory=dict)
    """the monitor's state in the checkpoint restored last"""

    def __post_init__(self) -> None:
        self._clamps = Clamps({}, {})

    @classmethod
    def start(
        cls,
        recipe: Recipe,
        networks: tuple[nn.Module, nn.Module],
        data: Images,
        device: torch.device,
        together: Processes,
    ) -> State:
        """The state before the first step, on a device; precision and compile of the recipe are chosen by then.

        Raises:
            RecipeError: an optimizer that cannot be made as the recipe wants it.
        """
        generator, discriminator = (network.to(device) for network in networks)
        together.join(generator, discriminator)
        players = Players(
            generator,
            discriminator,
            _optimizer(generator, recipe.g_optimizer, "g_optimizer"),
            _optimizer(discriminator, recipe.d_optimizer, "d_optimizer"),
            LOSSES[recipe.loss],
            device,
            recipe.precision,
            penalties=_penalties(recipe.penalties),
            compiled=bool(recipe.compile),
            augment=recipe.augment,
            g_penalties=_penalties(recipe.g_penalties),
            latent=build_latent(recipe),
            processes=together,
        )
        return cls(recipe, data, players, Ema(generator, recipe.ema_half_life, recipe.ema_start))

    @property
    def networks(self) -> dict[str, nn.Module]:
        """By the names of their files."""
        return {
            "generator": self.players.generator,
            "discriminator": self.players.discriminator,
            "ema": self.ema.module,
        }

    @property
    def watched(self) -> dict[str, nn.Module]:
        """The two players, by the names the monitor gives them."""
        return {"G": self.players.generator, "D": self.players.discriminator}

    def advance(self, step: int, is_watched: bool = False) -> dict[str, Tensor]:
        """Step number ``step``: the discriminator's updates, the generator's, the average. Returns the last signals.

        Args:
            is_watched: leave what the discriminator saw last in ``players.seen``.
        """
        recipe, players = self.recipe, self.players
        self._set_learning_rates(rate_factor(step, recipe.steps, recipe.lr_schedule, recipe.lr_warmup))
        last = step * recipe.n_dis - 1
        for update in range((step - 1) * recipe.n_dis, last + 1):
            players.is_watched = is_watched and update == last
            signals = discriminator_update(players, self.data, recipe, update)
        signals |= generator_update(players, self.data, recipe, step - 1)
        self.ema.update(players.generator, step)
        return signals

    def unsound(self, step: int) -> Verdict | None:
        """A verdict if any weight or statistic is not finite."""
        return unsound({**self.watched, "EMA": self.ema.module}, step)

    def snapshot(self, done: Progress, monitor: dict[str, Any] | None = None) -> Checkpoint:
        """All of it, as it is saved, with the state of the monitor that looks on."""
        return Checkpoint(
            {name: network.state_dict() for name, network in self.networks.items()},
            {
                "generator": self.players.g_optimizer.state_dict(),
                "discriminator": self.players.d_optimizer.state_dict(),
                "random": torch.get_rng_state(),  # for networks that draw noise; latents and data need none
                **({"clamps": vectors} if (vectors := self._clamps.vectors()) else {}),
            },
            done,
            monitor or {},
        )

    def restore_newest(self, checkpoints: Path, say: Callable[[str], None]) -> Progress:
        """Become what the newest whole checkpoint holds. Raises CheckpointError where there is none."""
        path, complaints = checkpoint.newest(checkpoints)
        for complaint in complaints:
            say(complaint)
        return self.restore(path)

    def restore(self, path: Path) -> Progress:
        """Become what a checkpoint holds."""
        saved = checkpoint.load(path)
        for name, network in self.networks.items():
            network.load_state_dict(saved.networks[name])
        self.players.g_optimizer.load_state_dict(saved.optimizers["generator"])
        self.players.d_optimizer.load_state_dict(saved.optimizers["discriminator"])
        self.change(saved.progress.changes, saved.optimizers.get("clamps"))
        torch.set_rng_state(saved.optimizers["random"])
        self.kept = saved.monitor
        return saved.progress

    def change(self, changes: Changes, vectors: Mapping[str, Tensor] | None = None) -> None:
        """Go on with these changes to the recipe.

        Args:
            vectors: of clamped layers, where they go on from a checkpoint.
        """
        self.changes = changes
        self.players.penalties = _penalties(changes.penalties(self.recipe.penalties))
        self._clamps = Clamps(self.watched, changes.clamps, vectors)
        if changes.damped:
            damp(self.players.g_optimizer)
            damp(self.players.d_optimizer)

    def _set_learning_rates(self, factor: float) -> None:
        for optimizer, settings, changed in (
            (self.players.g_optimizer, self.recipe.g_optimizer, self.changes.g_rate),
            (self.players.d_optimizer, self.recipe.d_optimizer, self.changes.d_rate),
        ):
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * factor * changed


def _optimizer(module: nn.Module, settings: Optimizer, field: str) -> torch.optim.Optimizer:
    try:
        return build_optimizer(module, settings.name, settings.lr, settings.betas, settings.options)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{field}: {settings.name} cannot be made: {error}") from None


def _penalties(chosen: Iterable[Choice]) -> list[Lazy]:
    return [PENALTIES.build(penalty.name, **penalty.options) for penalty in chosen]
