"""Runs beside each other: seeds become their mean, tests are the textbook's, and what is not alike is not compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from scipy import stats

from poise.report.comparison import PAIRED, SINGLE, WELCH, compare_runs
from poise.report.comparison_table import lines, mark, write_page

SN, BSSN = (50.0, 52.5, 51.0), (48.0, 49.5, 48.5)


def judged(folder: Path, value: float, norm: str = "sn", seed: int = 0, reach: float = 1.0, **about: Any) -> Path:
    folder.mkdir()
    recipe = {"name": "demo", "seed": seed, "d_norm": {"name": norm}, "data": {"name": "cifar10"}, "versions": {}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    fid = {"value": value, "interval": [value - reach, value + 2 * reach], "unit": "u", "better": "lower"}
    metrics = {"fid": fid, "precision": {"value": 0.5, "unit": "share", "better": "higher"}}
    kept = {"step": 9, "samples": 1000, "extractor": "inception-v3", "preprocessing": "p", "metrics": metrics}
    (folder / "evaluation.json").write_text(json.dumps(kept | about))
    return folder


def seeds(folder: Path, values: tuple[float, ...], norm: str, first: int = 0) -> list[Path]:
    return [judged(folder / f"{norm}-{i}", value, norm, first + i) for i, value in enumerate(values)]


@pytest.mark.parametrize(("apart", "beyond"), [(2.3, True), (2.2, False), (-2.3, True)])
def test_two_runs_differ_beyond_the_root_of_both_squared_reaches(tmp_path: Path, apart: float, beyond: bool) -> None:
    """The sides that face each other count: 1 of the one and 2 of the other, √5 in all."""
    compared = compare_runs([judged(tmp_path / "a", 50), judged(tmp_path / "b", 50 + apart, "bssn")])
    [one] = [found for found in compared["tables"][0]["differences"] if found["metric"] == "fid"]
    assert one["value"] == pytest.approx(-apart)
    assert (one["beyond"], one["test"]) == (beyond, SINGLE)
    assert one["interval"] == pytest.approx([-apart - 5**0.5, -apart + 5**0.5])


def test_without_an_interval_nothing_is_tested(tmp_path: Path) -> None:
    [table] = compare_runs([judged(tmp_path / "a", 50), judged(tmp_path / "b", 60, "bssn")])["tables"]
    [one] = [found for found in table["differences"] if found["metric"] == "precision"]
    assert (one["beyond"], one["interval"], one["test"]) == (None, None, None)


@pytest.mark.parametrize(("first", "test"), [(0, PAIRED), (7, WELCH)])
def test_seeds_are_one_entry_and_tested_as_scipy_does(tmp_path: Path, first: int, test: str) -> None:
    runs = seeds(tmp_path, SN, "sn") + seeds(tmp_path, BSSN, "bssn", first)
    [table] = compare_runs(runs)["tables"]
    labels = [entry["label"] for entry in table["entries"]]
    assert labels == ["demo d_norm.name=sn (3 seeds)", "demo d_norm.name=bssn (3 seeds)"]
    figure = table["entries"][0]["metrics"]["fid"]
    assert figure["interval"] == pytest.approx(stats.t.interval(0.95, 2, figure["value"], stats.sem(SN)))
    expected = stats.ttest_rel(SN, BSSN) if test == PAIRED else stats.ttest_ind(SN, BSSN, equal_var=False)
    one = table["differences"][0]
    assert one["test"] == test
    assert one["interval"] == pytest.approx(list(expected.confidence_interval()))
    assert one["beyond"] == (expected.pvalue < 0.05)
    assert table["metrics"]["fid"]["best"] == labels[1]
    assert mark(table, labels[1], "fid") == "*"


def test_a_run_and_a_mean_over_seeds_are_not_tested(tmp_path: Path) -> None:
    [table] = compare_runs([*seeds(tmp_path, SN, "sn"), judged(tmp_path / "b", 40, "bssn")])["tables"]
    assert {one["beyond"] for one in table["differences"]} == {None}


@pytest.mark.parametrize(
    ("about", "named"),
    [
        ({"extractor": "clip"}, "extractor differ"),
        ({"preprocessing": "q"}, "preprocessing differ"),
        ({"samples": 999}, "n differ"),
    ],
)
def test_figures_that_are_not_alike_are_shown_apart(tmp_path: Path, about: dict[str, Any], named: str) -> None:
    compared = compare_runs([judged(tmp_path / "a", 50), judged(tmp_path / "b", 50, "bssn", **about)])
    assert len(compared["tables"]) == 2
    assert [note for note in compared["notes"] if named in note and "not comparable" in note]
    assert not any(table["differences"] for table in compared["tables"])


def test_a_metric_that_one_run_lacks_is_left_out_and_named(tmp_path: Path) -> None:
    short: dict[str, Any] = {"metrics": {"fid": {"value": 1.0, "better": "lower"}}}
    compared = compare_runs([judged(tmp_path / "a", 50), judged(tmp_path / "b", 50, "bssn", **short)])
    assert list(compared["tables"][0]["metrics"]) == ["fid"]
    assert compared["notes"] == ["precision: not of every run, left out"]


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    a, again = judged(tmp_path / "a", 50), judged(tmp_path / "again", 50)
    bare, damaged = judged(tmp_path / "bare", 50), judged(tmp_path / "damaged", 50)
    (bare / "evaluation.json").unlink()
    (damaged / "evaluation.json").write_text('{"metrics": {')
    wrong = {
        "1 run is given; compare two or more": [a],
        "is given twice": [a, a],
        "was not judged: it has no evaluation.json; poise evaluate": [a, bare],
        "evaluation.json is damaged": [a, damaged],
        "is no run: it has no recipe.yaml": [a, tmp_path / "nowhere"],
        "are of one recipe and seed 0; give one of them": [a, again],
    }
    for said, runs in wrong.items():
        with pytest.raises(ValueError, match=said) as refusal:
            compare_runs(runs)
        assert "\n" not in str(refusal.value)


def test_a_table_and_a_page_say_the_same(tmp_path: Path) -> None:
    hostile = judged(tmp_path / "<script>alert(1)<", 60, "bssn")
    compared = compare_runs([judged(tmp_path / "a", 50), hostile])
    told = "\n".join(lines(compared))
    assert "50 [49, 52] *" in told
    assert "60 [59, 62] ≠" in told
    assert "n = 1000; extractor inception-v3, preprocessing p" in told
    page = write_page(compared, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "fid, n = 1000, inception-v3" in page
    assert "<script>alert(1)<" not in page
    with pytest.raises(ValueError, match=r"drawn as \.html"):
        write_page(compared, tmp_path / "page.gif")
