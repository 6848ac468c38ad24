"""What was observed so far, as floats: of every signal the last values, and the whole run in few points."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

RECENT = 5
"""observations that are judged, against all before them"""
PAST = 128
"""points that the run before them is kept in; halved when full, each then the mean of twice as many"""
SWUNG = ("d_loss", "g_loss", "real_logit", "fake_logit")
"""signals that are looked at for swings"""
DRIFTING = ("diversity", "ranking", "coverage", "logit_gap", "feature_diversity")
"""signals whose last values are kept as well"""
WINDOW = 24
"""observations in which swings and slow drifts are looked for"""
NEARER = 0.8
"""share of the best distance so far at which fakes have come nearer to the data"""
SURGE = 10
"""points over which a surge is measured"""
GROWING = 1.05
"""times the median of the last values that the very last one is of a signal that still grows"""
START = 8
"""observations that the start is the median of"""
WILD = 2.0
"""times the median of some values that no one of them counts as more than in their mean"""
LATELY, BEFORE, APART = 7, 16, 11
"""points of the past that are lately, with the last values; that those are compared with; and younger than these"""


@dataclass
class Series:
    """One signal. Values are finite; a value that is not is the business of no statistic.

    Attributes:
        recent: the last ``RECENT`` (step, value). past: points before them, evenly spaced. stride: values a point.
        pending: values that are not a point yet. start: the median of the first values, once there are enough.
        first, last: steps of the first and last value of the past.
    """

    recent: list[tuple[int, float]] = field(default_factory=list)
    past: list[float] = field(default_factory=list)
    stride: int = 1
    pending: list[float] = field(default_factory=list)
    start: float | None = None
    first: int = 0
    last: int = 0

    def append(self, step: int, value: float, remember: bool) -> None:
        """Take in a value; what it pushes out of ``recent`` becomes past, if it is to be remembered."""
        self.recent.append((step, value))
        self._now = None
        if len(self.recent) <= RECENT:
            return
        at, oldest = self.recent.pop(0)
        if not remember:
            return
        self.first = at if not self.past and not self.pending else self.first
        self.last = at
        self._usual = None
        self.pending.append(oldest)
        if len(self.pending) < self.stride:
            return
        self.past.append(math.fsum(value / self.stride for value in self.pending))
        self.pending = []
        if self.start is None and len(self.past) == START:
            self.start = _median(self.past)
        if len(self.past) == PAST:
            pairs = zip(self.past[::2], self.past[1::2], strict=True)
            self.past, self.stride = [(a + b) / 2 for a, b in pairs], 2 * self.stride

    _now: float | None = field(default=None, repr=False, compare=False)
    _usual: float | None = field(default=None, repr=False, compare=False)

    @property
    def now(self) -> float:
        """Median of the last values."""
        if self._now is None:
            self._now = _median([value for _, value in self.recent])
        return self._now

    @property
    def is_full(self) -> bool:
        return len(self.recent) == RECENT

    def usual(self) -> float:
        """Median of the past."""
        if self._usual is None:
            self._usual = _median(self.past)
        return self._usual

    def tail(self, part: int, upper: bool) -> float:
        """One of ``part`` of the past's points lie beyond it."""
        ordered = sorted(self.past)
        place = len(ordered) // part
        return ordered[-1 - place] if upper else ordered[place]

    def deviation(self, value: float | None = None, least: float = 0.1) -> float:
        """By how many robust standard deviations the logarithm of ``now`` lies above (below: negative) the past's.

        A deviation is 1.4826 times the median one of the past's logarithms, and at least ``least``: 0.1 is 10%.

        Args:
            value: looked at instead of ``now``.
        """
        logs = [_log(one) for one in self.past]
        middle = _median(logs)
        spread = 1.4826 * _median([abs(log - middle) for log in logs])
        return (_log(self.now if value is None else value) - middle) / max(least, spread)

    def surge(self) -> tuple[float, float, int]:
        """The growth since ``SURGE`` points of the past ago, the most over as many before, and the steps it took.

        Before is half as many points ago or longer, so that what grows now is not compared with itself. With too few
        points nothing has grown, nor where the last value is no larger than those just before: that was a leap.
        """
        if len(self.past) <= 2 * SURGE or self.recent[-1][1] < GROWING * self.now:
            return 1.0, 1.0, 0
        before = self.past[: -SURGE // 2]
        spacing = (self.last - self.first) / (len(self.past) - 1)
        steps = self.recent[-1][0] - round(self.last - (SURGE - 1) * spacing)
        return ratio(self.now, self.past[-SURGE]), max(map(ratio, before[SURGE:], before)), steps

    def lately(self) -> float:
        """The growth of late: the mean of the last values and ``LATELY`` points over that of ``BEFORE`` others.

        Of more values a mean is steadier, so that growth is seen while it is small. With too few nothing has grown.
        """
        if len(self.past) < BEFORE + APART:
            return 1.0
        now = [*(value for _, value in self.recent), *self.past[-LATELY:]]
        return math.exp(_middle(now) - _middle(self.past[-BEFORE - APART : -APART]))

    def fall(self, window: Sequence[float], most: float) -> tuple[float, float]:
        """The median of the last values against the highest stretch of the past that is as long, or ``most``, if less.

        What falls slowly takes the median of the past with it, but not the best there was. That is a mean, of
        logarithms.

        Returns:
            Their ratio, and by how many robust standard deviations (at least 2%) of the past until then it was left.
        """
        logs, points = [_log(one) for one in self.past], max(1, len(window) // self.stride)
        if len(logs) < points:
            return 1.0, 0.0
        sums = [0.0, *itertools.accumulate(logs)]
        best, end = max((sums[end] - sums[end - points], end) for end in range(points, len(sums)))
        middle = _median(logs[:end])
        spread = max(0.02, 1.4826 * _median([abs(log - middle) for log in logs[:end]]))
        fell = _log(_median(window)) - min(best / points, _log(most))
        return math.exp(fell), fell / spread

    def steps_since(self, factor: float) -> int:
        """Steps since the past last stood within ``factor`` (above 1) of its median, up or down."""
        near = [abs(_log(value) - _log(self.usual())) <= math.log(factor) for value in self.past]
        place = len(near) - 1 - near[::-1].index(True) if True in near else 0
        spacing = (self.last - self.first) / max(1, len(self.past) - 1)
        return self.recent[-1][0] - round(self.first + place * spacing)

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        return {
            "recent": [list(pair) for pair in self.recent],
            **{name: getattr(self, name) for name in ("past", "stride", "pending", "start", "first", "last")},
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Series:
        """The series that ``to_json`` gave."""
        return cls(**{**kept, "recent": [(int(step), float(value)) for step, value in kept["recent"]]})


class History:
    """Series by signal and layer; and the last ``WINDOW`` values of those that may swing or drift, one by one.

    How widely a signal swings is a series as well: of "swing", by the name of the signal.

    Attributes:
        nearest: by signal of fakes' distance, "coverage" and the inverse of "diversity": how near they last came by a
            step of ``NEARER``, and when: step, and number of the observation.
        seen: observations.
    """

    def __init__(self) -> None:
        self.series: dict[tuple[str, str], Series] = {}
        self.windows: dict[str, list[float]] = {}
        self.nearest: dict[str, tuple[float, int, int]] = {}
        self.seen = 0

    def append(self, step: int, values: Mapping[tuple[str, str], float], remember: bool) -> None:
        """Take in one observation; values that are not finite are passed over."""
        self.seen += 1
        swings = {}
        for signal in (*SWUNG, *DRIFTING):
            value = values.get((signal, ""), math.nan)
            if math.isfinite(value):
                window = self.windows[signal] = [*self.windows.get(signal, [])[-WINDOW + 1 :], value]
                if len(window) == WINDOW and signal in SWUNG:
                    swings["swing", signal] = statistics.pstdev(detrended(window))
        for key, value in (*values.items(), *swings.items()):
            if math.isfinite(value):
                self.series.setdefault(key, Series()).append(step, value, remember)
        for signal in ("coverage", "diversity"):
            series = self.get(signal)
            if series is not None:
                distance = series.now if signal == "coverage" else 1 / max(series.now, 1e-30)
                if signal not in self.nearest or distance <= NEARER * self.nearest[signal][0]:
                    self.nearest[signal] = distance, step, self.seen

    def get(self, signal: str, layer: str = "", past: int = 0) -> Series | None:
        """The series, if there are values enough to judge by: ``RECENT``, and so many of the past."""
        found = self.series.get((signal, layer))
        return found if found is not None and found.is_full and len(found.past) >= past else None

    def layers(self, signal: str, past: int = 0) -> Iterator[tuple[str, Series]]:
        """Each layer's series of a signal, those with values enough."""
        for name, layer in list(self.series):
            found = self.get(name, layer, past) if name == signal and layer else None
            if found is not None:
                yield layer, found

    def since_nearer(self, signal: str) -> int:
        """Observations since fakes last came nearer, by this signal."""
        return self.seen - self.nearest[signal][2] if signal in self.nearest else self.seen

    def usual_steps(self) -> dict[str, float]:
        """By player, "G" and "D", the share of its weights that it moved by in a step, in the median of the past."""
        found = {player: self.get(f"{player.lower()}_step", past=1) for player in ("G", "D")}
        return {player: series.usual() for player, series in found.items() if series is not None}

    @property
    def observations(self) -> int:
        """Of the signal that was seen most, those remembered in the past."""
        return max((series.stride * len(series.past) for series in self.series.values()), default=0)

    def state_dict(self) -> dict[str, Any]:
        """Fit for JSON."""
        series = {f"{signal}|{layer}": one.to_json() for (signal, layer), one in self.series.items()}
        windows = {signal: list(window) for signal, window in self.windows.items()}
        nearest = {key: list(one) for key, one in self.nearest.items()}
        return {"series": series, "windows": windows, "nearest": nearest, "seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.series = {
            (key.partition("|")[0], key.partition("|")[2]): Series.from_json(kept)
            for key, kept in state["series"].items()
        }
        self.windows = {signal: list(window) for signal, window in state["windows"].items()}
        self.nearest = {key: (distance, step, seen) for key, (distance, step, seen) in state["nearest"].items()}
        self.seen = state["seen"]


def detrended(values: Sequence[float]) -> list[float]:
    """Values less the straight line that fits them best."""
    middle = (len(values) - 1) / 2
    mean = statistics.fmean(values)
    slope = sum((i - middle) * v for i, v in enumerate(values)) / sum((i - middle) ** 2 for i in range(len(values)))
    return [value - mean - slope * (i - middle) for i, value in enumerate(values)]


def ratio(value: float, other: float) -> float:
    """Their ratio; infinite over 0, and 1 where both are 0."""
    return value / other if other > 0 else (1.0 if value == other else math.inf)


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)  # a third of the time of the statistics module, and this is all that judging costs
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _middle(values: Sequence[float]) -> float:
    """Mean logarithm; a value beyond ``WILD`` times the median, up or down, counts as that."""
    logs = [_log(value) for value in values]
    middle, most = _median(logs), math.log(WILD)
    return statistics.fmean(min(max(log, middle - most), middle + most) for log in logs)


def _log(value: float) -> float:
    return math.log(max(abs(value), 1e-30))
