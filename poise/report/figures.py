"""Charts of a run, as plotly figures in plain data: judged metrics, losses, logits, and one line per layer.

Records are the lines of ``metrics.jsonl``. A value that is null or not finite is a gap in its line. Colours of text,
grid and background belong to the page, which has a light and a dark theme.
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from plotly.colors import sample_colorscale

Record = Mapping[str, Any]
Values = Sequence[float | None]

BLUE, ORANGE, TEAL, PINK = "#3d7fe0", "#e8833a", "#1fa187", "#d9487d"
DEPTH = ["#3d7fe0", "#9156d0", "#d9487d", "#e8833a"]  # first layer to last; readable on white and on black
MOST_POINTS = 2_000  # per line: a browser stays quick
NETWORKS = {"G": "generator", "D": "discriminator"}


# What is known of a metric by its name: label, unit of its axis, which direction is better.
KNOWN = {
    "modes": ("modes covered", "modes", "higher"),
    "kl": ("reverse KL to the data's modes (nats)", "KL (nats)", "lower"),
    "score_digits": ("Inception-style score, digit classifier", "score (unitless)", "higher"),
    "fd_digits": ("Fréchet distance, digit features", "distance (unitless)", "lower"),
}
CONTEXT = ("samples", "seconds", "modes_total")  # stand beside the metrics without being one


@dataclass(frozen=True)
class Chart:
    """One plot of the page: its heading, a sentence below it, and the figure as JSON-ready data."""

    title: str
    caption: str
    figure: dict[str, Any]


def finite(value: Any) -> float | None:
    """The number, or None for anything that is not one."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and math.isfinite(value) else None


def number(value: Any) -> str:
    """A number for people: integers whole, others to four digits; a dash for none."""
    known = finite(value)
    if known is None:
        return "—"
    if known == int(known) and abs(known) < 1e9:
        return f"{int(known):,}"
    return f"{known:,.1f}" if 1e3 <= abs(known) < 1e9 else f"{known:.4g}"


def column(records: Iterable[Record], field: str, key: str | None = None) -> list[float | None]:
    """One value per record: ``record[field]``, or ``record[field][key]``."""
    cells = (record.get(field) for record in records)
    if key is None:
        return [finite(cell) for cell in cells]
    return [finite(cell.get(key)) if isinstance(cell, Mapping) else None for cell in cells]


