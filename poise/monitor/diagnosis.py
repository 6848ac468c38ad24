"""The verdict on a training that was logged: ``poise doctor`` and ``poise.monitor.diagnose``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from poise.monitor.judge import judged
from poise.monitor.logs import read_log
from poise.monitor.thresholds import Thresholds
from poise.monitor.verdict import Verdict


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
        records: how many were judged. fields: what was recognised in them.
    """

    verdict: Verdict
    timeline: tuple[Stretch, ...]
    records: int
    fields: tuple[str, ...]

    def lines(self) -> list[str]:
        """For a terminal: the verdict with evidence and advice, then the timeline."""
        verdict = self.verdict
        head = f"{verdict.name} at step {verdict.step}"
        if verdict.is_failing:
            head += f", since step {verdict.since} (confidence {verdict.confidence:.0%})"
        lines = [head]
        lines += [f"  {verdict.evidence}"] if verdict.evidence else []
        lines += [f"  advice: {verdict.advice}"] if verdict.advice else []
        lines.append(f"{self.records} records: {', '.join(self.fields)}")
        width = max(len(stretch.verdict.name) for stretch in self.timeline)
        for stretch in self.timeline:
            first = stretch.verdict.step
            lines.append(
                f"  {first:>8} – {stretch.last:<8} {stretch.verdict.name:<{width}}  {stretch.verdict.evidence}".rstrip()
            )
        return lines


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
    records = read_log(Path(path), names)
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
    return Diagnosis(verdict, tuple(stretches), len(records), tuple(known))


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
