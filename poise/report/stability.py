"""Charts of a run's stability, as BigGAN's authors watched theirs: verdicts, gradients and leading singular values.

Verdict timeline under the losses; a heat map of gradient norms, layers × steps; σ₀ σ₁ σ₂ of every layer (Brock et al.
2019, section 4).
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from poise.report.figures import (
    BLUE,
    NETWORKS,
    ORANGE,
    PINK,
    TEAL,
    Chart,
    Record,
    column,
    finite,
    moving_mean,
    number,
)

COLUMNS = 300  # of a heat map, and points of a line: more cannot be told apart
GREY = "#8a94a3"
TIMELINE = {"healthy": TEAL, "warming-up": GREY}  # every other verdict is orange
STEP = {"title": {"text": "step (generator updates)", "standoff": 8}, "tickformat": ",", "zeroline": False}


def stability_charts(records: Sequence[Record], returns: Sequence[Record] = ()) -> dict[str, list[Chart]]:
    """Charts by part of the stability section: "timeline", "gradients", "spectra"; a part without data is empty."""
    timeline = verdict_timeline(records, returns)
    return {
        "timeline": [timeline] if timeline else [],
        "gradients": gradient_maps(records),
        "spectra": singular_value_curves(records),
    }


def verdict_timeline(records: Sequence[Record], returns: Sequence[Record] = ()) -> Chart | None:
    """Losses above, the verdict of each step below; None where no verdict was recorded.

    Args:
        returns: to earlier checkpoints, as logged; a dotted line where each went on from.
    """
    stretches = verdict_stretches(records)
    if not stretches:
        return None
    figure = go.Figure()
    shown = _spread(records, 4 * COLUMNS)
    window = max(1, len(shown) // 25) | 1
    for field, name, colour in (("d_loss", "D loss", BLUE), ("g_loss", "G loss", PINK)):
        values = moving_mean(column(shown, field), window)
        if any(value is not None for value in values):
            line = {"color": colour, "width": 2}
            steps = [record["step"] for record in shown]
            figure.add_scatter(x=steps, y=values, name=name, line=line, hovertemplate="%{y:.4~g}")
    names = list(dict.fromkeys(name for _, _, name in stretches))
    for first, last, name in stretches:
        bar = {"color": TIMELINE.get(name, ORANGE), "width": 12}
        hover = f"{html.escape(name)}<br>steps {first:,} to {last:,}<extra></extra>"
        ends = {"x": [first, last], "y": [html.escape(name)] * 2, "yaxis": "y2"}
        figure.add_scatter(**ends, mode="lines", line=bar, hovertemplate=hover, showlegend=False)
    for step, numbers in _by_step(returns).items():
        label = {"text": f"return {numbers}", "textposition": "end", "textangle": 0, "font": {"size": 11}}
        label |= {"xanchor": "left", "yanchor": "top"}
        seen = max(step, stretches[0][0])  # the axis begins with the first record
        figure.add_vline(seen, line={"color": GREY, "width": 1.5, "dash": "dot"}, label=label)
    height = 300 + 26 * len(names)
    share = (26 * len(names) + 10) / (height - 76)
    loss_axis = {"title": {"text": "loss (unitless)", "standoff": 8}, "domain": [share + 0.06, 1], "zeroline": False}
    verdict_axis = {"type": "category", "domain": [0, share], "showgrid": False, "automargin": True, "fixedrange": True}
    verdict_axis |= {"categoryorder": "array", "categoryarray": [html.escape(name) for name in names[::-1]]}
    legend = {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"}
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 56, "r": 28, "t": 28, "b": 48},
        xaxis={**STEP, "anchor": "y2"},
        yaxis=loss_axis,
        yaxis2=verdict_axis,
        legend=legend,
        hovermode="closest",
    )
    changes = len(stretches) - 1
    caption = f"Last verdict: {stretches[-1][2]}; {changes} change{'s' if changes != 1 else ''} of verdict."
    if returns:
        caption += " Dotted: where the run went on after a return; steps that were thrown away are not shown."
    return Chart("Losses and verdicts", caption, figure.to_plotly_json())


def _by_step(returns: Sequence[Record]) -> dict[int, str]:
    """Numbers of the returns, from 1, by the step that each went back to."""
    found: dict[int, list[str]] = {}
    for place, event in enumerate(returns, 1):
        if isinstance(event.get("to"), int):
            found.setdefault(event["to"], []).append(str(place))
    return {step: ", ".join(numbers) for step, numbers in found.items()}


def verdict_stretches(records: Sequence[Record]) -> list[tuple[int, int, str]]:
    """Stretches of one verdict each: (first step, step of the next stretch or the last, verdict)."""
    known = [record for record in records if isinstance(record.get("verdict"), str)]
    groups = [(verdict, list(group)) for verdict, group in itertools.groupby(known, key=lambda r: r["verdict"])]
    starts = [group[0]["step"] for _, group in groups]
    ends = [*starts[1:], known[-1]["step"]] if known else []
    return [(first, last, name) for (name, _), first, last in zip(groups, starts, ends, strict=True)]


def gradient_maps(records: Sequence[Record]) -> list[Chart]:
    """One heat map per network: gradient norm by layer (first layer on top) and step, in powers of ten."""
    shown = _spread([record for record in records if isinstance(record.get("gradient_norm"), Mapping)], COLUMNS)
    layers = dict.fromkeys(layer for record in shown for layer in record["gradient_norm"])
    steps = [record["step"] for record in shown]
    charts = []
    for network, own in _by_network(layers).items():
        rows = [[_log10(value) for value in column(shown, "gradient_norm", layer)] for layer in own]
        if not any(value is not None for row in rows for value in row):
            continue
        names = [html.escape(layer.partition(".")[2] or layer) for layer in own]
        bar = {"title": {"text": "log₁₀ norm", "side": "right"}, "thickness": 12, "outlinewidth": 0}
        hover = "%{y}<br>step %{x:,}<br>norm 10^%{z:.2f}<extra></extra>"
        figure = go.Figure(
            go.Heatmap(x=steps, y=names, z=rows, colorscale="Viridis", colorbar=bar, hovertemplate=hover)
        )
        axis = {"type": "category", "autorange": "reversed", "showgrid": False, "automargin": True}
        margin = {"l": 56, "r": 28, "t": 28, "b": 48}  # room for the buttons above the colour bar
        height = 126 + 18 * len(own)
        figure.update_layout(template="none", height=height, margin=margin, xaxis=STEP, yaxis=axis)
        caption = "First layer on top; gaps: not finite or zero."
        charts.append(
            Chart(f"{NETWORKS.get(network, network).capitalize()}: gradient norm", caption, figure.to_plotly_json())
        )
    return charts


def singular_value_curves(records: Sequence[Record]) -> list[Chart]:
    """One small plot per layer with the three largest singular values of its trained weight over steps."""
    having = [record for record in records if isinstance(record.get("singular_values"), Mapping)]
    shown = _spread(having, COLUMNS)
    layers = dict.fromkeys(layer for record in shown for layer in record["singular_values"])
    steps = [record["step"] for record in shown]
    charts = []
    for own in _by_network(layers).values():
        for layer in own:
            lists = [record["singular_values"].get(layer) for record in shown]
            figure = go.Figure()
            for place, (name, colour) in enumerate((("σ₀", PINK), ("σ₁", BLUE), ("σ₂", TEAL))):
                values = [finite(found[place]) if _reaches(found, place) else None for found in lists]
                if any(value is not None for value in values):
                    line = {"color": colour, "width": 1.5}
                    figure.add_scatter(x=steps, y=values, name=name, line=line, hovertemplate=f"{name} %{{y:.4~g}}")
            if not figure.data:
                continue
            last = number(next((value for value in reversed(figure.data[0].y) if value is not None), None))
            margin = {"l": 48, "r": 16, "t": 20, "b": 44}
            axis = {"title": {"text": "σ (unitless)", "standoff": 8}, "rangemode": "tozero", "zeroline": False}
            legend = {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"}
            shape = {"height": 220, "margin": margin, "legend": legend, "hovermode": "x unified", "showlegend": True}
            figure.update_layout(template="none", xaxis=STEP, yaxis=axis, **shape)
            charts.append(Chart(layer, f"last σ₀: {last}", figure.to_plotly_json()))
    return charts


def _by_network(layers: Mapping[str, Any]) -> dict[str, list[str]]:
    """Layers of each network, in the order they were recorded, the generator's first."""
    names = dict.fromkeys([*NETWORKS, *(layer.partition(".")[0] for layer in layers)])
    grouped = {name: [layer for layer in layers if layer.partition(".")[0] == name] for name in names}
    return {name: own for name, own in grouped.items() if own}


def _spread(records: Sequence[Record], most: int) -> Sequence[Record]:
    """At most so many records, evenly spaced and ending with the last."""
    return records[::-1][:: -(-len(records) // most) or 1][::-1]


def _reaches(found: Any, place: int) -> bool:
    return isinstance(found, list) and len(found) > place


def _log10(value: float | None) -> float | None:
    return math.log10(value) if value is not None and value > 0 else None
