"""Stage 2 of the monitor's benchmark: its rules over what was recorded, against the truth. Seconds, not minutes.

A failing run is named rightly if the first failure the monitor speaks of, at or after the fault's onset, is among the
kind's expected names; a healthy one is a false alarm if it ever speaks of any, and so is a failure spoken of before
the onset. The lead is the share of the run's length from that first word to the step at which coverage was halved.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from faults_catalogue import FAILURES, HEALTHY
from faults_settings import Case
from faults_truth import Outcome, outcome, reference

from poise.monitor.judge import judged
from poise.monitor.thresholds import Thresholds

CASES = {case.name: case for case in (*HEALTHY, *FAILURES)}
NOT_FAILURES = ("healthy", "warming-up")
HALVES = ("reported", "set")


@dataclass(frozen=True)
class Scored:
    """A run, what became of it and what the monitor said.

    Attributes:
        half: "set", on which thresholds may be set, or "reported".
        outcome: the truth. said: the first failure named, or "". said_at: its step. evidence: of it.
        all_said: every failure named, in order.
        early: a failure was named before the onset.
    """

    case: Case
    seed: int
    half: str
    outcome: Outcome
    said: str
    said_at: int | None
    evidence: str
    all_said: tuple[str, ...]
    early: bool

    @property
    def counts(self) -> bool:
        """Whether the run is what its case says: only then does it tell of the monitor."""
        return self.outcome.state == ("healthy" if self.case.is_healthy else "failed")

    @property
    def is_right(self) -> bool:
        return self.said in self.case.expected and not self.early

    @property
    def lead(self) -> float | None:
        """Share of the run's length by which the first word came before coverage had halved; None where none came.

        Of a run that is lost by its distance alone, before that.
        """
        return self._before(self.outcome.lost_at if self.outcome.halved_at is None else self.outcome.halved_at)

    @property
    def lead_to_loss(self) -> float | None:
        """The same before the run was lost by coverage or distance, whichever was first: at most ``lead``."""
        return self._before(self.outcome.lost_at)

    def _before(self, step: int | None) -> float | None:
        return None if self.said_at is None or step is None else (step - self.said_at) / self.case.setting.steps


def half_of(seed: int) -> str:
    """Which half a run belongs to: rules and thresholds were set on seeds up to 42 and from 60 on; 43 to 59 report."""
    return "reported" if 43 <= seed < 60 else "set"


def references(runs: Iterable[Mapping[str, Any]]) -> dict[str, dict[float, tuple[float, float]]]:
    """The healthy settings' median truth, by data."""
    healthy = [run for run in runs if CASES[run["case"]].is_healthy]
    return {
        data: reference(run for run in healthy if run["data"] == data)
        for data in sorted({run["data"] for run in healthy})
    }


def score(runs: Iterable[Mapping[str, Any]], thresholds: Thresholds | None = None) -> list[Scored]:
    """Replay the rules with these thresholds over every run's records."""
    runs = list(runs)
    by_data = references(runs)
    scored = []
    for run in runs:
        if run["data"] not in by_data:
            raise ValueError(f"no healthy run on {run['data']} yet, by which to tell what failed; train one first")
        case = CASES[run["case"]]
        onset = case.onset * case.setting.steps
        timeline = [v for v in judged(run["records"], thresholds).timeline if v.name not in NOT_FAILURES]
        after = [verdict for verdict in timeline if verdict.step >= onset]
        first = (timeline if case.is_healthy else after)[:1]
        scored.append(
            Scored(
                case,
                run["seed"],
                half_of(run["seed"]),
                outcome(run, by_data[run["data"]]),
                first[0].name if first else "",
                first[0].step if first else None,
                first[0].evidence if first else "",
                tuple(dict.fromkeys(verdict.name for verdict in timeline)),
                len(after) < len(timeline) and not case.is_healthy,
            )
        )
    return scored


def figures(scored: Iterable[Scored]) -> dict[str, float]:
    """The three figures of the benchmark and the numbers of runs behind them, over the runs that count."""
    counted = [one for one in scored if one.counts]
    failed = [one for one in counted if not one.case.is_healthy]
    healthy = [one for one in counted if one.case.is_healthy]
    leads = [one.lead for one in failed if one.case.builds_up and one.lead is not None]
    building = [one for one in failed if one.case.builds_up]
    return {
        "failures": len(failed),
        "named_rightly": _share(one.is_right for one in failed),
        "noticed": _share(one.said != "" for one in failed),
        "healthy": len(healthy),
        "false_alarms": _share(one.said != "" for one in healthy),
        "building_up": len(building),
        "median_lead": statistics.median(leads) if leads else float("nan"),
        "lead_of_a_tenth": _share((one.lead or 0.0) >= 0.1 for one in building),
        "lead_to_loss": _share((one.lead_to_loss or 0.0) >= 0.1 for one in building),
    }


def _share(found: Iterable[bool]) -> float:
    values = list(found)
    return sum(values) / len(values) if values else float("nan")


