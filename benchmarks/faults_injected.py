"""What is done to a run to make it fail: each fault acts from an onset on, at one place of the training loop."""

# ruff: noqa: ARG002 - a fault need not use all that a place in the loop hands it
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

FLOAT16_MAX = 65504.0


@dataclass
class Game:
    """What a fault may lay hands on: the networks, their optimizers, the step and the random state of the run."""

    generator: Any
    discriminator: nn.Module
    optimizers: dict[str, torch.optim.Optimizer]
    draw: torch.Generator
    step: int = 0
    memory: dict[str, Any] = field(default_factory=dict)

    def weight(self, layer: str) -> nn.Parameter:
        """The trained weight of a layer, "G.layers.2": of a normalized one, the weight before its norm."""
        network, name = layer.split(".", 1)
        found = (self.generator if network == "G" else self.discriminator).get_submodule(name)
        parametrized = dict(found.named_parameters()).get("parametrizations.weight.original")
        return parametrized if parametrized is not None else found.get_parameter("weight")


class Fault:
    """Nothing at all; the faults below change one part each. Every method is called from the onset on."""

    def __repr__(self) -> str:
        return type(self).__name__

    def begin_step(self, game: Game) -> None:
        """Before the step's updates."""

    def real(self, x: Tensor, game: Game) -> Tensor:
        """Real samples as the discriminator gets them."""
        return x

    def fake(self, x: Tensor, game: Game) -> Tensor:
        """Fakes as the discriminator gets them in its own update."""
        return x

    def latents(self, z: Tensor, game: Game) -> Tensor:
        return z

    def generator_loss(self, loss: Tensor, fake: Tensor, game: Game) -> Tensor:
        return loss

    def gradients(self, parameters: list[nn.Parameter], player: str, game: Game) -> None:
        """A player's gradients before its optimizer's step."""

    def trains(self, player: str) -> bool:
        return True


@dataclass
class ScaledRates(Fault):
    """Rates times ``factor``, of the players named; with ``over`` steps, growing to it geometrically."""

    factor: float
    players: str = "GD"
    over: int = 0

    def begin_step(self, game: Game) -> None:
        since = game.memory.setdefault("since", game.step)
        done = min(1.0, (game.step - since) / self.over) if self.over else 1.0
        for player in self.players:
            for group in game.optimizers[player].param_groups:
                group["lr"] = group.setdefault("lr_before", group["lr"]) * self.factor**done


@dataclass
class GrownSigma(Fault):
    """A layer's weight times ``1 + rate`` each step: every σ of it grows together."""

    layer: str
    rate: float

    @torch.no_grad()
    def begin_step(self, game: Game) -> None:
        game.weight(self.layer).mul_(1 + self.rate)


@dataclass
class ShrunkSpectrum(Fault):
    """All singular values of a layer's weight but the first ``kept`` times ``1 − rate`` each step: its rank is lost."""

    layer: str
    rate: float
    kept: int = 1

    @torch.no_grad()
    def begin_step(self, game: Game) -> None:
        weight = game.weight(self.layer)
        u, s, vh = torch.linalg.svd(weight.flatten(1), full_matrices=False)
        s[self.kept :] *= 1 - self.rate
        weight.copy_((u * s @ vh).view_as(weight))


@dataclass
class DeadUnits(Fault):
    """A share of a layer's units gets a bias so low that its ReLU never opens; the share grows over ``over`` steps."""

    layer: str
    over: int = 1

    @torch.no_grad()
    def begin_step(self, game: Game) -> None:
        since = game.memory.setdefault("since", game.step)
        network, name = self.layer.split(".", 1)
        bias = (game.generator if network == "G" else game.discriminator).get_submodule(name).get_parameter("bias")
        dead = min(1.0, (game.step - since + 1) / self.over)
        bias[: round(dead * len(bias))] = -1000.0


