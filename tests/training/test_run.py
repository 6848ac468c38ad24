"""The run folder: made ready without harm to anything in it, and read back though a crash cut it short."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from poise.training import CheckpointError, Recipe, RecipeError, Run, RunError, load, run_folder
from poise.training.run import build, cut_records, prepare_folder, read_records, to_line


def make(kind: str, out: Path) -> None:
    """``out`` as found: new, empty, foreign, a file, or holding a run."""
    if kind == "file":
        out.write_text("keep me")
    elif kind != "new":
        out.mkdir(parents=True)
    if kind == "foreign":
        (out / "thesis.tex").write_text("keep me")
    if kind == "run":
        (out / "recipe.yaml").write_text("name: x")


def contents(out: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in ([out] if out.is_file() else out.glob("*"))}


@pytest.mark.parametrize(
    ("kind", "resume", "overwrite"),
    [
        ("new", False, False),
        ("new", False, True),
        ("empty", False, False),
        ("empty", False, True),
        ("run", False, True),
    ],
)
def test_a_folder_that_is_free_is_made_empty(kind: str, resume: bool, overwrite: bool, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "x"
    make(kind, out)
    prepare_folder(out, resume, overwrite)
    assert out.is_dir()
    assert not list(out.iterdir())


@pytest.mark.parametrize(
    ("kind", "resume", "overwrite", "said"),
    [
        ("foreign", False, False, "exists and is no run; give a new or empty folder as --out"),
        ("foreign", False, True, "exists and is no run; give a new or empty folder as --out"),
        ("file", False, False, "exists and is no run"),
        ("file", False, True, "exists and is no run"),
        ("run", False, False, "holds a run; --resume goes on with it, --overwrite deletes it"),
        ("new", True, False, "holds no run to resume; leave out --resume"),
        ("empty", True, False, "holds no run to resume"),
        ("foreign", True, False, "holds no run to resume"),
        ("file", True, False, "holds no run to resume"),
        ("run", True, True, "--resume goes on with a run and --overwrite deletes it: give one of them"),
    ],
)
def test_any_other_folder_is_refused_and_left_as_it_is(
    kind: str, resume: bool, overwrite: bool, said: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    make(kind, out)
    before = contents(out)
    with pytest.raises(RunError, match=said) as caught:
        prepare_folder(out, resume, overwrite)
    assert "\n" not in str(caught.value)
    assert contents(out) == before


def test_a_run_to_resume_is_left_as_it_is(tmp_path: Path) -> None:
    make("run", tmp_path / "out")
    prepare_folder(tmp_path / "out", resume=True, overwrite=False)
    assert contents(tmp_path / "out") == {"recipe.yaml": "name: x"}


def test_a_run_goes_to_out_or_to_runs_by_its_name(tiny: Callable[..., Recipe]) -> None:
    assert run_folder(tiny(name="a"), None) == Path("runs/a")
    assert run_folder(tiny(name="a"), "b") == Path("b")


LINES = [to_line({"step": step, "d_loss": step / 7}) for step in range(1, 6)]


@given(st.integers(0, sum(map(len, LINES))))
def test_records_cut_short_anywhere_are_the_whole_lines_before(tmp_path_factory: Any, length: int) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.jsonl"
    text = "".join(LINES)[:length]
    path.write_text(text)
    # a line that lacks nothing but its end is whole
    whole = sum(1 for last in range(1, 6) if length >= len("".join(LINES[:last])) - 1)
    assert [record["step"] for record in read_records(path)] == list(range(1, whole + 1))


def test_nothing_after_a_torn_line_is_trusted(tmp_path: Path) -> None:
    (tmp_path / "m").write_text(LINES[0] + LINES[1][:9] + "\n" + LINES[2])
    assert [record["step"] for record in read_records(tmp_path / "m")] == [1]


def test_no_records_are_none(tmp_path: Path) -> None:
    assert list(read_records(tmp_path / "nowhere")) == []


@pytest.mark.parametrize("step", [0, 2, 5, 9])
def test_cutting_drops_the_steps_after_and_keeps_the_others_letter_for_letter(step: int, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(LINES) + LINES[0][:5])
    cut_records(path, step)
    assert path.read_text() == "".join(LINES[:step])
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_becomes_null(value: float, run_copy: Run) -> None:
    record = {"d_loss": value, "sigma": {"D.0": value, "D.1": 1.5}, "all": [value, 2, "nan"], "verdict": "not-finite"}
    expected = {"d_loss": None, "sigma": {"D.0": None, "D.1": 1.5}, "all": [None, 2, "nan"], "verdict": "not-finite"}
    assert json.loads(to_line(record)) == expected
    run_copy.write_json("evaluation.json", record)
    assert run_copy.evaluation() == expected


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5))
def test_a_record_is_one_line_of_strict_json_to_six_digits(value: Any) -> None:
    line = to_line({"step": 1, "value": value})
    assert line.count("\n") == 1
    found = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    if isinstance(value, float) and math.isfinite(value):
        assert found["value"] == pytest.approx(value, rel=1e-5)
    elif not isinstance(value, (list, float)):
        assert found["value"] == value


def test_a_run_is_read_back(finished: Run) -> None:
    run = Run(finished.path)
    assert run.recipe.steps == 6
    assert run.data().resolution == 16
    evaluation = run.evaluation()
    assert evaluation is not None
    assert evaluation["step"] == run.records()[-1]["step"] == 6


def test_a_run_before_its_first_judgement_has_none(run_copy: Run) -> None:
    (run_copy.path / "evaluation.json").unlink()
    assert run_copy.evaluation() is None


def test_the_data_of_a_run_has_its_seed_unless_the_source_was_given_one(tiny: Callable[..., Recipe]) -> None:
    own = build(tiny(seed=5, **{"data.seed": 3}))[2]
    shared = build(tiny(seed=5))[2]
    assert torch.equal(own.batch(0, 4)[0], build(tiny(seed=3))[2].batch(0, 4)[0])
    assert not torch.equal(own.batch(0, 4)[0], shared.batch(0, 4)[0])


@pytest.mark.parametrize("network", ["ema", "generator"])
def test_the_sampler_is_the_saved_network(network: str, finished: Run) -> None:
    from safetensors.torch import load_file

    saved = load_file(finished.checkpoints / "step-6" / f"{network}.safetensors")
    torch.testing.assert_close(dict(load(finished.path, network).generator.state_dict()), saved, rtol=0, atol=0)


def test_an_unknown_network_is_refused(finished: Run) -> None:
    with pytest.raises(ValueError, match=r"network is 'best'; allowed: 'ema' .* and 'generator'"):
        finished.sampler("best")


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(run_copy: Run) -> None:
    (run_copy.checkpoints / "step-6" / "ema.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"step-6/ema\.safetensors is damaged.*using step-4"):
        _, step = run_copy.sampler_and_step()
    assert step == 4


def test_a_run_without_a_usable_checkpoint_says_so(run_copy: Run) -> None:
    shutil.rmtree(run_copy.checkpoints)
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        run_copy.sampler()


@pytest.mark.parametrize(
    ("kind", "said"), [("new", "is no folder"), ("file", "is no folder"), ("empty", "has no recipe.yaml")]
)
def test_what_is_no_run_cannot_be_loaded(kind: str, said: str, tmp_path: Path) -> None:
    make(kind, tmp_path / "out")
    with pytest.raises(RunError, match=f"{tmp_path / 'out'} is no run: it {said}"):
        load(tmp_path / "out")


def test_a_run_whose_recipe_is_damaged_says_so(run_copy: Run) -> None:
    (run_copy.path / "recipe.yaml").write_text("steps: [")
    with pytest.raises(RunError, match=r"recipe\.yaml is damaged: .*not valid YAML"):
        Run(run_copy.path)


def test_a_recipe_cut_anywhere_is_damage_or_lacks_nothing_that_trains(run_copy: Run) -> None:
    path = run_copy.path / "recipe.yaml"
    whole, expected = path.read_text(), run_copy.recipe.model_copy(update={"versions": {}})
    refused = []
    for length in range(0, len(whole), 7):
        path.write_text(whole[:length])
        try:
            found = Run(run_copy.path).recipe
        except RunError as error:
            refused.append(str(error))
        else:
            assert found.model_copy(update={"versions": {}}) == expected
    assert len(refused) * 7 > whole.index("versions")
    assert all("recipe.yaml is damaged: " in message for message in refused)


def test_a_model_and_data_of_two_sizes_are_refused_with_both_ways_out(tiny: Callable[..., Recipe]) -> None:
    recipe = tiny(**{"model.resolution": 32})
    with pytest.raises(RecipeError, match=r"32 pixels, data has 16: set model\.resolution=16 or data\.resolution=32"):
        build(recipe)
    for fix in ({"model.resolution": 16}, {"data.resolution": 32}):
        build(tiny(**{"model.resolution": 32, **fix}))
