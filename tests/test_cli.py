"""The ``poise`` command: its words do what they say, and a mistake costs one line that helps."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from poise.cli import COMMANDS, main
from poise.data import SOURCES
from poise.metrics import MEASURES
from poise.models import MODELS, create
from poise.norms import NORMS
from poise.training import Recipe, Run, checkpoint, shipped_recipes
from poise.training.recipe import fields

TINY = [
    *("--model.width", "2", "--model.latent_dim=8", "--steps", "3", "--batch-size", "8", "--device", "cpu"),
    *("--evaluation-samples", "20", "--precision", "fp32"),
]


def poise(*words: object) -> int:
    """The exit code of a command line, in this process."""
    try:
        return main([str(word) for word in words])
    except SystemExit as stop:  # argparse ends --help and its errors so
        return stop.code if isinstance(stop.code, int) else 1


def help_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert poise(*words, "--help") == 0
    return capsys.readouterr().out


# Words that are right.


def test_train_sample_evaluate_and_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "my run"
    assert poise("train", "stacked-digits", "--out", run, "--quiet", *TINY) == 0
    told = capsys.readouterr()
    assert "stacked-digits: 3 steps" in told.out
    assert f"report: {run / 'report.html'}" in told.out
    assert all(name in told.out and measure.unit in told.out for name, measure in MEASURES.items())
    assert told.err == ""
    assert Run(run).recipe.model.options == {"resolution": 16, "width": 2, "latent_dim": 8}

    grid = tmp_path / "new folder" / "grid.png"
    assert poise("sample", run, "-n", 10, "--seed", 3, "--zoom", 2, "--out", grid) == 0
    assert capsys.readouterr().out == f"{grid}\n"
    with Image.open(grid) as image:
        assert image.size == (2 * (8 * 17 + 1), 2 * (2 * 17 + 1))

    assert poise("evaluate", run, "--samples", 30, "--network", "generator", "--seed", 2) == 0
    assert "n = 30" in capsys.readouterr().out
    kept = json.loads((run / "evaluation.json").read_text())
    assert (kept["samples"], kept["seed"], kept["network"], kept["step"]) == (30, 2, "generator", 3)

    for which in ("best", "3"):
        assert poise("evaluate", run, "--samples", 30, "--checkpoint", which) == 0
        assert "judged at step 3" in capsys.readouterr().out

    (run / "report.html").unlink()
    assert poise("report", run) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    assert (run / "report.html").exists()


def test_a_recipe_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\nmodel: {name: sngan-cnn, resolution: 16}\nsteps: 99")
    assert poise("train", tmp_path / "mine.yaml", *TINY, "--out", tmp_path / "run", "--quiet") == 0
    kept = Run(tmp_path / "run").recipe
    assert (kept.name, kept.steps) == ("mine", 3)


def test_fields_may_stand_before_the_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the usage line shows it."""
    code = poise("train", *TINY, "stacked-digits", "--out", tmp_path / "run", "--quiet")
    assert (code, capsys.readouterr().err) == (0, "")
    assert Run(tmp_path / "run").recipe.steps == 3


def test_a_finished_run_can_be_resumed(run_copy: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tiny.yaml").write_text(run_copy.recipe.to_yaml())
    assert poise("train", tmp_path / "tiny.yaml", "--out", run_copy.path, "--resume", "--quiet") == 0
    assert "resuming after step 6" in capsys.readouterr().out


def test_the_same_seed_samples_the_same_grid(finished: Run, tmp_path: Path) -> None:
    for name, seed in (("a.png", 1), ("b.png", 1), ("c.png", 2)):
        assert poise("sample", finished.path, "-n", 4, "--seed", seed, "--out", tmp_path / name) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "c.png").read_bytes()


def test_truncated_samples_differ_and_stand_on_statistics_of_their_own(finished: Run, tmp_path: Path) -> None:
    grids = []
    for index, words in enumerate([[], ["--truncation", "0.5"], ["--truncation", "0.5", "--standing", "4"]]):
        assert poise("sample", finished.path, "--out", tmp_path / f"{index}.png", *words) == 0
        grids.append((tmp_path / f"{index}.png").read_bytes())
    assert len(set(grids)) == 3


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert poise("--version") == 0
    assert re.fullmatch(r"poise \d+\.\d+\.\d+\n", capsys.readouterr().out)


# What the command says of itself.


