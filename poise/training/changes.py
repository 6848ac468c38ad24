"""What a run does otherwise after it returned to a checkpoint: slower rates, a stronger R1, layers whose σ₀ is held.

The changes are part of every later checkpoint, so that a resumed run is the one that was stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from poise.monitor.advice import REMEDIES, Remedy
from poise.monitor.probes import weights
from poise.monitor.verdict import Verdict
from poise.norms import SigmaClamp, normalized_weights
from poise.norms.updates import watch
from poise.penalties import OF_WEIGHTS
from poise.spectra.power import as_matrix
from poise.training.sections import Choice

AGAIN = Remedy(g_rate=0.25, d_rate=0.25, r1=True, clamp=True, damp=True)
"""for a run that fails again although it returned, by the same verdict or another: all there is"""
STEP = 0.005
"""share of its weights by which a player that failed may go on to move in a step; with ring2d, grid2d and
stacked-digits it is 0.001 to 0.0035"""
FLAT = "real_logit_std"
"""signal of a discriminator that says the same of all samples; R1 would flatten it further"""
R1_FIRST, R1_TIMES, R1_MOST = 1.0, 4.0, 100.0
"""γ of an R1 that is added, the middle of what is usual (0.1 to 10: Mescheder et al. 2018), times what it is raised,
and where that ends"""
HEADROOM = 1.5
"""times σ₀ in the checkpoint, where a clamped layer's is held: some growth is part of learning"""


@dataclass(frozen=True)
class Changes:
    """All that was changed since the run began; none by default."""

    g_rate: float = 1.0
    """factor of the generator's learning rate"""
    d_rate: float = 1.0
    """factor of the discriminator's"""
    r1: float = 0.0
    """γ of R1, in place of the recipe's; 0: as the recipe has it"""
    clamps: Mapping[str, float] = field(default_factory=dict)
    """most that σ₀ of a trained weight may be, by layer, "G.…" or "D.…" """
    since: int = 0
    """step of the checkpoint from which they hold"""
    returns: Mapping[str, int] = field(default_factory=dict)
    """times the run returned, by verdict"""
    damped: bool = False
    """whether the optimizers go on without momentum: β₁ = 0"""

    def penalties(self, given: Sequence[Choice]) -> list[Choice]:
        """The discriminator's penalties, with R1 as it is now."""
        if not self.r1:
            return list(given)
        others = [choice for choice in given if choice.name != "r1"]
        own = next((choice.options for choice in given if choice.name == "r1"), {})
        return [*others, Choice(name="r1", **{**own, "gamma": self.r1})]

    def __str__(self) -> str:
        said = []
        if self.g_rate == self.d_rate != 1:
            said.append(f"learning rates × {self.g_rate:.3g}")
        else:
            rates = (("generator", self.g_rate), ("discriminator", self.d_rate))
            said += [f"the {player}'s learning rate × {rate:.3g}" for player, rate in rates if rate != 1]
        said += ["no momentum"] if self.damped else []
        said += [f"R1 with γ = {self.r1:g}"] if self.r1 else []
        said += [f"σ₀ of {layer} at most {level:.3g}" for layer, level in self.clamps.items()]
        return ", ".join(said) or "nothing changed"


