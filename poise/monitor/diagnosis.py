"""The verdict on a training that was logged: ``poise doctor`` and ``poise.monitor.diagnose``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from poise.monitor.judge import judged
from poise.monitor.logs import HALVES, read_log
from poise.monitor.thresholds import Thresholds
from poise.monitor.verdict import WARMING_UP, Verdict


@dataclass(frozen=True)
class Stretch:
    """Steps with one verdict, first to last."""

    verdict: Verdict
    last: int


@dataclass(frozen=True)
class Diagnosis:
    """What is to be said of a logged training.

    Attributes:
        verdict: at its end. timeline: stretches of one verdict each, in order.
        records: how many were judged. fields: what was recognised in them. tags: of those that went by others, which.
    """

    verdict: Verdict
    timeline: tuple[Stretch, ...]
    records: int
    fields: tuple[str, ...]
    tags: Mapping[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """For a terminal: the verdict with evidence and advice, then the timeline."""
        verdict = self.verdict
        head = f"{verdict.name} at step {verdict.step}"
        if verdict.is_failing:
            head += f", since step {verdict.since} (confidence {verdict.confidence:.0%})"
        lines = [head]
        lines += [f"  {verdict.evidence}"] if verdict.evidence else []
        lines += [f"  advice: {verdict.advice}"] if verdict.advice else []
        if verdict.name == WARMING_UP:
            lines.append("  too few records so far to say more: what is compared with a run's past needs one")
        lines.append(f"{self.records} record{'s' * (self.records != 1)}: {', '.join(map(self._named, self.fields))}")
        if not any(one in SEEN for one in self.fields):
            lines.append("  without gradients, spectra or samples: what shows in those alone is not seen")
        width = max(len(stretch.verdict.name) for stretch in self.timeline)
        for stretch in self.timeline:
            first = stretch.verdict.step
            lines.append(
                f"  {first:>8} – {stretch.last:<8} {stretch.verdict.name:<{width}}  {stretch.verdict.evidence}".rstrip()
            )
        return lines

    def _named(self, signal: str) -> str:
        """A field with the tag it went by; of the loss in two halves, both."""
        halves = [self.tags[half] for half in HALVES if half in self.tags]
        tag = " + ".join(halves) if signal == "d_loss" and halves else self.tags.get(signal, signal)
        return signal if tag == signal else f"{signal} ({tag})"


SEEN = ("gradient_norm", "sigma", "diversity", "hidden_variance")
"""fields by one of which a log tells more than how the players stand to each other"""


def diagnose(
    path: str | Path, names: Mapping[str, str] | None = None, thresholds: Thresholds | None = None, every: int = 1
) -> Diagnosis:
    """Judge a run folder, a ``metrics.jsonl`` from anywhere, or a folder of TensorBoard events.

    Of a run of ours, whose monitor saw more than was logged, the verdicts are those it gave, if ``diagnosis.json`` is
    no older than the log and nothing but the path is given.

    Args:
        path: what to read. names: of its fields, where they go by uncommon ones: ``{"d_loss": "Loss/critic"}``.
        thresholds: of the rules. every: steps; of the records within them one is judged.

    Raises:
        FileNotFoundError: nothing to read there. ValueError: nothing recognised, or tensorboard is missing.
    """
    log = read_log(Path(path), names)
    records = log.records
    last = records[-1]["step"]
    kept = _kept(Path(path), last) if names is None and thresholds is None and every == 1 else None
    if kept is None:
        judge = judged(records, thresholds, every)
        verdict, timeline = judge.verdict, judge.timeline
    else:
        verdict, timeline = kept[-1], kept[:-1]
    ends = [later.step for later in timeline[1:]]
    ends = [max((r["step"] for r in records if r["step"] < end), default=end - 1) for end in ends]
    ends = [max(one.step, end) for one, end in zip(timeline, ends, strict=False)]
    stretches = [Stretch(verdict, end) for verdict, end in zip(timeline, [*ends, last], strict=True)]
    known = dict.fromkeys(name for record in records for name in record if name not in ("step", "verdict", "lr"))
    return Diagnosis(verdict, tuple(stretches), len(records), tuple(known), log.tags)


def _kept(path: Path, last: int) -> list[Verdict] | None:
    """A run's own timeline and its last verdict; None where that is not there, damaged, or older than the log."""
    try:
        found = json.loads((path / "diagnosis.json").read_text(encoding="utf-8"))
        if found.pop("last") < last or not found["timeline"]:
            return None
        timeline = [Verdict.from_json(one) for one in found.pop("timeline")]
        found.pop("rollbacks")
        return [*timeline, Verdict.from_json(found)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
