"""A run folder as one HTML page that needs no network: reads the folder, fills the template, writes ``report.html``."""

from __future__ import annotations

import base64
import json
import os
import re
import struct
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from poise.report.figures import (
    BLUE,
    KNOWN,
    ORANGE,
    PINK,
    TEAL,
    Chart,
    Record,
    curves,
    finite,
    metric_charts,
    metric_label,
    number,
    ordered_metrics,
    per_layer,
)
from poise.report.stability import stability_charts
from poise.report.truncation import truncation_charts

PICTURES = {
    "reconstruction.png": "Held-out images and their reconstructions",
    "neighbours.png": "Generated images and their nearest training images",
}
DETAILS = ("network", "real_samples", "against", "reference", "weights", "preprocessing", "precision")
MOST_GRIDS = 60  # embedded in the page; the folder keeps all


def write_report(run: Path) -> Path:
    """Write ``report.html`` into a run folder, whole or not at all, and return its path.

    Raises:
        FileNotFoundError: not a run folder: it, or its recipe.yaml, is missing.
        ValueError: recipe.yaml is not a YAML mapping.
    """
    run = Path(run)
    page = _environment().from_string(_template()).render(_content(run))
    report, unfinished = run / "report.html", run / f".report.html.{os.getpid()}"
    try:
        unfinished.write_text(page, encoding="utf-8")
        os.replace(unfinished, report)  # noqa: PTH105
    finally:
        unfinished.unlink(missing_ok=True)
    return report


def _template() -> str:
    return resources.files("poise.report").joinpath("template.html").read_text(encoding="utf-8")


def _environment() -> Environment:
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "duration": duration}
    return environment


def _content(run: Path) -> dict[str, Any]:
    recipe = read_recipe(run)
    versions = recipe.pop("versions", None) or {}
    training, judgements, notes = read_metrics(run / "metrics.jsonl")
    returns = read_returns(run / "metrics.jsonl")
    final, diagnosis = (_read_json(run / name, notes) for name in ("evaluation.json", "diagnosis.json"))
    curve = _read_json(run / "truncation.json", notes)
    last = max([*training[-1:], *judgements[-1:]], key=lambda record: record["step"], default={})
    if not diagnosis and training and training[-1].get("verdict"):
        diagnosis = {key: training[-1][key] for key in ("verdict", "step")}
    sections = _sections(training, judgements, final, returns) | {"truncation": truncation_charts(curve)}
    return {
        "run": run.resolve().name,
        "recipe": recipe,
        "recipe_yaml": yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True),
        "versions": versions,
        "last": last,
        "diagnosis": diagnosis,
        "notes": notes,
        "returns": [_returned(event) for event in returns],
        "table": _table(judgements, final),
        "grids": read_grids(run / "samples", notes),
        "curve": curve,
        "pictures": read_pictures(run, notes),
        "sections": sections,
        "plotly_js": Markup(get_plotlyjs()) if any(sections.values()) else "",
    }


def read_recipe(run: Path) -> dict[str, Any]:
    """The run's recipe as nested values. Raises FileNotFoundError or ValueError in one line."""
    path = run / "recipe.yaml"
    if not path.is_file():
        raise FileNotFoundError(
            f"{run} is not a run folder: {'recipe.yaml' if run.is_dir() else 'the folder'} is missing"
        )
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} holds {type(recipe).__name__}; a recipe is a mapping of fields to values")
    return recipe


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    """Training records, evaluation records (each by rising step) and notes on lines that could not be read.

    A resumed run writes some steps again: what it wrote later replaces what it wrote before. Returns to an earlier
    checkpoint are passed over.
    """
    kinds: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    unread = 0
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for line in filter(str.strip, text.split("\n")):
        record = _parsed(line)
        if record is None or not isinstance(record.get("step"), int):
            unread += 1
            continue
        if isinstance(record.get("rollback"), dict):
            continue
        records = kinds[isinstance(record.get("evaluation"), dict)]
        while records and records[-1]["step"] >= record["step"]:
            records.pop()
        records.append(record)
    lines = "1 line" if unread == 1 else f"{unread} lines"
    notes = [f"{lines} of metrics.jsonl could not be read (cut short?) and left out."] if unread else []
    return *kinds, notes


