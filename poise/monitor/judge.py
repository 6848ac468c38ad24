"""From observations, one after the other, to a verdict: live in a training, or over the records of one that is done."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from poise.monitor.advice import advice_for
from poise.monitor.history import RECENT, History
from poise.monitor.rules import RULES
from poise.monitor.thresholds import Thresholds
from poise.monitor.verdict import FAILURES, HEALTHY, WARMING_UP, Finding, Verdict

LAYERED = (
    "gradient_norm",
    "gradient_variance",
    "update_ratio",
    "sigma",
    "effective_sigma",
    "stable_rank",
    "hidden_variance",
    "weight_norm",
)
"""groups of a record that map layers to numbers"""
JUDGED = ("gradient_norm", "update_ratio", "sigma", "effective_sigma", "stable_rank", "hidden_variance")
"""those that rules look at"""
SIGNALS = (
    *("d_loss", "g_loss", "real_logit", "fake_logit", "logit_gap", "ranking", "saturation"),
    *("real_logit_std", "fake_logit_std", "diversity", "feature_diversity", "neighbours", "coverage", "lipschitz"),
    *("largest_real", "copies", "g_step", "d_step"),
)
"""scalars of a record that are remembered"""
NAMED = {
    "largest_real": "the largest entry of the real samples",
    "largest_fake": "the largest entry of the fake samples",
}


TOGETHER = RECENT // 2
"""observations within which signs count as having begun together: a median of the last ones tells no nearer"""


class Judge:
    """The history of a run and the rules that are applied to it; knows no networks.

    Args:
        thresholds: of the rules. every: steps; of the records within them one is judged, the others are looked at for
            values that are not finite.

    Attributes:
        verdict: what is to be said now.
        timeline: each verdict that differs from the one before it, as it was first given.
    """

    def __init__(self, thresholds: Thresholds | None = None, every: int = 1) -> None:
        self.thresholds, self.every = thresholds or Thresholds(), every
        self.history = History()
        self.verdict = Verdict(WARMING_UP, 0, since=0)
        self.timeline: list[Verdict] = []
        self._signs: dict[str, tuple[int, int]] = {}  # by verdict: first step of a sign, observations it has held for
        self._step: int | None = None

    def take(self, step: int, record: Mapping[str, Any]) -> Verdict:
        """Take in the record of one step, as ``Monitor.observe`` returns it, and judge. None in it counts as NaN.

        Args:
            step: rising; a step from before, as after a rollback, takes the history on from here.
            record: scalars by name, and groups of scalars by layer.
        """
        values = _flattened(record)
        broken = _not_finite(values, step)
        if broken is None and not self.verdict.is_fatal and not is_due(step, self._step, self.every):
            return self.verdict
        self._step = step
        if broken is None:
            self.history.append(step, _remembered(values), remember=not self._signs)
        self._decide(step, self._found() if broken is None else {broken.verdict: broken})
        return self.verdict

    def _found(self) -> dict[str, Finding]:
        findings = (rule(self.history, self.thresholds) for rule in RULES.values())
        return {finding.verdict: finding for finding in findings if finding is not None}

    def _decide(self, step: int, found: Mapping[str, Finding]) -> None:
        """The sign that began first is the cause; of those that began ``TOGETHER``, the first of ``FAILURES``."""
        self._signs = {
            name: (self._signs[name][0], self._signs[name][1] + 1) if name in self._signs else (step, 1)
            for name in found
        }
        enough = 1 if "not-finite" in found else self.thresholds.patience
        known = [name for name, (_, held) in self._signs.items() if held >= enough]
        if known:
            longest = max(held for _, held in self._signs.values())
            first = [name for name, (_, held) in self._signs.items() if held >= longest - TOGETHER]
            cause = min(first, key=FAILURES.index)
            self._say(found[cause], step, self._signs[cause][0])
            return
        ready = self.history.observations >= self.thresholds.warm_up
        name = HEALTHY if ready else WARMING_UP
        since = self.verdict.since if self.verdict.name == name else step
        self._note(Verdict(name, step, since=since))

    def _say(self, finding: Finding, step: int, since: int) -> None:
        before = self.verdict if self.verdict.is_failing and self.verdict.name != finding.verdict else None
        after = f", after {before.name} since step {before.since}" if before else ""
        if self.verdict.name == finding.verdict and ", after " in self.verdict.evidence:
            after = self.verdict.evidence[self.verdict.evidence.rindex(", after ") :]
        self._note(
            Verdict(
                *(finding.verdict, step, finding.text + after, advice_for(finding), finding.signal, finding.layer),
                *(_known(finding.value), _known(finding.threshold), since, finding.confidence),
            )
        )

    def _note(self, verdict: Verdict) -> None:
        if not self.timeline or verdict.name != self.timeline[-1].name:
            self.timeline.append(verdict)
        self.verdict = verdict

    def state_dict(self) -> dict[str, Any]:
        """Fit for JSON: a run resumed with it is judged as if it had never stopped."""
        return {
            "history": self.history.state_dict(),
            "verdict": self.verdict.to_json(),
            "timeline": [verdict.to_json() for verdict in self.timeline],
            "signs": {name: list(sign) for name, sign in self._signs.items()},
            "step": self._step,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.history.load_state_dict(state["history"])
        self.verdict = Verdict.from_json(state["verdict"])
        self.timeline = [Verdict.from_json(kept) for kept in state["timeline"]]
        self._signs = {name: (first, held) for name, (first, held) in state["signs"].items()}
        self._step = state["step"]


def is_due(step: int, before: int | None, every: int) -> bool:
    """Whether a multiple of ``every`` was passed since the step before; each step until there was one."""
    return before is None or step < before or step // every > before // every


def judged(records: Iterable[Mapping[str, Any]], thresholds: Thresholds | None = None, every: int = 1) -> Judge:
    """The judge after a run's records, each with its ``step``: what a monitor with these thresholds would have said."""
    judge = Judge(thresholds, every)
    for record in records:
        judge.take(record["step"], record)
    return judge


