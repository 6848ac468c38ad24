"""What the monitor says: a verdict with its evidence, and the finding of a rule behind it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

HEALTHY, WARMING_UP = "healthy", "warming-up"
FAILURES = (
    "not-finite",
    "discriminator-blind",
    "spectral-explosion",
    "exploding-gradients",
    "spectral-collapse",
    "mode-collapse",
    "vanishing-gradients",
    "oscillating",
    "discriminator-overpowers",
)
"""by name, causes before what they bring about: of those that began together the first one is the verdict.

A discriminator that is no better than chance lets the generator run off, whatever then grows; only steps too large take
the rank of a layer at once.
"""
VERDICTS = (HEALTHY, WARMING_UP, *FAILURES)


@dataclass(frozen=True)
class Finding:
    """A sign of failure that a rule has seen.

    Attributes:
        verdict: what it is a sign of.
        signal: what was measured. layer: where, "G.…" or "D.…", or "" for the whole.
        value: what it is now. threshold: what it has passed, in the same unit.
        text: both in words.
        confidence: 0 to 1: one half at the threshold, three quarters at twice it.
    """

    verdict: str
    signal: str
    layer: str
    value: float
    threshold: float
    text: str
    confidence: float = 1.0


def finding(verdict: str, signal: str, layer: str, value: float, threshold: float, text: str) -> Finding:
    """A finding, surer the further the value is from the threshold, which is ``{}`` in the text."""
    away = abs(math.log2(max(value, 1e-30) / threshold))
    return Finding(verdict, signal, layer, value, threshold, text.format(f"{threshold:g}"), 1 - 0.5 ** (1 + away))


def worst(found: Iterable[Finding]) -> Finding | None:
    """The one of which it is surest."""
    return max(found, key=lambda one: one.confidence, default=None)


@dataclass(frozen=True)
class Verdict:
    """What the monitor says of a training: one of ``VERDICTS``, with evidence and advice.

    Attributes:
        name: the verdict. step: at which it was given.
        evidence, advice: one line each; "" while nothing is wrong.
        signal, layer, value, threshold: as the rule's finding has them.
        since: the first step of the sign, or of the run's health. confidence: 0 to 1.
    """

    name: str
    step: int
    evidence: str = ""
    advice: str = ""
    signal: str = ""
    layer: str = ""
    value: float | None = None
    threshold: float | None = None
    since: int | None = None
    confidence: float = 1.0

    @property
    def is_failing(self) -> bool:
        """Whether something is wrong, by the rules; it may be recovered from."""
        return self.name in FAILURES

    @property
    def is_fatal(self) -> bool:
        """Whether the training cannot go on: a number is not finite."""
        return self.name == "not-finite"

    def to_json(self) -> dict[str, Any]:
        """As kept in ``diagnosis.json``."""
        fields = asdict(self)
        return {"verdict": fields.pop("name"), **fields}

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Verdict:
        """The verdict that ``to_json`` gave."""
        fields = dict(kept)
        return cls(fields.pop("verdict"), **fields)
