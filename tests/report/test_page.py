"""The report of a run: one page that needs nothing else, tells what the folder says, and survives a broken folder."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from poise.report import write_report
from poise.report.figures import curves, moving_mean, number, per_layer, thinned
from poise.report.page import MOST_GRIDS, read_grids, read_metrics, read_returns
from poise.report.stability import stability_charts

SECTIONS = ["header", "result", "metrics", "samples", "losses", "stability", "gradients", "sigma", "recipe"]
HOSTILE = "<script>alert(1)</script>"


class Page(HTMLParser):
    """What a browser would see: tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem is None:
            self.text += data

    def ids(self, tag: str) -> list[str | None]:
        return [attributes["id"] for name, attributes in self.tags if name == tag and "id" in attributes]


def training(step: int, **changes: Any) -> dict[str, Any]:
    layers = {"G.linear": 0.5, "D.convs.0": 0.25, "D.convs.1": 0.125}
    record: dict[str, Any] = {"step": step, "images": 64 * step, "seconds": 0.1 * step, "d_loss": 1.2, "g_loss": 0.9}
    record |= {"real_logit": 0.3, "fake_logit": -0.2, "lr": 2e-4, "gradient_norm": layers, "sigma": layers}
    return record | {"verdict": "healthy"} | changes


def judged(step: int, **metrics: Any) -> dict[str, Any]:
    metrics = metrics or {"modes": 812, "modes_total": 1000, "kl": 0.7134, "fd_digits": 12.34}
    return {"step": step, "images": 64 * step, "seconds": 0.1 * step, "evaluation": {**metrics, "samples": 4321}}


def grid(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 16, 3), dtype=np.uint8)).save(path)