def thinned(records: Sequence[Record]) -> tuple[Sequence[Record], int]:
    """At most ``MOST_POINTS`` records, evenly spaced and ending with the last; and the stride that was taken."""
    stride = -(-len(records) // MOST_POINTS) or 1
    return records[::-1][::stride][::-1], stride


def moving_mean(values: Values, window: int) -> list[float | None]:
    """Mean over ``window`` (odd) values around each; shorter at the ends, gaps left out and kept as gaps."""
    reach = window // 2
    means: list[float | None] = []
    for i, value in enumerate(values):
        near = [v for v in values[max(0, i - reach) : i + reach + 1] if v is not None]
        means.append(math.fsum(v / len(near) for v in near) if value is not None else None)
    return means


def metric_label(name: str, modes_total: Any = None, unit: Any = None) -> str:
    """A metric's name for people: known ones in words, others as they are."""
    label = KNOWN.get(name, (name,))[0]
    if name == "modes" and (modes_total or str(unit).startswith("of ")):
        return f"{label} ({unit if not modes_total else f'of {modes_total}'})"
    return label


def ordered_metrics(names: Iterable[str]) -> list[str]:
    """Known metrics first, in their order, then the others as they come; context left out."""
    names = [name for name in dict.fromkeys(names) if name not in CONTEXT]
    return [name for name in KNOWN if name in names] + [name for name in names if name not in KNOWN]


def metric_charts(judgements: Sequence[Record], final: Record) -> list[Chart]:
    """One small plot per metric of the evaluation records; ``final`` is evaluation.json, or empty."""
    charts = []
    last = judgements[-1]["evaluation"] if judgements else {}
    for name in ordered_metrics(name for record in judgements for name in record["evaluation"]):
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
        figure = _metric_figure([record["step"] for record in judgements], values, axis, reference, log)
        caption = f"at step {judgements[-1]['step']:,}: {number(values[-1])}"
        caption += f"; dashed: real held-out images, {number(reference)}" if reference is not None else ""
        charts.append(Chart(metric_label(name, last.get("modes_total"), entry.get("unit")), caption, figure))
    return charts


def _metric_figure(
    steps: Sequence[int], values: Values, axis: str, reference: float | None, log: bool
) -> dict[str, Any]:
    """One judged metric over steps, its final value marked, with real images' value as a dashed line where known."""
    figure = go.Figure()
    axis = html.escape(axis)
    hover = f"step %{{x:,}}<br>{axis} %{{y:.4~g}}<extra></extra>"
    line = {"mode": "lines+markers", "line": {"color": BLUE}, "marker": {"size": 4}}
    end = {"mode": "markers", "marker": {"color": ORANGE, "size": 11}}
    figure.add_scatter(x=steps, y=values, hovertemplate=hover, **line)
    figure.add_scatter(x=steps[-1:], y=values[-1:], hovertemplate=hover, **end)
    if reference is not None:
        figure.add_hline(reference, line={"dash": "dash", "width": 1.5, "color": TEAL})
    return _finished(figure, axis, log=log, height=260, showlegend=False)


def curves(records: Sequence[Record], lines: Mapping[str, tuple[str, str]], title: str, axis: str) -> Chart | None:
    """Fields of the training records over steps, smoothed over faint raw; None where nothing was recorded.

    ``lines`` maps a field to its name in the legend and its colour.
    """
    shown, stride = thinned(records)
    steps = [record["step"] for record in shown]
    window = max(1, len(shown) // 25) | 1
    figure = go.Figure()
    for field, (name, colour) in lines.items():
        values = column(shown, field)
        if any(value is not None for value in values):
            raw = {"legendgroup": field, "showlegend": False, "opacity": 0.3, "line": {"color": colour, "width": 1}}
            figure.add_scatter(x=steps, y=values, name=f"{name}, raw", hovertemplate="%{y:.4~g}", **raw)
            smooth = moving_mean(values, window)
            line = {"color": colour, "width": 2}
            figure.add_scatter(x=steps, y=smooth, name=name, legendgroup=field, line=line, hovertemplate="%{y:.4~g}")
    if not figure.data:
        return None
    for start, stop, verdict in _unhealthy(records):
        box = {"text": html.escape(verdict), "textposition": "top left", "font": {"size": 11}}
        figure.add_vrect(start, stop, fillcolor=ORANGE, opacity=0.15, line_width=0, label=box)
    legend = {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"}
    smoothed = f"Bold: mean over {window} lines of the log; faint: raw." if window > 1 else ""
    caption = f"{smoothed}{_stride_note(stride)}".strip()
    data = _finished(figure, axis, hovermode="x unified", legend=legend)
    return Chart(title, caption, data)


def per_layer(records: Sequence[Record], field: str, axis: str, log: bool | None = None) -> list[Chart]:
    """One plot per network of ``record[field]``, which maps "G.layer" and "D.layer" to numbers; a line per layer.

    ``log`` None takes a log axis where the values span more than a factor of 30.
    """
    shown, stride = thinned([record for record in records if isinstance(record.get(field), Mapping)])
    # A dict, not a set: layers stay in the order of the records, which is their depth.
    layers = dict.fromkeys(layer for record in shown for layer in record[field])
    names = {layer.partition(".")[0] for layer in layers}
    steps = [record["step"] for record in shown]
    charts = []
    for network in [*(name for name in NETWORKS if name in names), *sorted(names - NETWORKS.keys())]:
        own = {layer: column(shown, field, layer) for layer in layers if layer.partition(".")[0] == network}
        scale = wide_range(itertools.chain(*own.values())) if log is None else log
        caption = f"{len(own)} layers by depth, from blue (first) to orange (last).{_stride_note(stride)}"
        title = NETWORKS.get(network, network).capitalize()
        charts.append(Chart(title, caption, _layer_figure(steps, own, axis, scale)))
    return charts


def _layer_figure(steps: Sequence[int], layers: Mapping[str, Values], axis: str, log: bool) -> dict[str, Any]:
    figure = go.Figure()
    for (layer, values), colour in zip(layers.items(), depth_colours(len(layers)), strict=True):
        name = html.escape(layer.partition(".")[2] or layer)
        hover = f"{name}<br>step %{{x:,}}<br>%{{y:.4~g}}<extra></extra>"
        line = {"color": colour, "width": 1.5}
        figure.add_scatter(x=steps, y=values, name=name, line=line, hovertemplate=hover)
    return _finished(figure, axis, log=log, height=360, hovermode="closest", showlegend=True)


def depth_colours(n: int) -> list[str]:
    """``n`` colours in the order of depth, first to last."""
    return sample_colorscale(DEPTH, [i / max(1, n - 1) for i in range(n)])


def wide_range(values: Iterable[float | None]) -> bool:
    """Whether the values are positive and span more than a factor of 30, so that a log axis shows more."""
    known = [value for value in values if value is not None]
    return bool(known) and min(known) > 0 and max(known) > 30 * min(known)


def _finished(figure: go.Figure, axis: str, *, log: bool = False, height: int = 320, **layout: Any) -> dict[str, Any]:
    x: dict[str, Any] = {"title": {"text": "step (generator updates)", "standoff": 8}, "tickformat": ","}
    y: dict[str, Any] = {"title": {"text": f"{axis}, log" if log else axis, "standoff": 8}, "exponentformat": "power"}
    if log:
        values = [value for trace in figure.data for value in trace.y if value is not None and value > 0]
        few_decades = values and max(values) < 1e3 * min(values)
        y |= {"type": "log", "tickformat": "~g", "dtick": "D2" if few_decades else None}
    margin = {"l": 56, "r": 28, "t": 28, "b": 48}
    figure.update_layout(template="none", height=height, margin=margin, xaxis=x, yaxis=y, **layout)
    figure.update_layout(xaxis_zeroline=False, yaxis_zeroline=False)
    return figure.to_plotly_json()


def _unhealthy(records: Sequence[Record]) -> Iterable[tuple[int, int, str]]:
    """Stretches of steps, (first, one past the last, verdict), where the monitor said something else than healthy."""
    start = 0
    for verdict, group in itertools.groupby(records, key=lambda record: record.get("verdict")):
        stop = start + len(list(group))
        if isinstance(verdict, str) and verdict not in ("healthy", "warming-up"):
            yield records[start]["step"], records[min(stop, len(records) - 1)]["step"], verdict
        start = stop


def _stride_note(stride: int) -> str:
    return f" One line in {stride} of the log is drawn." if stride > 1 else ""
