"""How the monitor's benchmark trains: what a setting and a case are, and the healthy cases."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from faults_injected import Fault


@dataclass(frozen=True)
class Setting:
    """How a pair is trained.

    Attributes:
        data: "ring" (8 modes), "grid" (9) or "digits" (stacked, 1000 modes, 16×16).
        width: units or channels. depth: hidden layers of a toy's discriminator. activation: of that one.
        norm: of the discriminator, name and options. penalty: name and options of one, or ().
        d_gain: the discriminator's first weights and biases times this.
        g_lr, d_lr, beta1, beta2: Adam's. n_dis: updates of D for one of G. steps: of G. batch: samples.
        observe_every: steps between what the monitor is shown.
        warm: steps trained before the run begins, unseen by the monitor and once for all seeds: stacked digits take
            longer to learn than a run lasts.
    """

    data: str = "ring"
    width: int = 64
    depth: int = 3
    activation: str = "leaky"
    loss: str = "non-saturating"
    norm: tuple[tuple[str, Any], ...] = (("name", "none"),)
    penalty: tuple[str, tuple[tuple[str, Any], ...]] | tuple[()] = ()
    d_gain: float = 1.0
    g_lr: float = 2e-3
    d_lr: float = 2e-3
    beta1: float = 0.0
    beta2: float = 0.99
    n_dis: int = 1
    batch: int = 64
    steps: int = 800
    observe_every: int = 4
    warm: int = 0


@dataclass(frozen=True)
class Case:
    """One kind of run.

    Attributes:
        name: of the kind. what: is done.
        expected: verdicts that name it rightly, none for a healthy one; why: they are the right names.
        builds_up: whether it grows over many steps, so that a warning can come before the loss; None: healthy.
        onset: the share of the run after which the fault acts.
    """

    name: str
    what: str
    setting: Setting
    expected: tuple[str, ...] = ()
    why: str = ""
    builds_up: bool | None = None
    onset: float = 0.0
    fault: Callable[[], Fault] = Fault

    @property
    def is_healthy(self) -> bool:
        return not self.expected

    @property
    def identity(self) -> str:
        """Changes with whatever changes the run; a verdict that is expected does not."""
        return f"{zlib.crc32(repr((self.setting, self.onset, self.fault())).encode()):08x}"


RING = Setting(penalty=("r1", (("gamma", 0.1),)))
PLAIN = Setting()
GRID = replace(RING, data="grid")
DIGITS = Setting(
    "digits", width=8, batch=32, steps=240, norm=(("name", "bssn"), ("scale", 1.4)), observe_every=2, warm=900
)


def norm(name: str, **options: Any) -> tuple[tuple[str, Any], ...]:
    return (("name", name), *options.items())


def penalty(name: str, **options: Any) -> tuple[str, tuple[tuple[str, Any], ...]]:
    return name, tuple(options.items())


HEALTHY = (
    Case("ring-r1", "non-saturating loss, R1", RING),
    Case("ring-plain", "non-saturating loss alone", PLAIN),
    Case("ring-hinge", "hinge loss, R1, batch 128", replace(RING, loss="hinge", batch=128)),
    Case("ring-ssn", "non-saturating loss, SSN × 2", replace(PLAIN, norm=norm("ssn", scale=2.0))),
    Case(
        "ring-wgan-gp",
        "Wasserstein loss, gradient penalty, two updates of D",
        replace(PLAIN, loss="wasserstein", n_dis=2, penalty=penalty("wgan-gp", weight=1.0)),
    ),
    Case("ring-least-squares", "least squares, R1", replace(RING, loss="least-squares")),
    Case("ring-relativistic", "relativistic loss, R1", replace(RING, loss="relativistic")),
    Case("ring-ttur", "D's rate twice G's", replace(RING, g_lr=1e-3)),
    Case("ring-wide", "twice the width, batch 128", replace(RING, width=128, batch=128)),
    Case("ring-relu", "ReLU in a shallower D", replace(RING, depth=2, activation="relu")),
    Case("ring-n-dis", "three updates of D", replace(RING, n_dis=3)),
    Case("grid-r1", "non-saturating loss, R1", GRID),
    Case("grid-hinge", "hinge loss, R1", replace(GRID, loss="hinge")),
    Case("grid-bssn", "non-saturating loss, BSSN × 2", replace(GRID, penalty=(), norm=norm("bssn", scale=2.0))),
    Case("digits-bssn", "BSSN × 1.4", DIGITS),
    Case("digits-hinge", "hinge loss, SN", replace(DIGITS, loss="hinge", norm=norm("sn"))),
    Case("digits-r1", "R1 and no norm", replace(DIGITS, norm=norm("none"), penalty=penalty("r1", gamma=1.0))),
)
