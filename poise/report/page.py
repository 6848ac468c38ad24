"""A run folder as one HTML page that needs no network: reads the folder, fills ``template.html``, writes ``report.html``."""

from __future__ import annotations

import base64
import json
import os
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from poise.report.figures import BLUE, ORANGE, PINK, TEAL, Chart, column, curves, finite, metric_figure, per_layer
from poise.report.figures import wide_range

MOST_GRIDS = 60  # embedded in the page; the folder keeps all

# What is known of a metric by its name: label, unit of its axis, which direction is better.
KNOWN = {
    "modes": ("modes covered", "modes", "higher"),
    "kl": ("reverse KL to the data's modes (nats)", "KL (nats)", "lower"),
    "score_digits": ("Inception-style score, digit classifier", "score (unitless)", "higher"),
    "fd_digits": ("Fréchet distance, digit features", "distance (unitless)", "lower"),
}
CONTEXT = ("samples", "seconds", "modes_total")  # stand beside the metrics without being one


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
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "duration": duration}
    return environment


def _content(run: Path) -> dict[str, Any]:
    recipe = read_recipe(run)
    versions = recipe.pop("versions", None) or {}
    training, judgements, notes = read_metrics(run / "metrics.jsonl")
    final, diagnosis = (_read_json(run / name, notes) for name in ("evaluation.json", "diagnosis.json"))
    last = max([*training[-1:], *judgements[-1:]], key=lambda record: record["step"], default={})
    if not diagnosis and training and training[-1].get("verdict"):
        diagnosis = {key: training[-1][key] for key in ("verdict", "step")}
    sections = _sections(training, judgements, final)
    return {
        "run": run.resolve().name,
        "recipe": recipe,
        "recipe_yaml": yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True),
        "versions": versions,
        "last": last,
        "diagnosis": diagnosis,
        "notes": notes,
        "table": _table(judgements, final),
        "grids": read_grids(run / "samples", notes),
        "sections": sections,
        "plotly_js": Markup(get_plotlyjs()) if any(sections.values()) else "",
    }


def read_recipe(run: Path) -> dict[str, Any]:
    """The run's recipe as nested values. Raises FileNotFoundError or ValueError in one line."""
    path = run / "recipe.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"{run} is not a run folder: {'recipe.yaml' if run.is_dir() else 'the folder'} is missing")
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} holds {type(recipe).__name__}; a recipe is a mapping of fields to values")
    return recipe


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    """Training records, evaluation records (each by rising step) and notes on lines that could not be read.

    A resumed run writes some steps again: what it wrote later replaces what it wrote before.
    """
    kinds: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    unread = 0
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for line in filter(str.strip, text.split("\n")):
        record = _parsed(line)
        if record is None or not isinstance(record.get("step"), int):
            unread += 1
            continue
        records = kinds[isinstance(record.get("evaluation"), dict)]
        while records and records[-1]["step"] >= record["step"]:
            records.pop()
        records.append(record)
    lines = "1 line" if unread == 1 else f"{unread} lines"
    notes = [f"{lines} of metrics.jsonl could not be read (cut short?) and left out."] if unread else []
    return *kinds, notes


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
        png = path.read_bytes()
        if not png.startswith(b"\x89PNG\r\n\x1a\n") or b"IEND" not in png[-12:]:
            notes.append(f"samples/{path.name} is not a whole PNG and is left out.")
            continue
        width, height = struct.unpack(">II", png[16:24])
        uri = "data:image/png;base64," + base64.b64encode(png).decode("ascii")
        grids.append({"step": step, "width": width, "height": height, "uri": uri})
    return grids


