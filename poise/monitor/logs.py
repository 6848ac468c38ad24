"""Logs of trainings, ours and other people's, as records of the monitor: fields found by the words of their tags."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poise.monitor.log_files import Row, flattened, logs_in

PLAYERS = {
    **dict.fromkeys(("g", "gen", "generator"), "G"),
    **dict.fromkeys(("d", "dis", "disc", "discriminator", "critic"), "D"),
}
LOSS = {"loss", "losses", "err", "error", "l"}
LOGIT = {"logit", "logits", "score", "scores", "out", "output", "outputs", "pred"}
SIDES = {"real": "real", "fake": "fake", "x": "real", "z": "fake"}
NEUTRAL = {
    *("train", "training", "trainer", "total", "step", "epoch", "iter", "mean", "avg", "average", "running", "metrics"),
    *("gan", "adv", "adversarial", "net", "model", "main", "log", "scalars"),
}
"""words that may stand beside those that say what a tag is; any other word makes it something else"""
JOINED = {
    **{word: (word[0], word[1:]) for word in ("dloss", "gloss", "dx", "dreal", "dfake")},
    **{word: (word[:-1], word[-1]) for word in ("lossd", "lossg", "errd", "errg", "ld", "lg")},
    "dgz": ("d", "g", "z"),
}
HALVES = ("d_loss_real", "d_loss_fake")
"""of a discriminator's loss that is logged in two; their sum is d_loss where no other is"""
GRADIENTS = re.compile(r"grad(?:ient)?s?_?norms?[/_.]?(.*)|(.*?)[/_.]?grad(?:ient)?s?_?norms?", re.IGNORECASE)


@dataclass(frozen=True)
class Log:
    """A log as records of the monitor, by rising step, and of each field the tag that it went by."""

    records: list[dict[str, Any]]
    tags: dict[str, str]


def read_log(path: Path, names: Mapping[str, str] | None = None) -> Log:
    """A run folder, a ``metrics.jsonl``, or TensorBoard events.

    Args:
        path: a file ending in ``.jsonl`` or ``.json``, an event file, or a folder that holds either, at any depth.
        names: of fields, where they go by others than those known: ``{"d_loss": "Loss/critic"}``.

    Raises:
        FileNotFoundError: nothing to read there.
        ValueError: nothing in it could be recognised, or a field is named that it lacks.
    """
    complaint: ValueError | None = None
    for rows in logs_in(Path(path)):
        try:
            return _read(Path(path), rows, names or {})
        except ValueError as error:  # of several logs in a folder another may do
            complaint = complaint or error
    assert complaint is not None
    raise complaint


def _read(path: Path, rows: list[Row], names: Mapping[str, str]) -> Log:
    is_ours = any("verdict" in row for row in rows)
    rows = rows if is_ours else [flattened(row) for row in rows]
    tags = Counter(tag for row in rows for tag in row if tag != "step" and _is_number(row[tag]))
    for field, tag in names.items():
        if tag not in tags:
            raise ValueError(f"{path} has no field {tag!r} to be read as {field}; it has: {_shown(tags)}")
    meaning = _meanings(tags, names)
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
        known = f"it logs {_shown(tags)}" if tags else "it logs no number"
        raise ValueError(f"nothing to judge in {path}: {known}; say which field is which: --names d_loss=…")
    return Log(records, {} if is_ours else {signal: tag for tag, (signal, layer) in meaning.items() if not layer})


def _shown(tags: Iterable[str]) -> str:
    tags = list(tags)
    return ", ".join(tags[:12]) + (f" and {len(tags) - 12} more" if len(tags) > 12 else "")


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float | Mapping) and not isinstance(value, bool))


def _meanings(tags: Mapping[str, int], names: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """The (signal, layer) that tags stand for: of several for the same, such as by step and epoch, the most logged."""
    found: dict[tuple[str, str], str] = {(field, ""): tag for field, tag in names.items()}
    for tag in sorted(tags, key=tags.__getitem__, reverse=True):
        meaning = _meaning(tag) if tag not in names.values() else None
        if meaning is not None:
            found.setdefault(meaning, tag)
    if any({"g", "gan"} == set(_words(tag)) for tag in tags):  # pix2pix's names, by which D_real is a loss as well
        of_sides = {"real_logit": "d_loss_real", "fake_logit": "d_loss_fake"}
        found = {
            (signal if LOGIT & {*_words(tag)} else of_sides.get(signal, signal), layer): tag
            for (signal, layer), tag in found.items()
        }
    if ("d_loss", "") in found:
        found = {meaning: tag for meaning, tag in found.items() if meaning[0] not in HALVES}
    return {tag: meaning for meaning, tag in found.items()}


def _meaning(tag: str) -> tuple[str, str] | None:
    """The (signal, layer) that a tag stands for by its words; None for what no rule knows."""
    ours = r"(gradient_norm|sigma|effective_sigma|stable_rank|hidden_variance|update_ratio)/([GD]\..+)"
    from_ours = re.fullmatch(ours, tag)
    if from_ours:
        return from_ours[1], from_ours[2]
    words = _words(tag)
    players, sides = [PLAYERS[word] for word in words if word in PLAYERS], {SIDES[w] for w in words if w in SIDES}
    known = all(word in (*PLAYERS, *LOSS, *LOGIT, *SIDES, *NEUTRAL) for word in words)
    is_loss, is_logit = not LOSS.isdisjoint(words), not LOGIT.isdisjoint(words)
    if known and len(sides) == 1 and (is_logit or ("D" in players and not is_loss)):
        return f"{sides.pop()}_logit", ""
    if known and (is_loss or "gan" in words) and not is_logit and len(set(players)) == 1:
        if not sides:
            return f"{players[0].lower()}_loss", ""
        return (f"d_loss_{sides.pop()}", "") if players[0] == "D" and len(sides) == 1 else None
    gradient = GRADIENTS.fullmatch(tag)
    if gradient:
        rest = [part for part in re.split(r"[/_.]+", gradient[1] or gradient[2] or "") if part]
        player = PLAYERS.get(rest[0].lower()) if rest else None
        if player:
            return "gradient_norm", f"{player}.{'.'.join(rest[1:]) or 'all'}"
    return None


def _words(tag: str) -> Sequence[str]:
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", tag).lower()
    words = [word for word in re.split(r"[^a-z0-9]+", apart) if word]
    return [part for word in words for part in JOINED.get(word, (word,))]


def _record(row: Mapping[str, Any], meaning: Mapping[str, tuple[str, str]], is_ours: bool) -> dict[str, Any] | None:
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
    halves = [record.pop(half) for half in HALVES if half in record]
    if len(halves) == len(HALVES):
        record["d_loss"] = sum(halves)
    return {"step": row["step"], **record} if record else None


def parse_names(words: Iterable[str]) -> dict[str, str]:
    """``["d_loss=Loss/critic"]`` as a mapping. Raises ValueError for another form."""
    pairs = [word.partition("=") for word in words]
    for field, equals, tag in pairs:
        if not (field and equals and tag):
            raise ValueError(f"{field!r} names no field; give FIELD=NAME, such as d_loss=Loss/critic")
    return {field: tag for field, _, tag in pairs}
