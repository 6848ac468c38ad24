"""``poise study``: what it prints and writes, and what a mistake costs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from poise.cli import main
from poise.studies import Claim, Outcome
from poise.studies.executors import Died, Here

pytest.importorskip("matplotlib", reason="matplotlib is not installed")


def told(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, output and errors of ``poise study``."""
    try:
        code: Any = main(["study", *map(str, words)])
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    return code, out, err


def test_a_study_is_run_judged_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = told(capsys, "toy")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split("]")[0][:4] for line in lines[:4]] == ["[1/4", "[2/4", "[3/4", "[4/4"]
    assert lines[4].startswith(("toy: holds. ", "toy: does not hold. ", "toy: not decided. "))
    assert lines[5:] == ["runs/studies/claims.md"]  # one study leaves the page of all alone
    assert not (tmp_path / "docs").exists()

    code, out, _ = told(capsys, "all", "--budget", "mini")
    assert (code, out.splitlines()[0]) == (0, "4 of 4 runs are in runs/studies/results.sqlite already")
    assert out.splitlines()[-1] == "docs/claims.md"
    assert (tmp_path / "docs" / "claims" / "toy.png").exists()

    code, out, _ = told(capsys, "list")
    assert code == 0
    assert "1 toy: SN makes the last loss larger. (Nobody 2026, fig. 1)" in out
    assert "core-minutes by 4 that were done" in out
    assert "about 12 GPU-hours" in out


def test_the_papers_grid_is_listed_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = told(capsys, "all", "--budget", "paper", "--folder", tmp_path / "kept")
    assert code == 0
    assert out.splitlines() == [
        "toy: 4 runs, about 12 GPU-hours",
        "  from: 20 steps",
        "  SN: 2 × ring2d",
        "  plain: 2 × ring2d",
        "nothing was run; --yes runs them",
    ]
    assert not (tmp_path / "kept").exists()


def test_yes_runs_it(toy: Claim, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = told(capsys, "toy", "--budget", "paper", "--yes", "--folder", tmp_path)
    assert (code, out.count("losses/last")) == (0, 4)


def test_a_run_that_crashes_twice_is_an_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(self: Here, do: Callable[[Any], Any], tasks: Sequence[Any]) -> Generator[tuple[int, Any]]:
        yield from ((number, Died("signal SIGKILL")) for number, _ in enumerate(tasks))

    monkeypatch.setattr(Here, "map", dying)
    code, out, _ = told(capsys, "toy", "--folder", tmp_path)
    assert code == 1
    assert "toy: not judged: 4 crashed of 4 runs" in out


def test_ctrl_c_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(self: Here, do: Callable[[Any], Any], tasks: Sequence[Any]) -> Generator[tuple[int, Any]]:
        yield 0, Outcome(tasks[0].trial, "finished", figures={"modes": 1.0})
        raise KeyboardInterrupt

    monkeypatch.setattr(Here, "map", stopped)
    code, _, err = told(capsys, "toy", "--folder", tmp_path)
    assert (code, err) == (130, "poise: stopped with 1 of 4 runs done; the same command goes on from there\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tyo"], "unknown study 'tyo'; did you mean 'toy'?"),
        (["bigan"], "unknown study 'bigan'; known: toy"),
        (["toy", "--budget", "huge"], "argument --budget: invalid choice: 'huge'"),
        (["toy", "--workers", "1000"], "workers is 1000; allowed: 1 to "),
        (["toy", "--workers", "1", "--ray", "auto"], "give one of them"),
        (["toy", "--budgte", "mini"], "unknown option '--budgte' of poise study; did you mean '--budget'?"),
        ([], "the following arguments are required: NAME"),
    ],
)
def test_a_mistake_costs_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = told(capsys, *words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_ray_that_is_missing_costs_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    code, out, err = told(capsys, "toy", "--ray", "auto", "--folder", tmp_path)
    assert (code, out, err) == (1, "", "poise: --ray needs Ray: pip install poise[study]\n")


def test_a_claim_without_a_budget_says_so(
    toy: Claim, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    only = replace(toy, grids={"mini": toy.grids["mini"]})
    monkeypatch.setitem(sys.modules["poise.studies.claims"].CLAIMS, "toy", only)
    code, _, err = told(capsys, "toy", "--budget", "small", "--folder", tmp_path)
    assert (code, err) == (2, "poise: toy has no budget 'small'; it has mini\n")