def _flattened(record: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    """Numbers of a record by (signal, layer): known groups by layer, all other numbers as they are named."""
    values: dict[tuple[str, str], float] = {}
    for name, value in record.items():
        if name in LAYERED and isinstance(value, Mapping):
            values |= {(name, layer): _number(one) for layer, one in value.items()}
        elif value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            values[name, ""] = _number(value)
    if ("logit_gap", "") not in values and {("real_logit", ""), ("fake_logit", "")} <= values.keys():
        values["logit_gap", ""] = values["real_logit", ""] - values["fake_logit", ""]
    return values


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _remembered(values: Mapping[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    """What rules look at, with each player's whole gradient, and how far its layers move, their geometric mean."""
    kept = {key: value for key, value in values.items() if key[0] in (*SIGNALS, *JUDGED)}
    squares: dict[str, float] = {}
    for (signal, layer), value in values.items():
        if signal == "gradient_norm" and layer:
            player = layer.partition(".")[0]
            squares[player] = math.hypot(squares.get(player, 0.0), value)
    for player in ("G", "D"):
        moved = [
            v for (signal, layer), v in values.items() if signal == "update_ratio" and layer.startswith(player + ".")
        ]
        if moved:
            logs = math.fsum(math.log(max(one, 1e-30)) for one in moved)
            kept[f"{player.lower()}_step", ""] = math.exp(logs / len(moved))
    return kept | {("gradient_total", player): value for player, value in squares.items()}


def _not_finite(values: Mapping[tuple[str, str], float], step: int) -> Finding | None:
    """The value that is not finite and most likely the cause: data, then a layer whose weights are still sound.

    Once the weights are lost everything is; the order of the record is then as good as any.
    """
    broken = [key for key, value in values.items() if not math.isfinite(value)]
    if not broken:
        return None
    lost = {layer for signal, layer in broken if signal == "sigma"}
    causes = {"largest_real": 0, "hidden_variance": 2 if lost else 1}
    signal, layer = min(broken, key=lambda key: causes.get(key[0], 2))
    where = f"{signal} of {layer}" if layer else NAMED.get(signal, signal)
    value = values[signal, layer]
    return Finding("not-finite", signal, layer, value, math.inf, f"{where} is {value} at step {step}")