@dataclass
class KilledDiversity(Fault):
    """G's loss gets the batch's variance times a weight that grows by ``slope`` a step."""

    slope: float

    def generator_loss(self, loss: Tensor, fake: Tensor, game: Game) -> Tensor:
        since = game.memory.setdefault("since", game.step)
        return loss + self.slope * (game.step - since) * fake.flatten(1).var(0).mean()


@dataclass
class LeakedLabel(Fault):
    """One pixel tells real (1) from fake (−1) in D's update, and G cannot change it: any preprocessing of one side."""

    def real(self, x: Tensor, game: Game) -> Tensor:
        return _marked(x, 1.0)

    def fake(self, x: Tensor, game: Game) -> Tensor:
        return _marked(x, -1.0)


def _marked(x: Tensor, value: float) -> Tensor:
    x = x.clone()
    x[..., :2, :2] = value
    return x


@dataclass
class NotFiniteBatch(Fault):
    """One batch of real samples holds a value that is not finite."""

    value: float = float("nan")

    def real(self, x: Tensor, game: Game) -> Tensor:
        if game.memory.setdefault("at", game.step) == game.step:
            x = x.clone()
            x[0] = self.value
        return x


@dataclass
class UnscaledShard(Fault):
    """Real samples come in another unit, ``factor`` times as large: a shard stored as 0–255 and never scaled."""

    factor: float

    def real(self, x: Tensor, game: Game) -> Tensor:
        return x * self.factor


@dataclass
class BlankShard(Fault):
    """A growing share of the real samples is one and the same blank value: files that cannot be read."""

    over: int
    value: float = 0.0

    def real(self, x: Tensor, game: Game) -> Tensor:
        since = game.memory.setdefault("since", game.step)
        blank = torch.rand(len(x), generator=game.draw) < min(1.0, (game.step - since + 1) / self.over)
        return torch.where(blank.view(-1, *[1] * (x.ndim - 1)), torch.full_like(x, self.value), x)


@dataclass
class SwappedLabels(Fault):
    """Half of D's real and fake samples change places: D learns that both are alike."""

    def real(self, x: Tensor, game: Game) -> Tensor:
        game.memory["real"] = x
        return x

    def fake(self, x: Tensor, game: Game) -> Tensor:
        real = game.memory["real"]
        half = len(x) // 2
        kept = x[:half].clone()
        x = x.clone()
        x[:half] = real[:half]
        real[:half] = kept
        return x


@dataclass
class StuckLatents(Fault):
    """Every batch gets the same few latents: a seed set anew at each step."""

    kept: int = 1

    def latents(self, z: Tensor, game: Game) -> Tensor:
        return game.memory.setdefault("z", z[: self.kept].clone()).repeat(-(-len(z) // self.kept), 1)[: len(z)]


@dataclass
class HalfOverflow(Fault):
    """Gradients in float16 under a loss scale that doubles every ``every`` steps, and nothing skips the overflow."""

    every: int

    @torch.no_grad()
    def gradients(self, parameters: list[nn.Parameter], player: str, game: Game) -> None:
        since = game.memory.setdefault("since", game.step)
        scale = 2.0 ** (10 + (game.step - since) // self.every)
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.copy_((parameter.grad * scale).half().float() / scale)


@dataclass
class FrozenPlayer(Fault):
    """One player is no longer trained: its optimizer was built on a copy."""

    player: str

    def trains(self, player: str) -> bool:
        return player != self.player


@dataclass
class KickedWeights(Fault):
    """Noise as large as ``size`` times its standard deviation is added to each weight of a player every step."""

    size: float
    player: str = "D"

    @torch.no_grad()
    def begin_step(self, game: Game) -> None:
        network = game.generator if self.player == "G" else game.discriminator
        for weight in network.parameters():
            if weight.ndim > 1:
                weight.add_(torch.randn(weight.shape, generator=game.draw) * weight.std() * self.size)