def test_help_names_every_command_with_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys)
    assert all(name in text and summary in text for name, (_, summary) in COMMANDS.items())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_word_of_a_command_is_explained(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = help_of(capsys, command).partition("\nrecipe fields")[0]
    words = re.findall(r"^  (\S.*)$", re.sub(r"\n {10,}", "    ", text), re.MULTILINE)
    assert {"--debug", "-h,"} <= {word.split()[0] for word in words}
    assert [word for word in words if not re.fullmatch(r"\S.*?  +\S.*", word)] == []


def test_help_of_train_names_every_field_with_its_text_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, "train")
    for name, default, description in fields():
        assert f"  --{name} " in text
        assert f"{description} (default: {default})" in text
    for unit in ("pixels", "channels", "steps", "images", "updates", "per step", "in [0, 1)", "unitless"):
        assert unit in text


def test_norms_lists_each_with_its_formula_paper_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert poise("norms") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(NORMS)
    for line, name in zip(lines, NORMS, strict=True):
        assert NORMS.summary(name).replace("``", "") in line
        assert all(option in line for option in NORMS.options(name))
        assert name == "none" or name == "frobenius" or re.search(r"[a-z.] \d{4}", line)


def test_models_lists_each_with_its_paper_size_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert poise("models") == 0
    told = capsys.readouterr().out
    for name in MODELS:
        assert f"\n{name} " in f"\n{told}"
        assert all(option in told for option in MODELS.options(name))
    # By hand, from table 3 of Miyato et al. 2018: weights, biases, and gain and bias of each batch norm.
    generator = 129 * 8192 + sum(a * b * 16 + b for a, b in [(512, 256), (256, 128), (128, 64)]) + 64 * 27 + 3 + 2 * 960
    assert f"G {generator:>13,} parameters" in told


def test_models_counts_one_architecture_with_given_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert poise("models", "sngan-cnn", "--resolution=16", "--width", "2", "--latent-dim", "3") == 0
    told = capsys.readouterr().out
    pair = create("sngan-cnn", resolution=16, width=2, latent_dim=3)
    for network in pair:
        assert f"{sum(p.numel() for p in network.parameters()):,} parameters" in told
    assert "resolution=16, width=2, latent_dim=3" in told
    # Multiplications of D, layer by layer: inputs · outputs · kernel entries · output pixels.
    macs = 3 * 2 * 9 * 256 + 2 * 2 * 16 * 64 + 2 * 4 * 9 * 64 + 4 * 4 * 16 * 16 + 4 * 8 * 9 * 16 + 8 * 16
    assert f"{macs / 1e6:,.1f} million MACs" in told


def test_data_lists_each_source_with_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert poise("data") == 0
    told = capsys.readouterr().out
    for name in SOURCES:
        (line,) = (line for line in told.splitlines() if line.startswith(f"{name} "))
        assert all(option in line for option in SOURCES.options(name))


def test_data_check_looks_at_every_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(3):
        Image.new("RGB", (4, 5)).save(tmp_path / f"{index}.png")
    assert poise("data", "check", tmp_path) == 0
    assert capsys.readouterr().out.startswith("3 images, no classes\n4×5 to 4×5 pixels")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert poise("data", "check", tmp_path) == 1
    assert "it is no picture of a known format" in capsys.readouterr().out


def test_recipes_lists_each_with_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert poise("recipes") == 0
    text = capsys.readouterr().out
    for name in shipped_recipes():
        assert name in text
        assert f"{Recipe.load(name).steps} steps" in text


# Words that are wrong.

