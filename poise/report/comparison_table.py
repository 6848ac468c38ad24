"""A comparison as people read it: lines of text, and one page of intervals with plotly."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

EXPLAINED = (
    "* best; ≠ its difference from the best lies beyond the 95% interval, ≈ does not, no mark: no test. Intervals of "
    "one run are over drawn images: another seed may differ more. Of many differences some are beyond by chance."
)


def lines(compared: dict[str, Any]) -> list[str]:
    """The tables of ``compare_runs`` as lines."""
    told = [f"note: {note}" for note in compared["notes"]]
    for table in compared["tables"]:
        conditions = {key: value for key, value in table["conditions"].items() if key not in ("data", "samples")}
        about = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in conditions.items())
        told += ["", f"n = {table['conditions'].get('samples')}; {about}"]
        cells = [["", *(f"{name}{_arrow(one['better'])}" for name, one in table["metrics"].items())]]
        for entry in table["entries"]:
            found = [_cell(table, entry, name) for name in table["metrics"]]
            cells.append([entry["label"], *found])
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        told += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
        ]
        tests = dict.fromkeys(one["test"] for one in table["differences"] if one["test"])
        told += [f"test: {', '.join(tests)}"] if tests else []
    return [*told, "", EXPLAINED]


def mark(table: dict[str, Any], label: str, metric: str) -> str:
    """``*`` for the best; ``≠`` or ``≈`` for others by their test against it; nothing without one."""
    best = table["metrics"][metric]["best"]
    if label == best:
        return "*"
    for one in table["differences"]:
        if one["metric"] == metric and {one["a"], one["b"]} == {label, best}:
            return {True: "≠", False: "≈", None: ""}[one["beyond"]]
    return ""


def _arrow(better: str | None) -> str:
    return {"higher": " ↑", "lower": " ↓"}.get(str(better), "")


def _cell(table: dict[str, Any], entry: dict[str, Any], name: str) -> str:
    figure = entry["metrics"][name]
    reach = " [{:.4g}, {:.4g}]".format(*figure["interval"]) if figure["interval"] else ""
    return f"{figure['value']:.4g}{reach} {mark(table, entry['label'], name)}".rstrip()


def write_page(compared: dict[str, Any], path: str | Path) -> Path:
    """One HTML page that needs no network: a plot for each metric, values with their intervals.

    Raises:
        ValueError: the path does not end in .html.
    """
    import plotly.graph_objects as go
    from plotly.offline import get_plotlyjs

    path = Path(path)
    if path.suffix.lower() != ".html":
        raise ValueError(f"plot is {str(path)!r}; a comparison is drawn as .html")
    parts = [f"<p>{html.escape(note)}</p>" for note in compared["notes"]]
    for table in compared["tables"]:
        for name, about in table["metrics"].items():
            figure = go.Figure()
            labels = [html.escape(entry["label"]) for entry in table["entries"]]
            found = [entry["metrics"][name] for entry in table["entries"]]
            values = [one["value"] for one in found]
            above = [one["interval"][1] - one["value"] if one["interval"] else 0 for one in found]
            below = [one["value"] - one["interval"][0] if one["interval"] else 0 for one in found]
            error = {"type": "data", "symmetric": False, "array": above, "arrayminus": below}
            marks = [mark(table, entry["label"], name) for entry in table["entries"]]
            shown = {"mode": "markers+text", "text": marks, "textposition": "top center", "marker": {"size": 9}}
            figure.add_scatter(x=values, y=labels, error_x=error, **shown)
            title = f"{name}, n = {table['conditions'].get('samples')}, {table['conditions'].get('extractor', '')}"
            axis = html.escape(f"{about['unit'] or 'unitless'}, {about['better'] or '?'} is better; 95% intervals")
            figure.update_layout(template="none", title=html.escape(title), height=150 + 40 * len(labels))
            figure.update_layout(xaxis_title=axis, margin={"l": 20, "r": 20, "t": 60, "b": 50})
            figure.update_yaxes(automargin=True, autorange="reversed")
            parts.append(figure.to_html(full_html=False, include_plotlyjs=False))
    text = "".join(f"<p>{html.escape(line)}</p>" for line in (EXPLAINED,))
    head = f'<!doctype html><meta charset="utf-8"><title>comparison</title><script>{get_plotlyjs()}</script>'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{head}<body style="font-family: system-ui, sans-serif">{"".join(parts)}{text}', encoding="utf-8")
    return path
