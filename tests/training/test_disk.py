"""A full disk: said in one line, the old checkpoint kept, nothing half written; the run stops or goes on as asked."""

from __future__ import annotations

import errno
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from poise.data.digits import StackedDigits
from poise.training import DiskFull, Recipe, Run, checkpoint, train
from poise.training.disk import Disk, is_full
from poise.training.log import RunLog

Tiny = Callable[..., Recipe]
NO_SPACE = OSError(errno.ENOSPC, "No space left on device")


def quiet(recipe: Recipe, out: Path, **options: Any) -> Run:
    return train(recipe, out, bar=False, **{"say": lambda _: None, **options})


def behind(error: BaseException) -> RuntimeError:
    """As torch raises it, with the true reason behind it."""
    outer = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")
    outer.__context__ = error
    return outer


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (NO_SPACE, True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), True),
        (behind(NO_SPACE), True),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (SafetensorError("I/O error: Permission denied (os error 13)"), False),
        (behind(PermissionError(errno.EACCES, "Permission denied")), False),
        (RuntimeError("28"), False),
        (None, False),
    ],
)
def test_a_full_disk_is_known_from_other_errors(error: BaseException | None, full: bool) -> None:
    assert is_full(error) is full


def fails(disk: Disk, what: str, error: Exception = NO_SPACE) -> None:
    with disk.writing(what):
        raise error


def test_going_on_says_it_once_a_kind_and_when_there_is_room_again(tmp_path: Path) -> None:
    said: list[str] = []
    disk = Disk(tmp_path, "continue", said.append)
    for step in (2, 4):
        fails(disk, f"the line of step {step}")
        fails(disk, f"the checkpoint of step {step}")
    assert len(said) == 2
    for step in (6, 8):
        with disk.writing(f"the line of step {step}"):
            pass
    assert said[2:] == ["the disk has room again: the line of step 6 was written"]


def test_stopping_is_one_line_and_other_errors_are_themselves(tmp_path: Path) -> None:
    with pytest.raises(DiskFull) as caught:
        fails(Disk(tmp_path, "stop", print), "the line of step 2")
    assert str(caught.value) == (
        f"No space left on device: the line of step 2 was not written in {tmp_path}, there is no checkpoint yet; "
        "free some, then --resume goes on from there"
    )
    for when in ("stop", "continue"):
        with pytest.raises(PermissionError):
            fails(Disk(tmp_path, when, print), "x", PermissionError(errno.EACCES, "no"))


@pytest.fixture
def full_from(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], pytest.MonkeyPatch]:
    """``full_from(4)``: the second file of the checkpoint of step 4 and of later ones does not fit."""

    def arrange(step: int) -> pytest.MonkeyPatch:
        save_file = checkpoint.save_file

        def full(tensors: Any, path: Path) -> None:
            if int(path.parent.name.split("-")[1].split(".")[0]) >= step and path.stem == "discriminator":
                path.write_bytes(b"half")
                raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
            save_file(tensors, path)

        monkeypatch.setattr(checkpoint, "save_file", full)
        return monkeypatch

    return arrange