def write_lines(run: Path, *records: Any) -> None:
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n", encoding="utf-8")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A whole run folder, miniature."""
    folder = tmp_path / "run-7"
    folder.mkdir()
    recipe = {
        "name": "tiny",
        "data": {"name": "stacked-digits"},
        "d_norm": {"name": "bssn", "scale": 1.5},
        "steps": 300,
    }
    recipe |= {"device": "cpu", "precision": "fp32", "versions": {"poise": "0.1.0", "torch": "9.8.7"}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    write_lines(folder, *(training(step) for step in (50, 100, 150)), judged(100), judged(150))
    metrics = {"modes": {"value": 963, "better": "higher", "unit": "of 1000", "reference": 1000}}
    metrics |= {"novelty": {"value": 0.2718, "better": "lower"}}
    final = {"step": 150, "samples": 4321, "seed": 0, "extractor": "digits-classifier", "metrics": metrics}
    (folder / "evaluation.json").write_text(json.dumps(final), encoding="utf-8")
    diagnosis = {"verdict": "collapse", "step": 150, "evidence": "few modes", "advice": "lower lr"}
    (folder / "diagnosis.json").write_text(json.dumps(diagnosis), encoding="utf-8")
    for step in (0, 50, 100):
        grid(folder / "samples" / f"step-{step:06d}.png")
    return folder


def test_the_page_has_every_section_and_says_what_the_folder_says(run: Path) -> None:
    page = Page(write_report(run))
    assert page.ids("header") + page.ids("section") == SECTIONS
    told = ["tiny", "run-7", "150 of 300", "15.0 s", "cpu, fp32", "collapse", "few modes", "lower lr"]
    told += ["modes covered (of 1000)", "963", "1,000", "↑ higher", "novelty", "0.2718", "4,321", "digits-classifier"]
    told += ["at step 150: 812", "at step 150: 0.7134", "Fréchet distance, digit features", "12.34"]
    told += ["before normalization", "scale: 1.5", "9.8.7"]
    for words in told:
        assert words in page.text, words
    assert sum(attributes.get("class") == "grid" for _, attributes in page.tags) == 3
    assert sum(attributes.get("class") == "plot" for _, attributes in page.tags) == 3 + 2 + 3 + 2 + 2


def test_a_judgement_in_features_shows_what_it_rests_on_its_curve_and_its_pictures(run: Path) -> None:
    fid = {"value": 41.5, "interval": [40.25, 42.75], "n": 900, "unit": "units", "better": "lower", "note": "jackknife"}
    about = {
        "extractor": "inception-v3",
        "weights": "abc123",
        "preprocessing": "tf1-bilinear to 299",
        "real_samples": 77,
    }
    (run / "evaluation.json").write_text(json.dumps({"step": 150, **about, "metrics": {"fid": fid}}))
    points = [
        {"threshold": t, "metrics": {"fid": {**fid, "value": 41 + t}, "is": {"value": 8.0, "better": "higher"}}}
        for t in (1.0, 0.5)
    ]
    (run / "truncation.json").write_text(json.dumps({"samples": 900, "standing": 16, "points": points}))
    grid(run / "reconstruction.png")
    (run / "neighbours.png").write_bytes(b"no picture")
    page = Page(write_report(run))
    assert page.ids("section")[:3] == ["result", "truncation", "pictures"]
    told = ["40.25 to 42.75", "900", "weights abc123", "tf1-bilinear to 299", "real samples 77", "16 batches"]
    told += ["is against fid", "best 41.5 at 0.5 σ (lower is better); bars: 95% intervals", "reconstructions"]
    for words in [*told, "neighbours.png is not a whole PNG"]:
        assert words in page.text, words
    assert sum(attributes.get("class") == "picture" for _, attributes in page.tags) == 1


def test_what_a_judgement_does_without_is_not_told(run: Path) -> None:
    modes = {"modes": {"value": 990, "n": 900}}
    (run / "evaluation.json").write_text(json.dumps({"step": 150, "preprocessing": "none", "metrics": modes}))
    text = Page(write_report(run)).text
    assert "990" in text
    assert "preprocessing" not in text


@pytest.mark.parametrize("points", [None, 3, [], [3], [{"threshold": "x"}], [{"threshold": 1, "metrics": [1]}]])
def test_a_damaged_curve_is_left_out(run: Path, points: Any) -> None:
    (run / "truncation.json").write_text(json.dumps({"points": points}))
    assert "truncation" not in Page(write_report(run)).ids("section")


def test_the_page_is_self_contained(run: Path) -> None:
    page = Page(write_report(run))
    assert "link" not in {tag for tag, _ in page.tags}
    assert not [attributes for tag, attributes in page.tags if tag == "script" and "src" in attributes]
    for _, attributes in page.tags:
        for name in {"src", "href", "srcset", "action"} & attributes.keys():
            assert (attributes[name] or "").startswith("data:")
    assert page.source.count("plotly.js v") == 1
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_everything_from_the_folder_is_escaped(run: Path) -> None:
    recipe = {"name": HOSTILE, "steps": 300, "versions": {HOSTILE: HOSTILE}}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    layers = {f"G.{HOSTILE}": 1.0, "</script>": 2.0}
    write_lines(run, training(50, sigma=layers, verdict=HOSTILE), judged(50, **{HOSTILE: 1.0}))
    (run / "evaluation.json").write_text(json.dumps({"metrics": {HOSTILE: {"value": 1, "unit": HOSTILE}}}))
    (run / "diagnosis.json").write_text(json.dumps({"verdict": HOSTILE, "evidence": HOSTILE, "advice": HOSTILE}))
    page = Page(write_report(run))
    assert HOSTILE not in page.source
    assert HOSTILE in page.text
    assert page.ids("section")[-1] == "recipe"


def test_nulls_and_a_line_cut_short_are_survived(run: Path) -> None:
    write_lines(
        run, training(50, d_loss=None, sigma=None, gradient_norm={"G.linear": None}), judged(50, kl=None, modes=3)
    )
    with (run / "metrics.jsonl").open("ab") as lines:
        lines.write(b'{"step": 100, "verdict": "\xe2\x88')  # cut inside a character
    page = Page(write_report(run))
    assert "1 line of metrics.jsonl could not be read" in page.text
    assert "50 of 300" in page.text


def test_evaluation_and_diagnosis_may_be_missing_or_broken(run: Path) -> None:
    (run / "evaluation.json").unlink()
    (run / "diagnosis.json").write_text('{"verdict": "hea')
    page = Page(write_report(run))
    assert "Last judgement during training at step 150" in page.text
    assert "diagnosis.json could not be read" in page.text
    assert "healthy" in page.text  # from the last line of metrics.jsonl
    assert "812" in page.text


def test_a_run_without_metrics_says_so(run: Path) -> None:
    for name in ("metrics.jsonl", "evaluation.json", "diagnosis.json"):
        (run / name).unlink()
    page = Page(write_report(run))
    assert "No metrics yet" in page.text
    assert page.ids("section") == ["empty", "samples", "recipe"]
    assert "plotly.js v" not in page.source


@pytest.mark.parametrize(("folder", "missing"), [("", "recipe.yaml"), ("nowhere", "the folder")])
def test_another_folder_is_refused(tmp_path: Path, folder: str, missing: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"is not a run folder: {missing} is missing$") as refusal:
        write_report(tmp_path / folder)
    assert str(tmp_path / folder) in str(refusal.value)


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1,"])
def test_a_recipe_that_is_no_mapping_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"recipe\.yaml") as refusal:
        write_report(tmp_path)
    assert "\n" not in str(refusal.value)


def test_the_same_folder_gives_the_same_page_and_nothing_else(run: Path) -> None:
    before = {path.name for path in run.iterdir()}
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first
    assert {path.name for path in run.iterdir()} == before | {"report.html"}