def cost(scored: Iterable[Scored]) -> float:
    """What setting thresholds makes small: failures not named rightly, false alarms five times, leads too short."""
    found = figures(scored)
    short = 1 - found["lead_of_a_tenth"] if found["building_up"] else 0.0
    return (1 - found["named_rightly"]) + 5 * found["false_alarms"] + 0.25 * short


STEPS = (0.5, 0.7, 1.4, 2.0)
"""what a threshold is tried times with"""


def set_thresholds(runs: Iterable[Mapping[str, Any]], names: Iterable[str], rounds: int = 2) -> Thresholds:
    """Thresholds that cost least on the half that is for it: one at a time, up or down, kept where that helps.

    Args:
        runs: all runs; the truth's reference is of all healthy ones, the cost of the half "set" alone.
        names: the thresholds that may move.
    """
    runs = list(runs)
    best = Thresholds()
    least = cost(one for one in score(runs, best) if one.half == "set")
    for _ in range(rounds):
        before = least
        for name in names:
            for factor in STEPS:
                value = getattr(best, name) * factor
                if name in ("separation", "saturation"):  # shares: their distance from 1 is what is scaled
                    value = 1 - (1 - getattr(best, name)) * factor
                if isinstance(getattr(best, name), int):
                    value = max(1, round(value))
                tried = replace(best, **{name: value})
                found = cost(one for one in score(runs, tried) if one.half == "set")
                if found < least - 1e-9:
                    best, least = tried, found
        if least == before:
            break
    return best


def rows(scored: Iterable[Scored]) -> list[dict[str, Any]]:
    """One row a run, as the csv holds them."""
    return [
        {
            "case": one.case.name,
            "data": one.case.setting.data,
            "seed": one.seed,
            "half": one.half,
            "expected": "|".join(one.case.expected) or "healthy",
            "truth": one.outcome.state,
            "halved_at": one.outcome.halved_at,
            "lost_at": one.outcome.lost_at,
            "coverage": round(one.outcome.coverage, 3),
            "distance": round(one.outcome.distance, 3),
            "said": one.said or "healthy",
            "said_at": one.said_at,
            "right": one.is_right if not one.case.is_healthy else one.said == "",
            "lead_to_loss": None if one.lead_to_loss is None else round(one.lead_to_loss, 3),
            "lead": None if one.lead is None else round(one.lead, 3),
            "all_said": "|".join(one.all_said),
            "evidence": one.evidence,
        }
        for one in scored
    ]


def table(scored: Iterable[Scored]) -> str:
    """Markdown: a line a kind of failure, the healthy settings in which there was a false alarm, the figures by half.

    The lines are of the reported half; what the other half says stands in brackets.
    """
    scored = list(scored)
    lines = [
        "| induced failure | right names | named rightly | first said | first warning | lost | lead |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for case in FAILURES:
        halves = {half: [one for one in scored if one.case is case and one.half == half] for half in HALVES}
        own = [one for one in halves["reported"] if one.counts]
        said = ", ".join(dict.fromkeys(one.said or "nothing" for one in own)) or "—"
        at = [one.said_at / case.setting.steps for one in own if one.said_at is not None]
        lost = [one.outcome.lost_at / case.setting.steps for one in own if one.outcome.lost_at is not None]
        leads = [one.lead for one in own if one.lead is not None] if case.builds_up else []
        name = f"`{case.name}`: {case.what}" + (f", from {case.onset:.0%} on" if case.onset else "")
        right = f"{_count(halves['reported'])} ({_count(halves['set'])})"
        lines.append(
            f"| {name} | {', '.join(case.expected)} | {right} | {said} "
            f"| {_percent(at)} | {_percent(lost)} | {_percent(leads)} |"
        )
    lines += [
        "",
        "| half | failures | named rightly | noticed | healthy runs | false alarms "
        "| build up | of these a tenth before coverage halved | before lost by either |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for half in HALVES:
        found = figures(one for one in scored if one.half == half)
        lines.append(
            f"| {half} | {found['failures']} | {found['named_rightly']:.1%} | {found['noticed']:.1%} "
            f"| {found['healthy']} | {found['false_alarms']:.1%} "
            f"| {found['building_up']} | {found['lead_of_a_tenth']:.0%} | {found['lead_to_loss']:.0%} |"
        )
    alarms = [one for one in scored if one.case.is_healthy and one.said]
    lines += ["", "False alarms: " + ("; ".join(f"`{a.case.name}` {a.seed}: {a.said}" for a in alarms) or "none") + "."]
    return "\n".join(lines) + "\n"


def _count(own: list[Scored]) -> str:
    """How many were named rightly of those that failed, and how many did not fail."""
    counted = [one for one in own if one.counts]
    others = f", {len(own) - len(counted)} not failed" if len(counted) < len(own) else ""
    return f"{sum(one.is_right for one in counted)} of {len(counted)}{others}"


def _percent(shares: list[float]) -> str:
    return " ".join(f"{share:.0%}" for share in shares) or "—"
