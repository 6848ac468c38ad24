"""Files that trainings log to, as rows by tag: lines of JSON, and TensorBoard events."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Row = dict[str, Any]
STEPS = (
    *("step", "global_step", "iteration", "iter", "it", "_step", "steps", "cur_nimg", "kimg", "Progress/kimg"),
    *("trainer/global_step", "batch", "epoch"),
)
"""tags of a step, the first that tells rows apart; thousands of images as images"""
READ = "what can be read is a metrics.jsonl, one JSON object a line, or TensorBoard events"


def logs_in(path: Path) -> Iterator[list[Row]]:
    """Rows of each log there, the likeliest first; each row has its ``step``, and is nested as it was logged.

    Args:
        path: a file ending in ``.jsonl``, ``.ndjson`` or ``.json``, an event file, or a folder that holds either.

    Raises:
        FileNotFoundError: nothing there. ValueError: a file is none of these, or tensorboard is missing.
    """
    if path.is_file():
        yield _lines(path) if path.suffix in (".jsonl", ".json", ".ndjson") else _events(path)
        return
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is neither a file nor a folder")
    patterns = ("metrics.jsonl", "*.jsonl", "**/metrics.jsonl", "**/*.jsonl")
    files = list(dict.fromkeys(file for pattern in patterns for file in sorted(path.glob(pattern))))
    events = sorted(path.rglob("*tfevents*"))
    if not files and not events:
        raise FileNotFoundError(f"{path} holds neither a metrics.jsonl nor TensorBoard events")
    for file in files:
        yield _lines(file)
    if events:
        merged: dict[int, Row] = {}
        for folder in dict.fromkeys(event.parent for event in events):
            for row in _events(folder):
                merged.setdefault(row["step"], {}).update(row)
        yield [merged[step] for step in sorted(merged)]


def flattened(row: Mapping[str, Any], above: str = "") -> Row:
    """Nested tags joined by slashes; statistics of one quantity, ``{"num": …, "mean": …}``, are its mean."""
    flat: Row = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            mean = value.get("mean")
            inner = {f"{above}{name}": mean} if mean is not None else flattened(value, f"{above}{name}/")
            flat.update(inner)
        else:
            flat[above + name] = value
    return flat


def _lines(path: Path) -> list[Row]:
    text = path.read_text(encoding="utf-8", errors="replace")
    found = [_parsed(line) for line in text.splitlines()]
    if not any(isinstance(row, dict) for row in found):
        whole = _parsed(text)  # a list of objects
        found = whole if isinstance(whole, list) else []
    rows = [row for row in found if isinstance(row, dict) and not isinstance(row.get("evaluation"), dict)]
    if not rows:
        raise ValueError(f"{path} {'is empty' if not text.strip() else 'holds no line that is a JSON object'}; {READ}")
    return [{**row, "step": step} for row, step in zip(rows, _steps(rows), strict=True)]


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # cut short by a crash
        return None


def _steps(rows: list[Row]) -> list[int]:
    """By the first tag that nine rows of ten have, and that no more share with the row before; else by place.

    Rows that share an epoch are many, rows that share a step what a resumed run wrote twice.
    """
    flat = [flattened(row) for row in rows]
    for name in STEPS:
        steps: list[int] = []
        scale, missing, shared = 1000 if name.endswith("kimg") else 1, 0, 0
        for place, row in enumerate(flat):
            known = _is_finite(row.get(name))
            steps.append(round(row[name] * scale) if known else steps[-1] if steps else 0)
            missing += not known
            before: Row = flat[place - 1] if known and place and steps[-2] == steps[-1] else {}
            shared += bool(_values(row) & _values(before))
        if 10 * max(missing, shared) <= len(flat):
            return steps
    return list(range(len(flat)))


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def _values(row: Mapping[str, Any]) -> set[str]:
    """Tags of what is neither a step nor counted."""
    return {name for name, value in row.items() if isinstance(value, float) and name not in STEPS}


def _events(path: Path) -> list[Row]:
    try:
        room = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    except ImportError:
        raise ValueError(f"{path} holds TensorBoard events; to read them: pip install tensorboard") from None
    accumulator = room.EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0})
    accumulator.Reload()
    rows: dict[int, Row] = {}
    for tag in accumulator.Tags()["scalars"]:
        for event in accumulator.Scalars(tag):
            rows.setdefault(event.step, {"step": event.step})[tag] = event.value
    if not rows:
        raise ValueError(f"no TensorBoard scalar could be read from {path}; {READ}")
    return [rows[step] for step in sorted(rows)]
