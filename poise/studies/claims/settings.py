"""What the claims' grids are made of: budgets, the papers' optimizer settings, and the methods that they compare.

The miniature is the standard CNN at a quarter of its width on stacked digits of 16×16, with a quarter of the batch, a
few hundred updates instead of hundreds of thousands, and twenty times the papers' learning rates. With these SN in
setting B, the base of most grids, covers some 200 of the 1000 modes in 2,000 samples within ten seconds or so. It was
fixed before any claim was judged. Other data, other networks: its figures are not the papers', only their order is
compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from poise.studies.trial import Trial

SEEDS, FEW = range(5), range(3)


@dataclass(frozen=True)
class Scale:
    """What the runs of a budget have in common.

    Attributes:
        recipe: a shipped recipe's name. changes: over it, in every run.
        rate: factor on the papers' learning rates.
        steps: generator updates by n_dis.
        kept: parts of a run after which a checkpoint is kept, where it is measured through training.
    """

    recipe: str
    steps: Mapping[int, int]
    rate: float = 1.0
    changes: Mapping[str, Any] = field(default_factory=dict)
    kept: int = 4


ON_DIGITS = {"d_norm.name": "none", "lr_schedule": "constant", "keep_checkpoints": 1, "best_by": "none"}
"""of the miniature and of the small budget alike"""
MINI = Scale(
    "stacked-digits",
    {1: 450, 2: 220, 5: 140},
    rate=20.0,
    changes=ON_DIGITS
    | {
        "model.resolution": 16,
        "model.width": 16,
        "batch_size": 16,
        "ema_half_life": 50,
        "evaluation_samples": 2000,
        "log_every": 25,
        "device": "cpu",
        "precision": "bf16",  # on a CPU quicker than fp32 by a third
    },
)
SMALL = Scale(
    "stacked-digits",
    {1: 8_000, 2: 5_000, 5: 2_500},
    rate=2.0,
    changes=ON_DIGITS
    | {
        "data.resolution": 32,
        "model.resolution": 32,
        "model.width": 64,
        "ema_half_life": 500,
        "log_every": 100,
    },
    kept=10,
)
CIFAR = Scale("sngan-cnn-cifar10", {1: 100_000, 5: 100_000}, changes={"evaluation_samples": 5_000}, kept=10)
"""Miyato et al.; they do not say how many updates each setting had, 100,000 are ours"""
STL = Scale("bssn-stl10", {1: 100_000, 5: 100_000}, changes={"evaluation_samples": 5_000})
"""the same network on STL-10"""
BSN_CIFAR = Scale("bssn-cifar10", {1: 400_000, 5: 400_000}, changes={"evaluation_samples": 5_000}, kept=10)
BSN_STL = Scale("bssn-stl10", {1: 800_000, 5: 400_000}, changes={"evaluation_samples": 5_000})
BSN_CELEBA = Scale("bssn-celeba64", {1: 400_000, 5: 400_000}, changes={"evaluation_samples": 5_000})


@dataclass(frozen=True)
class Setting:
    """Adam's learning rates, its β₁ and β₂, and D's updates for one of G."""

    g_rate: float
    d_rate: float
    beta1: float
    beta2: float
    n_dis: int

    def changes(self, scale: Scale) -> dict[str, Any]:
        """As a recipe has them."""
        betas = {f"{player}_optimizer.{name}": value for player in "gd" for name, value in self.betas.items()}
        return {
            "g_optimizer.lr": self.g_rate * scale.rate,
            "d_optimizer.lr": self.d_rate * scale.rate,
            **betas,
            "n_dis": self.n_dis,
            "steps": scale.steps[self.n_dis],
        }

    @property
    def betas(self) -> dict[str, float]:
        return {"beta1": self.beta1, "beta2": self.beta2}


SETTINGS = {
    "A": Setting(1e-4, 1e-4, 0.5, 0.9, 5),
    "B": Setting(1e-4, 1e-4, 0.5, 0.999, 1),
    "C": Setting(2e-4, 2e-4, 0.5, 0.999, 1),
    "D": Setting(1e-3, 1e-3, 0.5, 0.9, 5),
    "E": Setting(1e-3, 1e-3, 0.5, 0.999, 5),
    "F": Setting(1e-3, 1e-3, 0.9, 0.999, 5),
}
"""of the SN paper's robustness study"""