WRONG: dict[str, tuple[list[str], int, str]] = {
    "no command": ([], 2, "arguments are required: COMMAND"),
    "unknown command": (["trian"], 2, "unknown command 'trian'; did you mean 'train'?"),
    "no recipe": (["train"], 2, "arguments are required: RECIPE"),
    "unknown recipe": (["train", "stacked-digit"], 2, "unknown recipe 'stacked-digit'; did you mean 'stacked-digits'?"),
    "no such file": (["train", "{tmp}/no.yaml"], 2, "no.yaml cannot be read: .*No such file"),
    "no YAML": (["train", "{tmp}/torn.yaml"], 2, "torn.yaml is not valid YAML"),
    "no mapping": (["train", "{tmp}/list.yaml"], 2, "list.yaml holds list; a recipe is a mapping"),
    "torn choice": (["train", "{tmp}/text.yaml", "--model.width", "2"], 2, "model: given 3"),
    "unknown field": (["train", "stacked-digits", "--step", "3"], 2, "unknown field 'step'; did you mean 'steps'?"),
    "field without a value": (["train", "stacked-digits", "--steps"], 2, "--steps lacks its value"),
    "stray word": (["train", "stacked-digits", "fast"], 2, "unexpected word 'fast'.*--field value"),
    "wrong type": (["train", "stacked-digits", "--steps", "few"], 2, "steps: given 'few'; .*integer"),
    "out of range": (["train", "stacked-digits", "--steps=-1"], 2, "steps: given '-1'; .*greater than 0"),
    "scale of zero": (
        ["train", "stacked-digits", "--d-norm.scale", "0"],
        2,
        "d_norm: scale is 0.0; it must be above 0",
    ),
    "no width": (["train", "stacked-digits", "--model.width", "0"], 2, "model: width is 0; it must be at least 1"),
    "odd resolution": (["train", "stacked-digits", "--data.resolution", "7"], 2, "data: resolution is 7; .*8, 16, 32"),
    "unknown norm": (["train", "stacked-digits", "--d-norm.name", "sm"], 2, "unknown norm 'sm'; did you mean"),
    "unknown option": (["train", "stacked-digits", "--model.depth", "2"], 2, "model 'sngan-cnn' has no option 'depth'"),
    "no such device": (["train", "stacked-digits", "--device", "warp"], 2, "device: given 'warp'; allowed here: auto"),
    "sizes apart": (["train", "stacked-digits", "--data.resolution", "32"], 2, "set model.resolution=32 or data"),
    "size not made": (["train", "stacked-digits", "--model.resolution=17"], 2, "resolution is 17; .*multiple of 16"),
    "out holds a run": (["train", "stacked-digits", "--out", "{run}"], 2, "holds a run; --resume .* --overwrite"),
    "out is a file": (["train", "stacked-digits", "--out", "{tmp}/list.yaml"], 2, "exists and is no run; give a new"),
    "out holds other things": (["train", "stacked-digits", "--out", "{tmp}"], 2, "exists and is no run; give a new"),
    "out below a file": (["train", "stacked-digits", "--out", "{tmp}/list.yaml/run"], 1, "Not a directory"),
    "nothing to resume": (["train", "stacked-digits", "--out", "{tmp}/new", "--resume"], 2, "{tmp}/new is no run"),
    "resume with a field": (
        ["train", "stacked-digits", "--out", "{run}", "--resume", "--steps", "9"],
        2,
        "--resume goes on with the recipe kept in the run; leave out --steps",
    ),
    "resume another": (["train", "stacked-digits", "--out", "{run}", "--resume"], 2, "holds a run of 'tiny', not of"),
    "sample of nothing": (["sample", "{tmp}/new"], 2, "{tmp}/new is no run: it is no folder"),
    "sample of no run": (["sample", "{tmp}"], 2, "is no run: it has no recipe.yaml"),
    "evaluate nothing": (["evaluate", "{tmp}/new"], 2, "is no run"),
    "report on nothing": (["report", "{tmp}/new"], 2, "is no run"),
    "no images": (["sample", "{run}", "-n", "0"], 2, "n is 0; draw at least 1"),
    "images in words": (["sample", "{run}", "-n", "ten"], 2, "argument -n: invalid int value: 'ten'"),
    "a grid as text": (["sample", "{run}", "--out", "{tmp}/grid.txt"], 2, "grid.txt'; a grid is saved as .png"),
    "a grid below a file": (["sample", "{run}", "--out", "{tmp}/list.yaml/g.png"], 1, "list.yaml"),
    "unknown network": (["sample", "{run}", "--network", "best"], 2, "--network: invalid choice: 'best'"),
    "unknown sample option": (["sample", "{run}", "--sed", "3"], 2, "unknown option '--sed' of poise sample; .*--seed"),
    "one sample": (["evaluate", "{run}", "--samples", "1"], 2, "samples is 1; .*at least 2"),
    "no sample": (["evaluate", "{run}", "--samples", "0"], 2, "samples is 0; .*at least 2"),
    "unknown metric": (["evaluate", "{run}", "--metrics", "fdi"], 2, "unknown metric 'fdi'; did you mean 'fid'"),
    "unknown extractor": (["evaluate", "{run}", "--extractor", "vgg"], 2, "unknown extractor 'vgg'; known: inception"),
    "against nothing": (["evaluate", "{run}", "--against", "nowhere"], 2, "nowhere is neither a folder or zip .* nor"),
    "evaluate a file alone": (["evaluate", "list.yaml"], 2, "list.yaml is no run; give --against"),
    "no checkpoint": (["sample", "{bare}"], 1, "holds no checkpoint; no checkpoint is usable"),
    "no such step": (["sample", "{run}", "--checkpoint", "5"], 1, "holds no checkpoint of step 5; it holds 4, 6"),
    "a checkpoint of no kind": (
        ["evaluate", "{run}", "--checkpoint", "bets"],
        2,
        "is 'bets'; allowed: 'newest', 'best'",
    ),
    "an unknown measure": (["train", "stacked-digits", "--best-by", "fd_digit"], 2, "did you mean 'fd_digits'"),
    "a word too many": (["norms", "bssn"], 2, "'bssn'"),
    "a truncation of nothing": (["sample", "{run}", "--truncation", "0"], 2, "threshold is 0.0; latents are truncated"),
    "a class of none": (["sample", "{run}", "--label", "3"], 2, "has no classes"),
    "no path to check": (["data", "check"], 2, "needs a path"),
    "a path that is not there": (["data", "check", "nowhere"], 2, "nowhere does not exist"),
    "an unknown action": (["data", "chek"], 2, "invalid choice: 'chek'"),
    "an unknown model": (["models", "sngan-cn"], 2, "did you mean 'sngan-cnn'"),
    "a model's unknown option": (["models", "sngan-cnn", "--widht", "3"], 2, "did you mean 'width'"),
    "a model's option that is no number": (["models", "sngan-cnn", "--width", "wide"], 2, "model.width: given 'wide'"),
    "an option of no model": (["models", "--width", "3"], 2, "poise models NAME"),
}


