"""The verdict on a training that was logged: ``poise doctor`` and ``poise.monitor.diagnose``."""

from __future__ import annotations

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

    Args:
        path: what to read. names: of its fields, where they go by uncommon ones: ``{"d_loss": "Loss/critic"}``.
        thresholds: of the rules. every: steps; of the records within them one is judged.

    Raises:
        FileNotFoundError: nothing to read there. ValueError: nothing recognised. ImportError: tensorboard is missing.
    """
    records = read_log(Path(path), names)
    judge = judged(records, thresholds, every)
    last = records[-1]["step"]
    ends = [later.step for later in judge.timeline[1:]]
    ends = [max((r["step"] for r in records if r["step"] < end), default=end) for end in ends]
    stretches = [Stretch(verdict, end) for verdict, end in zip(judge.timeline, [*ends, last], strict=True)]
    known = dict.fromkeys(name for record in records for name in record if name not in ("step", "verdict", "lr"))
    return Diagnosis(judge.verdict, tuple(stretches), len(records), tuple(known))