RATES = {
    "g 1, d 1": SETTINGS["B"],
    "g 1, d 2": Setting(1e-4, 2e-4, 0.5, 0.999, 1),
    "g 2, d 1": Setting(2e-4, 1e-4, 0.5, 0.999, 1),
    "g 2, d 2": SETTINGS["C"],
    "n_dis 5": SETTINGS["A"],
}
"""of the BSN paper, rates in 1e-4"""

METHODS: dict[str, dict[str, Any]] = {
    "none": {"d_norm.name": "none"},
    "clipping": {"d_norm.name": "clip", "d_norm.bound": 0.01, "loss": "wasserstein"},
    "GAN-GP": {"d_norm.name": "none", "penalties": [{"name": "gan-gp", "weight": 10.0}]},
    "WGAN-GP": {"d_norm.name": "none", "loss": "wasserstein", "penalties": [{"name": "wgan-gp", "weight": 10.0}]},
    "BN": {"d_norm.name": "none", "model.d_layer_norm": "batch"},
    "LN": {"d_norm.name": "none", "model.d_layer_norm": "layer"},
    "WN": {"d_norm.name": "wn"},
    "orthonormal": {"d_norm.name": "none", "penalties": [{"name": "orthonormal", "weight": 1e-4}]},
    "SN": {"d_norm.name": "sn"},
    "BSN": {"d_norm.name": "bsn"},
}
"""the SN paper's, in its table's order, and BSN; all with the standard CNN, whose loss is non-saturating"""

THROUGH_TRAINING = ("none", "SN", "BSN")
"""methods whose runs with setting B are measured on the way: they keep checkpoints for every claim that shares them"""


def cnn(
    scale: Scale,
    method: str,
    setting: str | Setting,
    seed: int,
    arm: str = "",
    measures: tuple[str, ...] = (),
    changes: Mapping[str, Any] | None = None,
) -> Trial:
    """A run of the standard CNN by one of ``METHODS``.

    Args:
        setting: of ``SETTINGS``, or one.
        arm: the method's name by default.
        changes: over the method's.
    """
    chosen = SETTINGS[setting] if isinstance(setting, str) else setting
    of_setting = chosen.changes(scale)
    kept = {}
    if chosen == SETTINGS["B"] and method in THROUGH_TRAINING and not changes:
        kept = {"keep_every": max(1, of_setting["steps"] // scale.kept)}
    together = {**scale.changes, **of_setting, **METHODS[method], **kept, **(changes or {})}
    return Trial(arm or method, scale.recipe, together, seed, measures=measures)


def scaled(
    scale: Scale, bidirectional: bool, factor: float, setting: str, seed: int, arm: str = "", **options: Any
) -> Trial:
    """A run under SSN or BSSN with a scale; at 1 under SN or BSN, whose runs other claims share."""
    if factor == 1.0 and not options:
        return cnn(scale, "BSN" if bidirectional else "SN", setting, seed, arm)
    name = "bssn" if bidirectional else "ssn"
    given = {"d_norm.name": name, "d_norm.scale": factor, **{f"d_norm.{key}": value for key, value in options.items()}}
    return cnn(scale, "SN", setting, seed, arm or f"{name.upper()} s={factor:g}", changes=given)


def each(seeds: Iterable[int], *makers: Callable[[int], Trial]) -> list[Trial]:
    """A run of every seed from each maker, arm by arm."""
    listed = list(seeds)
    return [make(seed) for make in makers for seed in listed]
