"""The claim of Huang et al. 2024 (arXiv 2501.05441): without any normalization, by loss and penalties alone: 17."""

from __future__ import annotations

from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

from poise.studies.claim import Arms, Claim, Judgement
from poise.studies.claims import drawing
from poise.studies.claims.costs import ESTIMATED
from poise.studies.claims.judging import compared, distance_name, rows_of, sided, together, usual
from poise.studies.claims.settings import CIFAR, MINI, SEEDS, SMALL, Scale, cnn, each, scaled
from poise.studies.trial import Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RIVALS = ("none", "clipping", "WGAN-GP", "BN", "LN", "WN", "orthonormal", "SN", "BSN")


def _r3gan(scale: Scale, width: int, steps: int, seed: int) -> Trial:
    changes: dict[str, Any] = {
        **scale.changes,
        "model.name": "r3gan",
        "model.resolution": scale.changes.get("model.resolution", 32),
        "model.width": width,
        "model.blocks": 1,
        "model.latent_dim": 64,
        "d_norm.name": "none",
        "loss": "relativistic",
        "penalties": [{"name": "r1", "gamma": 1.0}, {"name": "r2", "gamma": 1.0}],
        "n_dis": 1,
        "steps": steps,
        "lr_schedule": "linear",
    }
    for player in "gd":
        rate = 2e-4 * scale.rate  # the paper's, as the others
        changes |= {f"{player}_optimizer.lr": rate, f"{player}_optimizer.beta1": 0.0, f"{player}_optimizer.beta2": 0.99}
    return Trial("R3GAN", scale.recipe, changes, seed)


def _all(scale: Scale, width: int, steps: int) -> list[Trial]:
    rivals = [partial(_rival, scale, method) for method in RIVALS]
    best = [partial(scaled, scale, True, 1.4, "B"), partial(_r3gan, scale, width, steps)]
    return each(SEEDS, *rivals, *(lambda seed, make=make: make(seed=seed) for make in best))


def _rival(scale: Scale, method: str, seed: int) -> Trial:
    return cnn(scale, method, "B", seed)


def judge_r3gan(arms: Arms) -> Judgement:
    """R3GAN's FD is below every other arm's, in about the same time."""
    parts = [sided(f"ln FD, R3GAN less {arm}", compared(arms, "R3GAN", arm), True) for arm in arms if arm != "R3GAN"]
    rows = rows_of(arms, usual(arms))
    for row in rows:
        row["seconds"] = round(median(one.seconds for one in arms[row["arm"]]), 1)
    own = median(one.seconds for one in arms["R3GAN"]) if arms.get("R3GAN") else 0.0
    others = [median(one.seconds for one in of) for arm, of in arms.items() if arm != "R3GAN" and of]
    least, most = min(others, default=0), max(others, default=0)
    told = f"Median seconds of a run: R3GAN {own:.0f}, the others {least:.0f} to {most:.0f}"
    return together(parts, rows, told + "; its grouped convolutions and double backward are slow on a CPU")


def draw_r3gan(arms: Arms, figure: Figure) -> None:
    """FD and modes of each."""
    upper, lower = figure.subplots(2, 1, sharex=True)
    groups = {arm: {"": outcomes} for arm, outcomes in arms.items()}
    drawing.bars(upper, groups, distance_name(arms), "FD", log=True)
    drawing.bars(lower, groups, "modes", "modes of 1000", log=False)
    drawing.finished(figure, arms, "The same time for all, setting B")


R3GAN = Claim(
    17,
    "r3gan",
    "Relativistic pairing with R1 and R2, without any normalization, does better than all of the above in the same "
    "time",
    "Huang et al. 2024, §3 and §4",
    "1000 of 1000 modes on StackedMNIST; FID 1.96 on unconditional CIFAR-10",
    {
        "mini": lambda: _all(MINI, 16, 84),
        "small": lambda: _all(SMALL, 64, 4_000),
        "paper": lambda: _all(CIFAR, 768, 100_000),
    },
    judge_r3gan,
    draw_r3gan,
    140.0,
    ESTIMATED,
)

CLAIMS = (R3GAN,)