def test_a_resumed_run_replaces_the_steps_it_repeats(run: Path) -> None:
    write_lines(run, *(training(step, d_loss=1) for step in (50, 100, 150)), judged(100), training(100, d_loss=2))
    records, judgements, notes = read_metrics(run / "metrics.jsonl")
    assert [(record["step"], record["d_loss"]) for record in records] == [(50, 1), (100, 2)]
    assert [record["step"] for record in judgements] == [100]
    assert notes == []


def test_returns_are_listed_with_what_was_changed_and_drawn_where_they_went_on(run: Path) -> None:
    given = [(400, 100, "learning rates × 0.5"), (500, 100, "R1 with γ = <1>")]
    events = [{"from": first, "to": to, "evidence": "it is so", "change": change} for first, to, change in given]
    logged = [{"step": 100, "rollback": event} for event in events]
    lines = [training(step, verdict="healthy") for step in (50, 100, 150)]
    write_lines(run, *lines[:2], *logged, {"step": 100, "rollback": None}, lines[2])
    assert read_returns(run / "metrics.jsonl") == events
    assert read_returns(run / "missing") == []
    page = write_report(run).read_text(encoding="utf-8")
    first, second = re.findall(r"<li>(Rolled back.*)</li>", page)
    assert first == "Rolled back from step 400 to 100: it is so; from there learning rates × 0.5."
    assert second.endswith("R1 with γ = &lt;1&gt;.")
    (chart,) = stability_charts(lines, events)["timeline"]
    (line,) = chart.figure["layout"]["shapes"]
    assert (line["x0"], line["x1"], line["label"]["text"]) == (100, 100, "return 1, 2")
    write_lines(run, *lines)
    assert "Returns to a checkpoint" not in write_report(run).read_text(encoding="utf-8")


def test_half_a_png_is_left_out_and_many_grids_are_spread(run: Path) -> None:
    whole = run / "samples" / "step-000050.png"
    png = whole.read_bytes()
    whole.write_bytes(png[:-20])
    notes: list[str] = []
    assert [grid["step"] for grid in read_grids(run / "samples", notes)] == [0, 100]
    assert notes == ["samples/step-000050.png is not a whole PNG and is left out."]
    for step in range(0, 1000, 5):
        (run / "samples" / f"step-{step:06d}.png").write_bytes(png)
    grids = read_grids(run / "samples", [])
    assert (len(grids), grids[0]["step"], grids[-1]["step"]) == (MOST_GRIDS, 0, 995)
    assert (grids[0]["width"], grids[0]["height"]) == (16, 8)


def test_layers_are_drawn_in_order_of_depth_generator_first() -> None:
    charts = per_layer([training(1), training(2)], "sigma", "σ")
    assert [chart.title for chart in charts] == ["Generator", "Discriminator"]
    assert [trace["name"] for trace in charts[1].figure["data"]] == ["convs.0", "convs.1"]
    assert charts[1].figure["layout"]["yaxis"]["title"]["text"] == "σ"


def test_unhealthy_stretches_are_shaded() -> None:
    verdicts = ["healthy", "collapse", "collapse", "healthy", None]
    records = [training(10 * i, verdict=verdict) for i, verdict in enumerate(verdicts)]
    chart = curves(records, {"d_loss": ("D", "#000000")}, "loss", "loss")
    assert chart is not None
    shapes = chart.figure["layout"]["shapes"]
    assert [(shape["x0"], shape["x1"], shape["label"]["text"]) for shape in shapes] == [(10, 30, "collapse")]


def test_moving_mean_is_the_mean_of_what_is_there() -> None:
    assert moving_mean([1.0, 2.0, None, 4.0, 6.0], 3) == [1.5, 1.5, None, 5.0, 5.0]
    assert moving_mean([1.5e308, 1.5e308], 3) == [1.5e308, 1.5e308]  # no overflow on the way


@pytest.mark.parametrize("n", [0, 1, 2000, 2001, 9999])
def test_thinning_keeps_the_last_record_and_few_enough(n: int) -> None:
    records = [{"step": i} for i in range(n)]
    kept, stride = thinned(records)
    assert len(kept) <= 2000
    assert list(kept[-1:]) == records[-1:]
    assert len(kept) == -(-n // stride)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(981, "981"), (10_000, "10,000"), (0.71341, "0.7134"), (12345.678, "12,345.7"), (2e-7, "2e-07")],
        *[(None, "—"), (float("nan"), "—"), (float("inf"), "—"), (True, "—"), ("7", "—"), (-0.5, "-0.5")],
    ],
)
def test_numbers_for_people(value: Any, text: str) -> None:
    assert number(value) == text