@pytest.fixture
def surroundings(finished: Run, tmp_path: Path) -> dict[str, str]:
    """Where wrong words may point: a run, a run without checkpoints, and files that are no recipes."""
    shutil.copytree(finished.path, tmp_path / "bare")
    shutil.rmtree(tmp_path / "bare" / "checkpoints")
    for name, text in {"torn": "steps: [", "list": "- steps", "text": "model: 3"}.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    return {"tmp": str(tmp_path), "run": str(finished.path), "bare": str(tmp_path / "bare")}


@pytest.mark.parametrize(("words", "code", "said"), WRONG.values(), ids=WRONG)
def test_a_mistake_costs_one_line_and_the_right_exit_code(
    words: list[str],
    code: int,
    said: str,
    surroundings: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(surroundings["tmp"])
    assert poise(*(word.format(**surroundings) for word in words)) == code
    error = capsys.readouterr().err
    assert error.startswith("poise: ")
    assert error.count("\n") == 1
    assert "Traceback" not in error
    assert re.search(said.format(**surroundings), error), error
    assert not (Path(surroundings["tmp"]) / "runs").exists()


def test_debug_shows_where_an_error_was_raised(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="is no run"):
        poise("sample", tmp_path, "--debug")


def test_a_training_that_fails_says_why_and_leaves_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert poise("train", "stacked-digits", "--out", out, "--quiet", *TINY, "--d-optimizer.lr", "1e30") == 1
    assert re.fullmatch(r"poise: .* at step \d; lower the learning rates.*\n", capsys.readouterr().err)
    assert (out / "report.html").exists()


def test_a_damaged_checkpoint_is_a_one_line_warning(
    run_copy: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_copy.checkpoints / "step-6" / "ema.safetensors").write_bytes(b"")
    assert poise("sample", run_copy.path, "-n", 1, "--out", tmp_path / "grid.png") == 0
    error = capsys.readouterr().err
    assert re.fullmatch(r"poise: warning: .*ema\.safetensors is damaged.*using step-4\n", error)


@pytest.mark.parametrize("full", ["torch.save", "poise.training.checkpoint.save_file"])
def test_a_full_disk_is_one_line(
    full: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each as its library says it: neither torch nor safetensors raises an OSError."""
    from safetensors import SafetensorError

    error: Exception = SafetensorError("I/O error: No space left on device (os error 28)")
    if full == "torch.save":
        error = RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")

    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(full, fail)
    assert poise("train", "stacked-digits", "--out", tmp_path / "run", "--quiet", *TINY) == 1
    assert re.fullmatch(r"poise: .*(No space left|unexpected pos).*\n", capsys.readouterr().err)


def wait_for(found: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    """Until something is there; no longer than two minutes or the process lives."""
    until = time.monotonic() + 120
    while not found() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)


def test_an_interrupted_command_ends_with_130_a_checkpoint_and_a_report(tmp_path: Path) -> None:
    out, recipe = tmp_path / "run", tmp_path / "long.yaml"
    values = yaml.safe_load(shipped_recipes()["stacked-digits"].read_text(encoding="utf-8"))
    values |= {"steps": 10**6, "batch_size": 2, "log_every": 1, "sample_every": 10**6}
    values |= {"evaluate_every": 10**6, "checkpoint_every": 10**6, "model": {**values["model"], "width": 2}}
    recipe.write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "poise.cli", "train", str(recipe), "--out", str(out), "--quiet"]
    quick = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=quick) as process:
        wait_for(lambda: (out / "metrics.jsonl").exists() and (out / "metrics.jsonl").stat().st_size, process)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=120)
    assert process.returncode == 130
    assert re.fullmatch(r"poise: stopped after step \d+ with a checkpoint; --resume goes on from there\n", error)
    assert len(checkpoint.steps(out / "checkpoints")) == 1
    assert (out / "report.html").exists()