def test_a_run_stops_with_the_old_checkpoint_and_goes_on_when_there_is_room(
    tiny: Tiny, tmp_path: Path, full_from: Callable[[int], pytest.MonkeyPatch]
) -> None:
    recipe = tiny(steps=5, checkpoint_every=2, best_by="none")
    whole = quiet(recipe, tmp_path / "whole")
    patch = full_from(4)
    with pytest.raises(
        DiskFull, match=r"No space left.*the checkpoint of step 4 was not written.*step 2 is kept; free"
    ):
        quiet(recipe, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-2"]
    patch.undo()
    run = quiet(recipe, tmp_path / "run", resume=True)
    ours, theirs = (checkpoint.load(r.checkpoints / "step-5") for r in (run, whole))
    torch.testing.assert_close((ours.networks, ours.optimizers), (theirs.networks, theirs.optimizers), rtol=0, atol=0)


def test_a_run_goes_on_if_asked_but_does_not_call_itself_saved(
    tiny: Tiny, tmp_path: Path, full_from: Callable[[int], pytest.MonkeyPatch]
) -> None:
    full_from(3)
    said: list[str] = []
    recipe = tiny(steps=5, checkpoint_every=1, log_every=1, on_disk_full="continue", best_by="none")
    with pytest.raises(
        DiskFull, match=r"the checkpoint of step 5 was not written in .*, the checkpoint of step 2 is kept"
    ):
        quiet(recipe, tmp_path / "run", say=said.append)
    assert sum("No space left on device: the checkpoint of step 3" in line for line in said) == 1
    run = Run(tmp_path / "run")
    assert [record["step"] for record in run.records() if "lr" in record] == [1, 2, 3, 4, 5]
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["step-1", "step-2"]


# A real small disk.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    path = tmp_path / "small"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(path)]
    try:
        made = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"no small disk can be made here: {error}")
    if made.returncode:
        pytest.skip(f"no small disk can be made here: {made.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(folder: Path, leave: int = 0) -> Path:
    """Fill a disk but for so many bytes."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            pass
        file.truncate(max(0, file.tell() - leave))
    return filler


def made(step: int, size: int = 100_000) -> checkpoint.Checkpoint:
    networks = {name: {"weight": torch.full((size,), float(step))} for name in checkpoint.NETWORKS}
    return checkpoint.Checkpoint(networks, {"adam": torch.zeros(size)}, checkpoint.Progress(step))


@pytest.mark.parametrize("leave", [0, 4096, 300_000, 600_000, 900_000, 1_300_000, 1_600_000])
def test_wherever_in_a_checkpoint_the_disk_ends_the_old_one_is_whole(leave: int, small_disk: Path) -> None:
    folder = small_disk / "checkpoints"
    checkpoint.save(folder, made(1))
    filler = fill(small_disk, leave)
    with pytest.raises((OSError, RuntimeError, SafetensorError)) as caught:
        checkpoint.save(folder, made(2))
    assert is_full(caught.value)
    assert [path.name for path in folder.iterdir()] == ["step-1"]
    assert checkpoint.newest(folder) == (folder / "step-1", [])
    filler.unlink()
    checkpoint.save(folder, made(2))
    assert checkpoint.load(folder / "step-2").progress.step == 2


def test_a_log_on_a_full_disk_loses_lines_but_never_half_of_one(
    small_disk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    with RunLog(small_disk, 0, Disk(small_disk, "continue", said.append)) as log:
        log.write({"step": 1, "d_loss": 1.0})
        filler = fill(small_disk)
        for step in range(2, 200):
            log.write({"step": step, "d_loss": 1.0, "much": "x" * 100})
            log.write_grid(torch.zeros(1, 3, 64, 64), 7, StackedDigits())
        filler.unlink()
        log.write({"step": 200, "d_loss": 1.0})
    lines = [json.loads(line)["step"] for line in (small_disk / "metrics.jsonl").read_text().splitlines()]
    assert lines[0] == 1
    assert lines[-1] == 200
    assert len(lines) < 199
    assert 2 <= len(said) <= 6
    assert not (small_disk / "samples" / "step-000007.png").exists()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("when_full", ["stop", "continue"])
def test_a_training_on_a_disk_that_fills_up(
    when_full: str, tiny: Tiny, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = checkpoint.save

    def filling(folder: Path, what: checkpoint.Checkpoint, *keep: Any) -> None:
        save(folder, what, *keep)
        if what.progress.step == 2:
            fill(small_disk)

    recipe = tiny(
        **{"steps": 6, "checkpoint_every": 2, "log_every": 1, "on_disk_full": when_full, "sample_every": 3},
        **{"model.width": 4, "best_by": "none"},
    )
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", filling)
        with pytest.raises(
            DiskFull, match=r"No space left on device: .* was not written .*of step 2 is kept; free some"
        ):
            quiet(recipe, small_disk / "run")
    assert [path.name for path in (small_disk / "run" / "checkpoints").iterdir()] == ["step-2"]
    (small_disk / "filler").unlink()
    assert checkpoint.steps(quiet(recipe, small_disk / "run", resume=True).checkpoints) == [4, 6]
