"""Charts of a run, as plotly figures in plain data: judged metrics, losses, logits, and one line per layer.

Records are the lines of ``metrics.jsonl``. A value that is null or not finite is a gap in its line. Colours of text, grid
and background belong to the page, which has a light and a dark theme.
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


def metric_figure(steps: Sequence[int], values: Values, axis: str, reference: float | None, log: bool) -> dict[str, Any]:
    """One judged metric over steps, its final value marked, with real images' value as a dashed line where known."""
    figure = go.Figure()
    label = html.escape(axis)
    hover = f"step %{{x:,}}<br>{label} %{{y:.4~g}}<extra></extra>"
    figure.add_scatter(
        x=list(steps), y=list(values), mode="lines+markers", hovertemplate=hover, line_color=BLUE, marker_size=4
    )
    figure.add_scatter(
        x=steps[-1:], y=values[-1:], mode="markers", marker={"color": ORANGE, "size": 11}, hovertemplate=hover
    )
    if reference is not None:
        line = {"text": "real held-out images", "font": {"size": 11}, "xanchor": "left", "x": 0, "showarrow": False}
        figure.add_hline(reference, line={"dash": "dash", "width": 1, "color": TEAL}, annotation=line)
    return _finished(figure, f"{label}{', log scale' if log else ''}", log=log, height=260, showlegend=False)


def curves(records: Sequence[Record], lines: Mapping[str, tuple[str, str]], axis: str) -> Chart | None:
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
    caption = f"Bold: mean over {window} lines of the log; faint: raw.{_stride_note(stride)}"
    data = _finished(figure, axis, hovermode="x unified", legend=legend)
    return Chart(" and ".join(name for name, _ in lines.values()), caption, data)


def per_layer(records: Sequence[Record], field: str, axis: str, log: bool | None = None) -> list[Chart]:
    """One plot per network of ``record[field]``, which maps "G.layer" and "D.layer" to numbers; a line per layer.

    ``log`` None takes a log axis where the values span more than a factor of 30.
    """
    shown, stride = thinned(records)
    # A dict, not a set: layers stay in the order of the records, which is their depth.
    layers = dict.fromkeys(
        layer for record in shown if isinstance(record.get(field), Mapping) for layer in record[field]
    )
    charts = []
    for network in sorted({layer.partition(".")[0] for layer in layers}, key=lambda name: (name not in NETWORKS, name)):
        own = {layer: column(shown, field, layer) for layer in layers if layer.partition(".")[0] == network}
        scale = wide_range(itertools.chain(*own.values())) if log is None else log
        figure = go.Figure()
        steps = [record["step"] for record in shown]
        for layer, colour in zip(own, depth_colours(len(own)), strict=True):
            name = html.escape(layer.partition(".")[2] or layer)
            hover = f"{name}<br>step %{{x:,}}<br>%{{y:.4~g}}<extra></extra>"
            line = {"color": colour, "width": 1.5}
            figure.add_scatter(x=steps, y=own[layer], name=name, mode="lines", line=line, hovertemplate=hover)
        title = NETWORKS.get(network, network).capitalize()
        caption = f"{len(own)} layers by depth, from blue (first) to orange (last).{_stride_note(stride)}"
        full_axis = f"{axis}, log scale" if scale else axis
        charts.append(Chart(title, caption, _finished(figure, full_axis, log=scale, height=360, hovermode="closest")))
    return charts


def depth_colours(n: int) -> list[str]:
    """``n`` colours in the order of depth, first to last."""
    return sample_colorscale(DEPTH, [i / max(1, n - 1) for i in range(n)])


def wide_range(values: Iterable[float | None]) -> bool:
    """Whether the values are positive and span more than a factor of 30, so that a log axis shows more."""
    known = [value for value in values if value is not None]
    return bool(known) and min(known) > 0 and max(known) > 30 * min(known)


def _finished(figure: go.Figure, axis: str, *, log: bool = False, height: int = 320, **layout: Any) -> dict[str, Any]:
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 64, "r": 16, "t": 28, "b": 48},
        xaxis={"title": {"text": "step (generator updates)"}, "tickformat": ",", "zeroline": False},
        yaxis={"title": {"text": axis}, "type": "log" if log else "linear", "zeroline": False, "exponentformat": "power"},
        **layout,
    )
    return figure.to_plotly_json()


def _unhealthy(records: Sequence[Record]) -> Iterable[tuple[int, int, str]]:
    """Stretches of steps, (first, one past the last, verdict), where the monitor said something else than healthy."""
    start = 0
    for verdict, group in itertools.groupby(records, key=lambda record: record.get("verdict")):
        stop = start + len(list(group))
        if isinstance(verdict, str) and verdict != "healthy":
            yield records[start]["step"], records[min(stop, len(records) - 1)]["step"], verdict
        start = stop


def _stride_note(stride: int) -> str:
    return f" One line in {stride} of the log is drawn." if stride > 1 else ""
