"""One run of a study: what it is, by what it is known again, and what came of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from poise.training import Recipe

Curve = Sequence[tuple[int, float]]
"""(step, value) by rising step"""

Status = Literal["finished", "failed", "crashed"]


@dataclass(frozen=True)
class Trial:
    """One run of a grid: a shipped recipe, changes to it, and a seed.

    Attributes:
        arm: the line or bar of a figure that it belongs to: "SN", "BSSN s=1.4". Not part of its identity.
        recipe: a shipped recipe's name; "" for work that needs none.
        changes: dotted fields over it, as on the command line: ``{"d_norm.name": "sn", "steps": 300}``. The recipe of
            a work that has none may hold anything JSON can.
        seed: the recipe's.
        work: what is done: "train", or another of ``poise.studies.measures.WORK``.
        measures: of ``poise.studies.measures.MEASURES``, taken of the finished run. Not part of its identity.
    """

    arm: str
    recipe: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    work: str = "train"
    measures: tuple[str, ...] = ()

    def resolved(self) -> Recipe:
        """The whole recipe. It is judged, drawn and kept at its end alone, unless ``changes`` say otherwise.

        Raises:
            RecipeError: the recipe or a change is not one.
        """
        recipe = Recipe.load(self.recipe, {**self.changes, "seed": self.seed})
        ends = ("evaluate_every", "sample_every", "checkpoint_every")
        given = {name: getattr(recipe, name) if name in self.changes else recipe.steps for name in ends}
        return recipe.model_copy(update=given)

    @cached_property
    def identity(self) -> str:
        """16 hexadecimal digits, equal for equal recipes (but for their names), seeds and work.

        Measures are kept one by one beside a run: claims that measure it differently share it.
        """
        if self.recipe:
            what = self.resolved().model_dump(mode="json", exclude={"name", "versions"})
        else:
            what = {"changes": dict(self.changes), "seed": self.seed}
        text = json.dumps([self.work, what], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Measured:
    """What a measure, or a work, gives: numbers by name, and curves by name."""

    figures: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What came of a trial.

    Attributes:
        status: "finished"; "failed", where a loss, gradient or weight was not finite, a result like others; or
            "crashed", by an error of ours or of the machine, no result.
        reason: of a failure or crash, one line; else "".
        seconds: wall time, that of earlier sittings included.
        figures: the evaluation's by their names ("modes", "kl", "fd" …), a measure's as "measure/name".
        curves: those that measures gave, by their names.
    """

    trial: Trial
    status: Status
    reason: str = ""
    seconds: float = 0.0
    figures: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
