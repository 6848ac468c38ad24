"""Runs beside each other: their ``evaluation.json``, recipes alike but for the seed as one entry, and which differ.

Only figures of one extractor, weights, preprocessing, reference and number of images stand in one table. Two single
runs differ where their difference lies outside its 95% interval, made of both intervals as of independent figures
(Newcombe 1998, "square and add"; for symmetric intervals the difference of two normals). Several seeds of a recipe are
one entry, its mean with Student's interval; two such entries are compared by the paired t-test where their seeds are
the same, else by Welch's. A single run and a mean over seeds are not tested: what another seed would give is not known
of the one.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ALIKE = ("extractor", "weights", "preprocessing", "precision", "reference", "samples", "real_samples", "against")
"""what must be equal for two figures to be compared, and the data of the recipes"""
OF_ONE_RUN = ("seed", "name", "versions", "device")
"""fields of a recipe that may differ between seeds of it"""
SINGLE, PAIRED, WELCH = "intervals of independent figures", "paired t-test over seeds", "Welch's t-test over seeds"


@dataclass(frozen=True)
class Judged:
    """A run with its recipe, as nested values, and its evaluation."""

    path: Path
    recipe: dict[str, Any]
    evaluation: dict[str, Any]

    @property
    def conditions(self) -> dict[str, Any]:
        """What its figures rest on."""
        told = {key: self.evaluation[key] for key in ALIKE if key in self.evaluation}
        return told if "reference" in told or "against" in told else told | {"data": self.recipe.get("data")}

    @property
    def identity(self) -> str:
        """Equal for seeds of one recipe, judged alike."""
        recipe = {key: value for key, value in self.recipe.items() if key not in OF_ONE_RUN}
        return json.dumps([recipe, _at(self)], sort_keys=True, default=str)


@dataclass(frozen=True)
class Entry:
    """One line of a table: a run, or several seeds of one recipe."""

    label: str
    runs: tuple[Judged, ...]

    @property
    def seeds(self) -> tuple[Any, ...]:
        return tuple(run.recipe.get("seed") for run in self.runs)

    def values(self, metric: str) -> list[float]:
        """Of each run, by rising seed."""
        return [float(run.evaluation["metrics"][metric]["value"]) for run in self.runs]

    def figure(self, metric: str) -> dict[str, Any]:
        """Its value, 95% interval or None, and what that is of."""
        values = self.values(metric)
        if len(values) == 1:
            interval = self.runs[0].evaluation["metrics"][metric].get("interval")
            return {"value": values[0], "interval": interval, "of": "drawn images"}
        mean, deviation = mean_and_deviation(values)
        reach = t_quantile(len(values) - 1) * deviation / math.sqrt(len(values))
        return {"value": mean, "interval": [mean - reach, mean + reach], "of": f"{len(values)} seeds", "values": values}


def read(path: str | Path) -> Judged:
    """A run's recipe and evaluation. Raises ValueError, in one line, where one is missing or damaged."""
    run = Path(path)
    found = []
    for name, what in (("recipe.yaml", "is no run"), ("evaluation.json", "was not judged")):
        file = run / name
        if not file.is_file():
            mend = f"; poise evaluate {run} does it" if name == "evaluation.json" else ""
            raise ValueError(f"{run} {what}: it has no {name}{mend}")
        try:
            text = file.read_text(encoding="utf-8")
            content = yaml.safe_load(text) if file.suffix == ".yaml" else json.loads(text)
        except (ValueError, yaml.YAMLError):
            content = None
        if not isinstance(content, dict):
            raise ValueError(f"{file} is damaged; it cannot be read")
        found.append(content)
    metrics = found[1].get("metrics")
    if not isinstance(metrics, dict) or not all(isinstance(one, dict) for one in metrics.values()):
        raise ValueError(f"{run / 'evaluation.json'} is damaged: it has no metrics; poise evaluate {run} mends it")
    return Judged(run, *found)


def compare_runs(paths: Iterable[str | Path]) -> dict[str, Any]:
    """Compare two runs or more.

    Returns:
        ``tables``, each of runs whose figures may be compared: ``conditions``, ``entries`` (label, runs, seeds, n,
        metrics), ``metrics`` (unit, better, best) and ``differences`` (metric, a, b, value of a − b, interval, test,
        ``beyond``: True, False, or None where there is no test); and ``notes``, one line each.

    Raises:
        ValueError: fewer than two runs, one given twice or not judged, or two of one recipe, checkpoint and seed.
    """
    folders = [Path(path).resolve() for path in paths]
    if len(folders) < 2:
        raise ValueError(f"{len(folders)} run is given; compare two or more")
    twice = next((folder for folder in folders if folders.count(folder) > 1), None)
    if twice:
        raise ValueError(f"{twice} is given twice; give each run once")
    by_conditions: dict[str, list[Judged]] = {}
    for run in map(read, folders):
        by_conditions.setdefault(json.dumps(run.conditions, sort_keys=True, default=str), []).append(run)
    notes = []
    if len(by_conditions) > 1:
        notes.append(f"{_differing(by_conditions)} differ: not comparable, shown in {len(by_conditions)} tables")
    return {"tables": [_table(runs, notes) for runs in by_conditions.values()], "notes": notes}


