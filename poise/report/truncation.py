"""Charts of ``truncation.json``: each figure over the threshold, and the Fréchet distance against the class score."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from poise.report.figures import BLUE, Chart, finite, metric_label, number, ordered_metrics


def truncation_charts(curve: Mapping[str, Any]) -> list[Chart]:
    """Charts of a curve over truncation; none where it is empty or has no thresholds."""
    given = curve.get("points")
    known = [point for point in given if _is_point(point)] if isinstance(given, list) else []
    points = sorted(known, key=lambda point: point["threshold"])
    names = ordered_metrics(name for point in points for name in point["metrics"])
    charts = []
    score, distance = _score_and_distance(names)
    if score and distance and len(points) > 1:
        charts.append(_plane(points, score, distance))
    return charts + [_over_thresholds(points, name) for name in names]


def _is_point(point: Any) -> bool:
    return (
        isinstance(point, Mapping)
        and finite(point.get("threshold")) is not None
        and isinstance(point.get("metrics"), Mapping)
        and all(isinstance(entry, Mapping) for entry in point["metrics"].values())
    )


def _score_and_distance(names: Sequence[str]) -> tuple[str, str]:
    """Names of a class score and a Fréchet distance among the figures, empty where there is none."""
    score = next((name for name in names if name == "is" or name.startswith("score_")), "")
    distances = (name for name in names if name == "fid" or name.startswith("fd_"))
    return score, next((name for name in distances if not name.endswith("_infinity")), "")


def _plane(points: Sequence[Mapping[str, Any]], score: str, distance: str) -> Chart:
    """The class score against the distance, along the thresholds (Brock et al. 2019, figure 17)."""
    x, y = ([finite(point["metrics"].get(name, {}).get("value")) for point in points] for name in (distance, score))
    told = [f"{point['threshold']:g}" for point in points]
    figure = go.Figure()
    hover = "truncation %{text}<br>%{x:.4~g}, %{y:.4~g}<extra></extra>"
    shown = {"mode": "lines+markers+text", "textposition": "top center", "line": {"color": BLUE}, "cliponaxis": False}
    figure.add_scatter(x=x, y=y, text=told, hovertemplate=hover, **shown)
    title = f"{metric_label(score)} against {metric_label(distance)}"
    caption = "Numbers are thresholds, σ: left is truer to the data, up is surer and more varied in class."
    return Chart(title, caption, _laid_out(figure, "distance (lower is better)", "class score (higher is better)"))


def _over_thresholds(points: Sequence[Mapping[str, Any]], name: str) -> Chart:
    entries = [point["metrics"].get(name, {}) for point in points]
    values = [finite(entry.get("value")) for entry in entries]
    error = None
    if all(isinstance(entry.get("interval"), list) and len(entry["interval"]) == 2 for entry in entries):
        above = [entry["interval"][1] - entry["value"] for entry in entries]
        below = [entry["value"] - entry["interval"][0] for entry in entries]
        error = {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1}
    figure = go.Figure()
    hover = "truncation %{x:g} σ<br>%{y:.4~g}<extra></extra>"
    thresholds = [point["threshold"] for point in points]
    shown = {"mode": "lines+markers", "line": {"color": BLUE}, "marker": {"size": 5}}
    figure.add_scatter(x=thresholds, y=values, error_y=error, hovertemplate=hover, **shown)
    better = next((entry["better"] for entry in entries if entry.get("better")), "")
    told = [(value, threshold) for value, threshold in zip(values, thresholds, strict=True) if value is not None]
    caption = ""
    if told and better in ("higher", "lower"):
        value, threshold = (max if better == "higher" else min)(told)
        caption = f"best {number(value)} at {threshold:g} σ ({better} is better)"
    caption += "; bars: 95% intervals" if error else ""
    unit = next((entry["unit"] for entry in entries if entry.get("unit")), "unitless")
    label = metric_label(name)
    return Chart(label, caption.lstrip("; "), _laid_out(figure, "truncation threshold (σ)", unit))


def _laid_out(figure: go.Figure, x: str, y: str) -> dict[str, Any]:
    axes = [{"title": {"text": html.escape(text), "standoff": 8}, "zeroline": False} for text in (x, y)]
    margin = {"l": 56, "r": 28, "t": 28, "b": 48}
    figure.update_layout(template="none", height=280, showlegend=False, margin=margin, xaxis=axes[0], yaxis=axes[1])
    return figure.to_plotly_json()