def _table(judgements: Sequence[Mapping[str, Any]], final: Mapping[str, Any]) -> dict[str, Any] | None:
    """The final judgement, or the last one of the training where that is missing; None before the first."""
    if final.get("metrics"):
        metrics, about = final["metrics"], {**final, "final": True}
    elif judgements:
        metrics = {name: {"value": value} for name, value in judgements[-1]["evaluation"].items()}
        about = {**judgements[-1]["evaluation"], "step": judgements[-1]["step"], "final": False}
    else:
        return None
    rows = []
    for name in _ordered(metrics):
        entry = metrics[name] if isinstance(metrics[name], dict) else {"value": metrics[name]}
        label = metric_label(name, about.get("modes_total"), entry.get("unit"))
        unit = "" if str(entry.get("unit") or "") in label else entry["unit"]
        better = entry.get("better") or KNOWN.get(name, ("", "", ""))[2]
        row = {"label": label, "value": entry.get("value"), "unit": unit, "reference": entry.get("reference")}
        rows.append({**row, "better": better})
    return {"rows": rows, **{key: about.get(key) for key in ("final", "step", "samples", "seed", "extractor", "seconds")}}


def metric_label(name: str, modes_total: Any = None, unit: Any = None) -> str:
    """A metric's name for people: known ones in words, others as they are."""
    label = KNOWN.get(name, (name,))[0]
    if name == "modes" and (modes_total or str(unit).startswith("of ")):
        return f"{label} ({unit if not modes_total else f'of {modes_total}'})"
    return label


def _ordered(names: Iterable[str]) -> list[str]:
    """Known metrics first, in their order, then the others as they come; context left out."""
    names = [name for name in dict.fromkeys(names) if name not in CONTEXT]
    return [name for name in KNOWN if name in names] + [name for name in names if name not in KNOWN]


def _sections(
    training: Sequence[Mapping[str, Any]], judgements: Sequence[Mapping[str, Any]], final: Mapping[str, Any]
) -> dict[str, list[Chart]]:
    losses = curves(training, {"d_loss": ("D loss", BLUE), "g_loss": ("G loss", ORANGE)}, "loss (unitless)")
    logits = {"real_logit": ("mean logit of real", TEAL), "fake_logit": ("mean logit of fake", PINK)}
    return {
        "metrics": _metric_charts(judgements, final),
        "losses": [chart for chart in (losses, curves(training, logits, "logit (unitless)")) if chart],
        "gradients": per_layer(training, "gradient_norm", "gradient norm", log=True),
        "sigma": per_layer(training, "sigma", "σ (unitless)"),
    }


def _metric_charts(judgements: Sequence[Mapping[str, Any]], final: Mapping[str, Any]) -> list[Chart]:
    charts = []
    last = judgements[-1]["evaluation"] if judgements else {}
    for name in _ordered(name for record in judgements for name in record["evaluation"]):
        values = column(judgements, "evaluation", name)
        if not any(value is not None for value in values):
            continue
        entry = (final.get("metrics") or {}).get(name)
        entry = entry if isinstance(entry, dict) else {}
        _, axis, better = KNOWN.get(name, (name, entry.get("unit") or name, entry.get("better")))
        # Distances and scores move with the number of images: real images' value belongs beside an equal n only.
        comparable = final.get("samples") in (None, last.get("samples"))
        reference = finite(entry.get("reference")) if comparable else None
        log = better == "lower" and wide_range([*values, reference])
        figure = metric_figure([record["step"] for record in judgements], values, axis, reference, log)
        caption = f"at step {judgements[-1]['step']:,}: {number(values[-1])}"
        charts.append(Chart(metric_label(name, last.get("modes_total"), entry.get("unit")), caption, figure))
    return charts


def number(value: Any) -> str:
    """A number for people: integers whole, others to four digits; a dash for none."""
    known = finite(value)
    if known is None:
        return "—"
    if known == int(known) and abs(known) < 1e9:
        return f"{int(known):,}"
    if 1e-3 <= abs(known) < 1e6:
        return f"{known:,.{max(0, 3 - len(str(int(abs(known)))) + (abs(known) < 1))}f}"
    return f"{known:.3e}"


def duration(seconds: Any) -> str:
    """Seconds as hours, minutes and seconds; a dash for none."""
    known = finite(seconds)
    if known is None:
        return "—"
    if known < 60:
        return f"{known:.1f} s"
    minutes, rest = divmod(round(known), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"