def _differing(groups: Mapping[str, Sequence[Judged]]) -> str:
    told = [group[0].conditions for group in groups.values()]
    names = dict.fromkeys(name for one in told for name in one)
    named = {"samples": "n", "real_samples": "the number of real images"}
    return ", ".join(
        named.get(name, name)
        for name in names
        if len({json.dumps(one.get(name), sort_keys=True, default=str) for one in told}) > 1
    )


def entries_of(runs: Sequence[Judged]) -> list[Entry]:
    """Runs, those of one recipe but for the seed as one; labels tell them apart by what differs in their recipes."""
    groups: dict[str, list[Judged]] = {}
    for run in runs:
        groups.setdefault(run.identity, []).append(run)
    entries = []
    for group in groups.values():
        seeds = [run.recipe.get("seed") for run in group]
        again = next((seed for seed in seeds if seeds.count(seed) > 1), None)
        if len(set(seeds)) < len(seeds):
            same = " and ".join(str(run.path) for run in group if run.recipe.get("seed") == again)
            raise ValueError(f"{same} are of one recipe and seed {again}; give one of them")
        ordered = tuple(sorted(group, key=lambda run: str(run.recipe.get("seed")).zfill(20)))
        entries.append(Entry(_label(ordered, groups), ordered))
    return entries


def _label(runs: Sequence[Judged], groups: Mapping[str, Sequence[Judged]]) -> str:
    if len(runs) == 1:
        names = [run.path.name for group in groups.values() for run in group]
        return runs[0].path.name if names.count(runs[0].path.name) == 1 else str(runs[0].path)
    flat = [dict(_flat(group[0].recipe)) | _at(group[0]) for group in groups.values()]
    own = dict(_flat(runs[0].recipe)) | _at(runs[0])
    names = [name for name in own if any(other.get(name) != own[name] for other in flat)]
    told = ", ".join(f"{name}={own[name]}" for name in names if name.split(".")[0] not in OF_ONE_RUN)
    return f"{runs[0].recipe.get('name', 'run')}{' ' * bool(told)}{told} ({len(runs)} seeds)"


def _at(run: Judged) -> dict[str, Any]:
    return {"step": run.evaluation.get("step"), "network": run.evaluation.get("network", "ema")}


def _flat(recipe: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in recipe.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _table(runs: Sequence[Judged], notes: list[str]) -> dict[str, Any]:
    entries = entries_of(runs)
    every = [[name for name, one in run.evaluation["metrics"].items() if _is_number(one.get("value"))] for run in runs]
    shared = [name for name in every[0] if all(name in names for names in every)]
    left = [name for name in dict.fromkeys(itertools.chain(*every)) if name not in shared]
    if left:
        notes.append(f"{', '.join(left)}: not of every run, left out")
    about = {name: runs[0].evaluation["metrics"][name] for name in shared}
    rows: list[dict[str, Any]] = []
    for entry in entries:
        figures = {name: entry.figure(name) for name in shared}
        n = entry.runs[0].evaluation.get("samples")
        told = {"label": entry.label, "runs": [str(run.path) for run in entry.runs], "seeds": list(entry.seeds)}
        rows.append({**told, "n": n, "metrics": figures})
    metrics = {}
    for name in shared:
        better = about[name].get("better")
        pick = {"higher": max, "lower": min}.get(str(better))
        best = None if pick is None else pick(rows, key=lambda row: row["metrics"][name]["value"])["label"]
        metrics[name] = {"unit": about[name].get("unit", ""), "better": better, "best": best}
    differences = [
        {"metric": name, "a": a.label, "b": b.label, **difference(a, b, name)}
        for name in shared
        for a, b in itertools.combinations(entries, 2)
    ]
    return {"conditions": runs[0].conditions, "entries": rows, "metrics": metrics, "differences": differences}


def difference(a: Entry, b: Entry, metric: str) -> dict[str, Any]:
    """``a − b`` of a metric with its 95% interval, the test, and whether 0 lies outside (None: no test)."""
    left, right = a.figure(metric), b.figure(metric)
    value = left["value"] - right["value"]
    low = high = test = None
    if len(a.runs) == len(b.runs) == 1:
        if left["interval"] and right["interval"]:
            (low_a, high_a), (low_b, high_b) = left["interval"], right["interval"]
            low = value - math.hypot(left["value"] - low_a, high_b - right["value"])
            high = value + math.hypot(high_a - left["value"], right["value"] - low_b)
            test = SINGLE
    elif min(len(a.runs), len(b.runs)) > 1:
        if a.seeds == b.seeds:
            pairs = zip(a.values(metric), b.values(metric), strict=True)
            _, deviation = mean_and_deviation([x - y for x, y in pairs])
            error, freedom, test = deviation / math.sqrt(len(a.runs)), float(len(a.runs) - 1), PAIRED
        else:
            parts = [mean_and_deviation(one.values(metric))[1] ** 2 / len(one.runs) for one in (a, b)]
            weights = sum(part**2 / (len(one.runs) - 1) for part, one in zip(parts, (a, b), strict=True))
            freedom = sum(parts) ** 2 / weights if weights > 0 else 1.0
            error, test = math.sqrt(sum(parts)), WELCH
        reach = t_quantile(freedom) * error
        low, high = value - reach, value + reach
    beyond = None if low is None or high is None else not low <= 0 <= high
    return {"value": value, "interval": None if low is None else [low, high], "test": test, "beyond": beyond}


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and unbiased standard deviation of two values or more."""
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def t_quantile(freedom: float) -> float:
    """The 97.5% quantile of Student's t."""
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
