"""Logs of trainings, ours and other people's, as records of the monitor: fields found by the names people give them."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ALIASES: dict[str, tuple[str, ...]] = {
    "d_loss": (
        *(
            "loss_d",
            "d_loss",
            "dis_loss",
            "disc_loss",
            "discriminator_loss",
            "loss_discriminator",
            "loss_disc",
            "err_d",
        ),
        *(
            "critic_loss",
            "loss_critic",
            "d_loss_total",
            "loss_d_total",
            "total_d_loss",
            "train_d_loss",
            "lossd",
            "errd",
        ),
        *("loss_discriminator_loss", "adv_d_loss", "l_d", "ld", "dloss"),
    ),
    "g_loss": (
        *("loss_g", "g_loss", "gen_loss", "generator_loss", "loss_generator", "loss_gen", "err_g", "lossg", "errg"),
        *(
            "g_loss_total",
            "loss_g_total",
            "total_g_loss",
            "train_g_loss",
            "adv_g_loss",
            "loss_generator_loss",
            "l_g",
            "lg",
        ),
        "gloss",
    ),
    "real_logit": (
        *("real_logit", "real_logits", "logits_real", "logit_real", "d_real", "real_score", "scores_real", "dx", "d_x"),
        *("real_scores", "loss_scores_real", "out_d_real", "d_out_real", "d_output_real", "d_real_logits"),
    ),
    "fake_logit": (
        *(
            "fake_logit",
            "fake_logits",
            "logits_fake",
            "logit_fake",
            "d_fake",
            "fake_score",
            "scores_fake",
            "dgz",
            "d_gz",
        ),
        *("fake_scores", "loss_scores_fake", "out_d_fake", "d_out_fake", "d_output_fake", "d_g_z", "d_fake_logits"),
    ),
}
"""names by which fields go elsewhere, in lower case with underscores; the last part of a longer one counts too"""
PLAYERS = {
    "g": "G",
    "gen": "G",
    "generator": "G",
    "d": "D",
    "dis": "D",
    "disc": "D",
    "discriminator": "D",
    "critic": "D",
}
GRADIENTS = re.compile(r"grad(?:ient)?s?_?norms?[/_.]?(.*)|(.*?)[/_.]?grad(?:ient)?s?_?norms?", re.IGNORECASE)


def read_log(path: Path, names: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """Records by rising step from a run folder, a ``metrics.jsonl``, or TensorBoard events.

    Args:
        path: a file ending in ``.jsonl`` or ``.json``, an event file, or a folder that holds either, at any depth.
        names: of fields, where they go by others than those known: ``{"d_loss": "Loss/critic"}``.

    Raises:
        FileNotFoundError: nothing to read there.
        ValueError: nothing in it could be recognised, or a field is named that it lacks.
    """
    rows = _rows(Path(path))
    is_ours = any("verdict" in row for row in rows)
    tags = dict.fromkeys(tag for row in rows for tag in row)
    for field, tag in (names or {}).items():
        if tag not in tags and tag != "step":
            shown = ", ".join(list(tags)[:12])
            raise ValueError(f"{path} has no field {tag!r} to be read as {field}; it has: {shown}")
    meaning = {tag: _meaning(tag, names or {}) for tag in tags}
    records: list[dict[str, Any]] = []
    for row in rows:
        record = _record(row, meaning, is_ours)
        if record is None:
            continue
        while records and records[-1]["step"] > record["step"]:  # a resumed run wrote it again
            records.pop()
        if records and records[-1]["step"] == record["step"]:
            records[-1] |= record
        else:
            records.append(record)
    if not records:
        shown = ", ".join(list(tags)[:12]) or "nothing"
        raise ValueError(f"nothing to judge in {path}: it logs {shown}; say which field is which: --names d_loss=…")
    return records


def _rows(path: Path) -> list[dict[str, Any]]:
    """Flat or nested rows as they were logged, each with its ``step``."""
    if path.is_file():
        return _lines(path) if path.suffix in (".jsonl", ".json", ".ndjson") else _events(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is neither a file nor a folder")
    for pattern in ("metrics.jsonl", "*.jsonl", "**/metrics.jsonl", "**/*.jsonl"):
        found = sorted(path.glob(pattern))
        if found:
            return _lines(found[0])
    events = sorted(path.rglob("*tfevents*"))
    if not events:
        raise FileNotFoundError(f"{path} holds neither a metrics.jsonl nor TensorBoard events")
    merged: dict[int, dict[str, Any]] = {}
    for folder in dict.fromkeys(event.parent for event in events):
        for row in _events(folder):
            merged.setdefault(row["step"], {}).update(row)
    return [merged[step] for step in sorted(merged)]


def _lines(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines()):
        try:
            row = json.loads(line)
        except ValueError:  # cut short by a crash
            continue
        if not isinstance(row, dict) or isinstance(row.get("evaluation"), dict):
            continue
        step = next((row[key] for key in STEPS if isinstance(row.get(key), int | float)), number)
        rows.append({**row, "step": int(step)})
    return rows


STEPS = ("step", "global_step", "iteration", "iter", "it", "_step", "steps", "cur_nimg", "kimg", "epoch")


def _events(path: Path) -> list[dict[str, Any]]:
    try:
        room = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    except ImportError:
        raise ImportError(f"{path} holds TensorBoard events; to read them: pip install tensorboard") from None
    accumulator = room.EventAccumulator(str(path), size_guidance={"scalars": 0})
    accumulator.Reload()
    rows: dict[int, dict[str, Any]] = {}
    for tag in accumulator.Tags()["scalars"]:
        for event in accumulator.Scalars(tag):
            rows.setdefault(event.step, {"step": event.step})[tag] = event.value
    return [rows[step] for step in sorted(rows)]


def _meaning(tag: str, names: Mapping[str, str]) -> tuple[str, str] | None:
    """The (signal, layer) that a tag stands for; None for what no rule knows."""
    for field, given in names.items():
        if given == tag:
            return field, ""
    from_ours = re.fullmatch(
        r"(gradient_norm|sigma|effective_sigma|stable_rank|hidden_variance|update_ratio)/([GD]\..+)", tag
    )
    if from_ours:
        return from_ours[1], from_ours[2]
    plain = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", tag).lower()).strip("_")
    for field, known in ALIASES.items():
        if field not in names and (plain in known or any(plain.endswith(f"_{one}") for one in known if len(one) > 4)):
            return field, ""
    gradient = GRADIENTS.fullmatch(tag)
    if gradient:
        rest = [part for part in re.split(r"[/_.]+", gradient[1] or gradient[2] or "") if part]
        player = PLAYERS.get(rest[0].lower()) if rest else None
        if player:
            return "gradient_norm", f"{player}.{'.'.join(rest[1:]) or 'all'}"
    return None


def _record(
    row: Mapping[str, Any], meaning: Mapping[str, tuple[str, str] | None], is_ours: bool
) -> dict[str, Any] | None:
    """A row as ``Monitor.observe`` would have returned it; None where it holds nothing that is known.

    Null is how a run of ours writes what is not finite; elsewhere it is what was not logged.
    """
    if is_ours and "verdict" in row:
        return {name: value for name, value in row.items() if name not in ("images", "seconds")}
    record: dict[str, Any] = {}
    for tag, value in row.items():
        known = meaning.get(tag)
        if known is None or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        signal, layer = known
        if layer:
            record.setdefault(signal, {})[layer] = float(value)
        else:
            record[signal] = float(value)
    return {"step": row["step"], **record} if record else None


def parse_names(words: Iterable[str]) -> dict[str, str]:
    """``["d_loss=Loss/critic"]`` as a mapping. Raises ValueError for another form."""
    pairs = [word.partition("=") for word in words]
    for field, equals, tag in pairs:
        if not (field and equals and tag):
            raise ValueError(f"{field!r} names no field; give FIELD=NAME, such as d_loss=Loss/critic")
    return {field: tag for field, _, tag in pairs}