def advised(
    before: Changes,
    verdict: Verdict,
    networks: Mapping[str, nn.Module],
    penalties: Sequence[Choice],
    step: int,
    moved: Mapping[str, float] | None = None,
    with_momentum: bool = False,
) -> Changes:
    """The changes after a return for ``verdict``: those before it and what the advice of it asks for.

    A run that fails again, by whatever verdict, has both rates quartered, R1, no momentum, and a clamp of the layer.
    A discriminator that nothing bounds gets R1 for any failure, and no momentum: without R1 the pair need not even
    converge from close by, at any rate (Mescheder et al. 2018, section 2), and momentum drives it outward (Gidel et al.
    2019, section 3). So the rates are left as they are the first time, unless numbers were not finite. Not so one whose
    logits are flat already. Whatever the verdict, a player that moved faster than ``STEP`` is slowed down to that; not
    where momentum is taken away, with which it was measured.

    Args:
        networks: "G" and "D" as they are in the checkpoint. penalties: the recipe's. step: of the checkpoint.
        moved: of "G" and "D", the share of its weights that each moved by in a step, where it is known.
        with_momentum: whether an optimizer has momentum.
    """
    remedy = AGAIN if before.returns else REMEDIES[verdict.name]
    is_flat = verdict.name == "discriminator-blind" and verdict.signal == FLAT
    r1, clamps = before.r1, dict(before.clamps)
    unbounded = is_unbounded(networks.get("D"), penalties) and not is_flat
    if unbounded and not r1:
        is_slower = verdict.is_fatal or before.returns
        remedy = replace(remedy if is_slower else replace(remedy, g_rate=1.0, d_rate=1.0), damp=True)
    if unbounded or (remedy.r1 and not is_flat):
        own = next((float(choice.options.get("gamma", 10.0)) for choice in penalties if choice.name == "r1"), 0.0)
        r1 = min(R1_MOST, R1_TIMES * (r1 or own) or R1_FIRST)
    player, _, name = verdict.layer.partition(".")
    if remedy.clamp and player in networks and name in weights(networks[player]):
        weight, row_dim = weights(networks[player])[name]
        sigma = torch.linalg.matrix_norm(as_matrix(weight.detach(), row_dim).float(), 2)
        level = HEADROOM * float(sigma)
        clamps[verdict.layer] = min(level, clamps.get(verdict.layer, level))
    damped = before.damped or (remedy.damp and with_momentum)
    known = moved if moved and damped == before.damped else {}
    g_most, d_most = (STEP / max(STEP, known.get(player, 0.0)) for player in ("G", "D"))
    rates = {
        "g_rate": before.g_rate * min(remedy.g_rate, g_most),
        "d_rate": before.d_rate * min(remedy.d_rate, d_most),
    }
    returns = {**before.returns, verdict.name: before.returns.get(verdict.name, 0) + 1}
    return replace(before, **rates, r1=r1, clamps=clamps, since=step, returns=returns, damped=damped)


def damp(optimizer: torch.optim.Optimizer) -> None:
    """Take the momentum away: β₁ of Adam and its like, and SGD's; the averages of squares stay."""
    for group in optimizer.param_groups:
        if "betas" in group:
            group["betas"] = (0.0, *group["betas"][1:])
        if "momentum" in group:
            group["momentum"] = 0.0


def has_momentum(optimizer: torch.optim.Optimizer) -> bool:
    """Whether ``damp`` would change it."""
    return any(group.get("betas", (0.0,))[0] or group.get("momentum") for group in optimizer.param_groups)


def is_unbounded(discriminator: nn.Module | None, penalties: Sequence[Choice]) -> bool:
    """Whether neither a penalty on its gradients nor a normalized weight bounds a discriminator's slope.

    Args:
        discriminator: None where it is not known, which is not held for unbounded.
    """
    if discriminator is None or any(choice.name not in OF_WEIGHTS for choice in penalties):
        return False
    return next(normalized_weights(discriminator), None) is None


class Clamps:
    """Holds σ₀ of layers' trained weights after each optimizer step (Brock et al. 2019, section 4.1).

    Args:
        networks: "G" and "D". levels: by layer, as in ``Changes``; layers that are not there are passed over.
        vectors: by layer what ``vectors`` gave, to go on from.
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        levels: Mapping[str, float],
        vectors: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.held: dict[str, SigmaClamp] = {}
        for layer, level in levels.items():
            player, _, name = layer.partition(".")
            found = weights(networks[player]).get(name) if player in networks else None
            if found is None:
                continue
            weight, row_dim = found
            with torch.random.fork_rng([weight.device] if weight.is_cuda else []):
                torch.manual_seed(0)  # all processes find the same vectors, and the run's random numbers stay
                clamp = SigmaClamp(weight.detach(), row_dim, sigma=level)
            if vectors and layer in vectors:
                clamp.right = vectors[layer].to(clamp.right)
            self.held[layer] = clamp
            watch(weight, clamp)  # for as long as it is held here

    def vectors(self) -> dict[str, Tensor]:
        """The singular vectors that the next step goes on from, by layer."""
        return {layer: clamp.right.clone() for layer, clamp in self.held.items()}
