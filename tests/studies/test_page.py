"""The page shows every claim with its verdict, table and figure, and the README's table stands between markers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from poise.studies import Claim, Judgement
from poise.studies.page import END, START, table, write_page
from poise.studies.study import Judged
from tests.studies.conftest import outcome, toy_judge

pytest.importorskip("matplotlib", reason="matplotlib is not installed")


@pytest.fixture
def judged(toy: Claim) -> list[Judged]:
    """Two that were judged, and one that was not."""

    def arm(name: str, *losses: float) -> list[Any]:
        measured: dict[str, Any] = {"curves": {"d_loss": [(1, 0.7), (2, 0.6)]}}
        numbered = enumerate(losses)
        return [replace(outcome(name, seed), figures={"losses/last": loss}, **measured) for seed, loss in numbered]

    arms = {"SN": arm("SN", 0.6, 0.625, 0.65), "plain": arm("plain", 0.6, 0.625, 0.65)}
    words = Judgement("not decided", "One failed.", [])
    return [
        Judged(toy, "mini", arms, toy_judge(arms)),
        Judged(replace(toy, number=2, name="second", sentence="Another."), "mini", {"SN": arms["SN"][:1]}, words),
        Judged(replace(toy, number=3, name="third"), "mini", {}, None, "4 not run of 4 runs"),
    ]


def test_the_page_has_a_table_and_a_section_and_figure_for_each(judged: list[Judged], tmp_path: Path) -> None:
    page = write_page(judged, tmp_path / "docs").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and "](#" in line]
    assert [row.split(" | ")[-1] for row in rows] == [
        "**not decided** |",
        "**not decided** |",
        "not judged: 4 not run of 4 runs |",
    ]
    assert "[SN makes the last loss larger.](#toy)" in rows[0]
    for one in judged:
        assert f'<a id="{one.claim.name}"></a>' in page
    assert "The last losses differ by 0 [0, 0], n = 3." in page
    assert "| SN | 0.625 |" in page
    assert "The paper reports: a loss | of 0.6" in page
    assert sorted(path.name for path in (tmp_path / "docs" / "claims").iterdir()) == ["second.png", "toy.png"]
    with Image.open(tmp_path / "docs" / "claims" / "toy.png") as image:
        assert image.width > 500
        assert len(image.convert("L").getcolors() or []) > 10
    assert "6 runs in 2 arms, 3 seeds" in page


def test_failed_runs_are_told(judged: list[Judged], tmp_path: Path) -> None:
    arms = {"SN": judged[0].arms["SN"], "plain": [outcome("plain", 0, "failed")]}
    one = replace(judged[0], arms=arms, claim=replace(judged[0].claim, draw=lambda *_: None))
    assert "of which 1 failed (not finite)" in write_page([one], tmp_path / "docs").read_text()


def test_the_readme_has_the_table_between_its_markers_and_nothing_else_changes(
    judged: list[Judged], tmp_path: Path
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"# Before\n\n{START}\nold\n{END}\n\nAfter.\n", encoding="utf-8")
    for _ in range(2):  # the second time changes nothing
        write_page(judged, tmp_path / "docs")
    before, rest = readme.read_text(encoding="utf-8").split(START)
    inside, after = rest.split(END)
    assert (before, after) == ("# Before\n\n", "\n\nAfter.\n")
    assert "old" not in inside
    assert "| 1 | [SN makes the last loss larger.](docs/claims.md#toy) |" in inside
    readme.write_text("# No markers\n", encoding="utf-8")
    write_page(judged, tmp_path / "docs")
    assert readme.read_text(encoding="utf-8") == "# No markers\n"


def test_a_table_has_the_columns_of_all_rows() -> None:
    assert table([{"arm": "a|b", "fd": 1234.5678}, {"arm": "c", "n": 3}]).splitlines() == [
        "| arm | fd | n |",
        "| --- | --- | --- |",
        "| a\\|b | 1235 |  |",
        "| c |  | 3 |",
    ]
