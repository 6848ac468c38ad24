"""Studies of data on disk: its path is given beside them, checked before anything is trained, and no part of a run."""

from __future__ import annotations

import importlib
import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from poise.cli import main
from poise.studies import Claim, Judgement, Measured, Outcome, Trial
from poise.studies.datasets import check_paths, needed, open_data, parse_paths, placed
from poise.studies.results import Results
from poise.studies.runner import Task, perform
from poise.studies.study import run_trials
from poise.training import Recipe, Run

SMALL = {"steps": 2, "batch_size": 4, "model.width": 8, "evaluate_every": None, "log_every": 1, "n_dis": 1}
TRIAL = Trial("SN", "sngan-cnn-cifar10", SMALL)


def write_cifar(root: Path, seed: int = 0) -> Path:
    """CIFAR-10's files with two images of each class in each."""
    from torchvision.datasets import CIFAR10

    base, drawing = root / CIFAR10.base_folder, np.random.default_rng(seed)
    base.mkdir(parents=True)
    for file, _ in CIFAR10.train_list + CIFAR10.test_list:
        planes = drawing.integers(0, 256, (20, 1), dtype=np.uint8).repeat(3072, axis=1)
        (base / file).write_bytes(pickle.dumps({"data": planes, "labels": [*range(10), *range(10)]}))
    (base / CIFAR10.meta["filename"]).write_bytes(pickle.dumps({CIFAR10.meta["key"]: [str(n) for n in range(10)]}))
    return root


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CIFAR-10 in miniature, which torchvision takes for the real one."""
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)  # the real files' checksums
    return write_cifar(tmp_path / "cifar")


@pytest.fixture
def claim(toy: Claim, shelf: ModuleType) -> Claim:
    """One of CIFAR-10, of STL-10 and of what is built in."""
    trials = [TRIAL, replace(TRIAL, arm="STL", recipe="bssn-stl10"), Trial("ring", "ring2d")]
    found = replace(toy, name="pictures", grids={"paper": lambda: trials})
    sys.modules["poise.studies.claims"].CLAIMS["pictures"] = found
    return found


@pytest.mark.parametrize("words", ["cifar10", "cifar10=", "=/data", ""])
def test_a_path_has_a_name(words: str) -> None:
    with pytest.raises(ValueError, match="give NAME=PATH, such as cifar10=/data/cifar10"):
        parse_paths([words])


def test_paths_are_absolute_and_given_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_paths(["cifar10=a=b", "stl10=/c"]) == {"cifar10": str(tmp_path / "a=b"), "stl10": "/c"}
    with pytest.raises(ValueError, match="--data stl10 is given twice"):
        parse_paths(["stl10=a", "stl10=b"])


def test_what_has_a_path_or_reads_nothing_needs_none(shelf: ModuleType) -> None:
    vars(shelf)["WITHOUT_DATA"] = ("count",)
    given = replace(TRIAL, changes={"data.path": "/data"})
    others = [given, Trial("a", "ring2d"), Trial("a", "stacked-digits"), Trial("a", "", work="hello")]
    assert needed([*others, replace(TRIAL, work="count")]) == []
    assert needed([*others, replace(TRIAL, work="hello"), replace(TRIAL, recipe="bssn-stl10"), TRIAL]) == [
        "cifar10",
        "stl10",
    ]
    assert placed(given, {"cifar10": "/other"}) == given


def test_the_path_is_no_part_of_a_run(cifar: Path) -> None:
    there = placed(TRIAL, {"cifar10": str(cifar)})
    assert there.resolved().data.options == {"path": str(cifar)}
    assert there.identity != TRIAL.identity  # so it is the trial without that is kept
    found = perform(Task(TRIAL, cifar.parent / "runs", {"cifar10": str(cifar)}))
    assert (found.status, found.trial) == ("finished", TRIAL)
    assert Run(cifar.parent / "runs" / TRIAL.identity).recipe.data.options["path"] == str(cifar)


def test_data_that_moved_is_followed(cifar: Path, tmp_path: Path, shelf: ModuleType) -> None:
    said: list[str] = []
    with Results(tmp_path / "kept") as results:
        assert run_trials([TRIAL], results, say=said.append, paths={"cifar10": str(cifar)}) == []
        moved = tmp_path / "moved"
        shutil.move(cifar, moved)
        shelf.MEASURES["first"] = lambda run, _: _first(run)
        again = replace(TRIAL, measures=("first",))
        assert run_trials([again], results, say=said.append, paths={"cifar10": str(moved)}) == []
        assert "first/pixel" in results.outcome(TRIAL).figures  # type: ignore[union-attr]
        # What is done needs no data.
        assert run_trials([again], results, say=said.append) == []
    assert said[0] == f"cifar10: 100 images of 32 pixels in {cifar}"


def _first(run: Run) -> Any:
    return Measured({"pixel": float(run.data().batch(0, 1)[0][0, 0, 0, 0])})


def test_other_data_under_the_same_name_is_refused(cifar: Path, tmp_path: Path) -> None:
    with Results(tmp_path / "kept") as results:
        open_data({"cifar10": str(cifar)}, [TRIAL], results, lambda _: None)
        copied = tmp_path / "copied"
        shutil.copytree(cifar, copied)
        open_data({"cifar10": str(copied)}, [TRIAL], results, lambda _: None)
        other = write_cifar(tmp_path / "other", seed=1)
        with pytest.raises(ValueError, match=f"images in {other} are not those in {cifar}, .* or another --folder"):
            open_data({"cifar10": str(other)}, [TRIAL], results, lambda _: None)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ({"cifra10": "."}, "--data cifra10: none of these runs reads 'cifra10'; did you mean 'cifar10'"),
        ({"lsun": "."}, "none of these runs reads 'lsun'; known: cifar10"),
        ({"cifar10": "/nowhere"}, "--data cifar10: /nowhere does not exist"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_opened(paths: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_paths(paths, [TRIAL])


def told(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main(["study", *map(str, words)])
    return code, *capsys.readouterr()


def test_the_list_says_which_data_to_give(claim: Claim, cifar: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = told(capsys, "pictures", "--budget", "paper")
    assert (code, out.splitlines()[2]) == (0, "  data: --data cifar10=PATH --data stl10=PATH")
    assert out.splitlines()[-1].endswith("--yes runs them, with --data cifar10=PATH --data stl10=PATH")
    _, out, _ = told(capsys, "pictures", "--budget", "paper", "--data", f"cifar10={cifar}")
    assert out.splitlines()[-1].endswith("--yes runs them, with --data stl10=PATH")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "these runs need data that lies somewhere: give --data cifar10=PATH --data stl10=PATH"),
        (["--data", "nonsense"], "--data is 'nonsense'; give NAME=PATH"),
        (["--data", "cifar10=CIFAR"], "give --data stl10=PATH"),
        (["--data", "cifar10=CIFAR", "--data", "stl10=CIFAR"], "--data stl10: "),
    ],
)
def test_a_mistake_costs_one_line_and_no_run(
    claim: Claim, cifar: Path, words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [word.replace("CIFAR", str(cifar)) for word in words]
    code, _, err = told(capsys, "pictures", "--budget", "paper", "--yes", "--folder", tmp_path / "kept", *given)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "kept" / "runs").exists()


def test_what_a_measure_or_a_judge_lacks_is_told_before_training(
    cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = {"cifar10": str(cifar)}
    with Results(tmp_path) as results:
        tests = replace(TRIAL, changes={**SMALL, "data.split": "test"}, measures=("reconstruction",))
        with pytest.raises(ValueError, match="--data cifar10: training saw the test images of cifar10"):
            open_data(paths, [tests], results, lambda _: None)
        judged = replace(TRIAL, changes={**SMALL, "evaluate_every": 2})
        monkeypatch.setattr("poise.metrics.extractors._is_installed", lambda _: False)
        with pytest.raises(ValueError, match="--data cifar10: no extractor is here; pip install"):
            open_data(paths, [TRIAL, judged], results, lambda _: None)
        open_data(paths, [TRIAL], results, lambda _: None)


def test_a_built_in_budget_wants_no_data(cifar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = told(capsys, "toy", "--folder", tmp_path / "kept", "--data", f"cifar10={cifar}")
    assert (code, "they need none: leave --data out" in err) == (2, True)


def test_a_published_grid_runs_on_its_files(
    toy: Claim, cifar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shipped claim's own trials, made small: a training with its measure, and the timing of steps."""
    stand_in = sys.modules["poise.studies.claims"]
    for name in ("poise.studies.claims", "poise.studies.measures"):
        monkeypatch.delitem(sys.modules, name)
    shipped = importlib.import_module("poise.studies.claims").CLAIMS
    wanted = [shipped["settings-a-f"].grids["paper"](), shipped["step-cost"].grids["paper"]()]
    cell = next(one for one in wanted[0] if one.arm == "SN, C")
    timed = {name: value for name, value in SMALL.items() if name != "steps"}
    trials = [
        replace(cell, changes={**cell.changes, **SMALL}),
        replace(wanted[1][0], changes={**wanted[1][0].changes, **timed}),
    ]
    assert Recipe.load(trials[0].recipe).data.name == "cifar10"
    stand_in.CLAIMS["toy"] = replace(toy, grids={"paper": lambda: trials}, judge=_no_judge, draw=lambda *_: None)
    monkeypatch.setitem(sys.modules, "poise.studies.claims", stand_in)
    monkeypatch.chdir(tmp_path)
    code, out, err = told(
        capsys, "toy", "--budget", "paper", "--yes", "--data", "cifar10=cifar", "--folder", tmp_path / "kept"
    )
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"cifar10: 100 images of 32 pixels in {cifar}"
    with Results(tmp_path / "kept") as results:
        found: list[Outcome | None] = [results.outcome(trial) for trial in trials]
    assert [one.status for one in found if one] == ["finished", "finished"]
    assert 0 < found[0].figures["spectra/first/hidden"] < 1  # type: ignore[union-attr]
    assert found[1].figures["wgan_gp"] > 0  # type: ignore[union-attr]


def _no_judge(arms: Any) -> Any:
    return Judgement("not decided", "nothing is claimed")