def read_returns(path: Path) -> list[Record]:
    """What was logged of each return to an earlier checkpoint, oldest first."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    records = [_parsed(line) or {} for line in text.split("\n") if '"rollback"' in line]
    return [record["rollback"] for record in records if isinstance(record.get("rollback"), dict)]


def _returned(event: Record) -> str:
    back = f"Rolled back from step {number(event.get('from'))} to {number(event.get('to'))}"
    return f"{back}: {event.get('evidence')}; from there {event.get('change')}."


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        record = json.loads(text, parse_constant=lambda _: None)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _read_json(path: Path, notes: list[str]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content = _parsed(path.read_text(encoding="utf-8", errors="replace"))
    if content is None:
        notes.append(f"{path.name} could not be read and is left out.")
    return content or {}


def read_grids(folder: Path, notes: list[str]) -> list[dict[str, Any]]:
    """Sample grids by step: {step, width, height (pixels), uri}; at most ``MOST_GRIDS``, first and last among them."""
    found = ((re.fullmatch(r"step-(\d+)\.png", path.name), path) for path in folder.glob("step-*.png"))
    paths = sorted((int(match[1]), path) for match, path in found if match)
    if len(paths) > MOST_GRIDS:
        notes.append(f"{MOST_GRIDS} of {len(paths)} sample grids are shown, evenly spaced.")
        paths = [paths[round(i * (len(paths) - 1) / (MOST_GRIDS - 1))] for i in range(MOST_GRIDS)]
    grids = []
    for step, path in paths:
        embedded = _embedded(path, f"samples/{path.name}", notes)
        if embedded:
            grids.append({"step": step, **embedded})
    return grids


def read_pictures(run: Path, notes: list[str]) -> list[dict[str, Any]]:
    """Pictures that judgements left in the run: {title, width, height (pixels), uri}."""
    found = ((title, _embedded(run / name, name, notes)) for name, title in PICTURES.items() if (run / name).is_file())
    return [{"title": title, **embedded} for title, embedded in found if embedded]


def _embedded(path: Path, name: str, notes: list[str]) -> dict[str, Any] | None:
    """A PNG's {width, height, uri}, or None and a note for half a one."""
    png = path.read_bytes()
    if not png.startswith(b"\x89PNG\r\n\x1a\n") or b"IEND" not in png[-12:]:
        notes.append(f"{name} is not a whole PNG and is left out.")
        return None
    width, height = struct.unpack(">II", png[16:24])
    return {"width": width, "height": height, "uri": "data:image/png;base64," + base64.b64encode(png).decode("ascii")}


def _table(judgements: Sequence[Record], final: Record) -> dict[str, Any] | None:
    """The final judgement, or the last one of the training where that is missing; None before the first."""
    if isinstance(final.get("metrics"), dict):
        metrics, about = final["metrics"], {**final, "final": True}
    elif judgements:
        metrics = {name: {"value": value} for name, value in judgements[-1]["evaluation"].items()}
        about = {**judgements[-1]["evaluation"], "step": judgements[-1]["step"], "final": False}
    else:
        return None
    rows = []
    for name in ordered_metrics(metrics):
        entry = metrics[name] if isinstance(metrics[name], dict) else {"value": metrics[name]}
        label = metric_label(name, about.get("modes_total"), entry.get("unit"))
        unit = "" if str(entry.get("unit") or "") in label else entry["unit"]
        better = entry.get("better") or KNOWN.get(name, ("", "", ""))[2]
        row = {"label": label, "value": entry.get("value"), "unit": unit, "reference": entry.get("reference")}
        row |= {"interval": _interval(entry.get("interval")), "note": entry.get("note") or ""}
        rows.append({**row, "n": entry.get("n", about.get("samples")), "better": better})
    return {
        "rows": rows,
        "details": "; ".join(
            f"{key.replace('_', ' ')} {about[key]}" for key in DETAILS if about.get(key) not in (None, "", "none")
        ),
        **{key: about.get(key) for key in ("final", "step", "samples", "seed", "extractor", "seconds")},
    }


def _interval(given: Any) -> str:
    """A 95% interval for people; empty where there is none."""
    ends = [finite(end) for end in given] if isinstance(given, list) and len(given) == 2 else []
    return f"{number(ends[0])} to {number(ends[1])}" if ends and None not in ends else ""


def _sections(
    training: Sequence[Record], judgements: Sequence[Record], final: Record, returns: Sequence[Record]
) -> dict[str, list[Chart]]:
    losses = {"d_loss": ("D loss", BLUE), "g_loss": ("G loss", ORANGE)}
    logits = {"real_logit": ("real images", TEAL), "fake_logit": ("generated images", PINK)}
    drawn = (
        curves(training, losses, "Losses of D and G", "loss (unitless)"),
        curves(training, logits, "Logits of D, mean over the batch", "logit (unitless)"),
    )
    return {
        "metrics": metric_charts(judgements, final),
        "losses": [chart for chart in drawn if chart],
        "gradients": per_layer(training, "gradient_norm", "gradient norm", log=True),
        "sigma": per_layer(training, "sigma", "σ (unitless)"),
        **{f"stability_{part}": charts for part, charts in stability_charts(training, returns).items()},
    }


def duration(seconds: Any) -> str:
    """Seconds as hours, minutes and seconds; a dash for none."""
    known = finite(seconds)
    if known is None:
        return "—"
    if known < 60:
        return f"{known:.1f} s"
    minutes, rest = divmod(round(known), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"
