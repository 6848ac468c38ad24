"""The report's stability charts show what the records say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from poise.report.stability import (
    COLUMNS,
    gradient_maps,
    singular_value_curves,
    stability_charts,
    verdict_stretches,
    verdict_timeline,
)


def records(n: int = 6, every: int = 1) -> list[dict[str, Any]]:
    found = []
    for place in range(n):
        record: dict[str, Any] = {"step": 10 * (place + 1), "d_loss": 1.0 + place, "g_loss": 2.0, "verdict": "healthy"}
        record["gradient_norm"] = {"D.a": 10.0**place, "G.a": 0.0, "G.b": None}
        if place % every == 0:
            record["singular_values"] = {"G.a": [3.0 + place, 2.0, 1.0], "D.a": [1.5]}
        found.append(record)
    return found


def test_stretches_touch_and_end_with_the_last_record() -> None:
    shown = records()
    for record, verdict in zip(
        shown, ["warming-up", "healthy", "healthy", "oscillating", "oscillating", None], strict=True
    ):
        record["verdict"] = verdict
    assert verdict_stretches(shown) == [(10, 20, "warming-up"), (20, 40, "healthy"), (40, 50, "oscillating")]
    chart = verdict_timeline(shown)
    assert chart is not None
    bars = [trace for trace in chart.figure["data"] if trace.get("yaxis") == "y2"]
    assert [(list(bar["x"]), bar["y"][0]) for bar in bars] == [
        ([10, 20], "warming-up"),
        ([20, 40], "healthy"),
        ([40, 50], "oscillating"),
    ]
    assert "Last verdict: oscillating; 2 changes" in chart.caption


def test_heat_maps_hold_the_logarithms_and_gaps_for_what_has_none() -> None:
    (chart,) = gradient_maps(records())  # the generator's are all zero or missing
    heat = chart.figure["data"][0]
    assert chart.title == "Discriminator: gradient norm"
    assert list(heat["y"]) == ["a"]
    assert [list(row) for row in heat["z"]] == [pytest.approx([0, 1, 2, 3, 4, 5])]


def test_each_layer_has_its_three_singular_values_generator_first() -> None:
    charts = singular_value_curves(records(every=2))
    assert [chart.title for chart in charts] == ["G.a", "D.a"]
    assert [trace["name"] for trace in charts[0].figure["data"]] == ["σ₀", "σ₁", "σ₂"]
    assert [trace["name"] for trace in charts[1].figure["data"]] == ["σ₀"]
    assert list(charts[0].figure["data"][0]["x"]) == [10, 30, 50]
    assert list(charts[0].figure["data"][0]["y"]) == [3.0, 5.0, 7.0]


def test_long_runs_are_thinned_and_short_of_data_is_empty() -> None:
    (chart,) = gradient_maps(records(305))
    assert len(chart.figure["data"][0]["x"]) <= COLUMNS
    assert chart.figure["data"][0]["x"][-1] == 3050
    assert stability_charts([]) == {"timeline": [], "gradients": [], "spectra": []}
    assert stability_charts([{"step": 1, "d_loss": 1.0}]) == {"timeline": [], "gradients": [], "spectra": []}


def test_names_from_a_run_are_text_and_the_figures_json() -> None:
    hostile = "<script>alert(1)</script>"
    shown = [record | {"verdict": hostile, "gradient_norm": {f"D.{hostile}": 1.0}} for record in records()]
    text = json.dumps([chart.figure for charts in stability_charts(shown).values() for chart in charts], default=list)
    assert "<script>" not in text
