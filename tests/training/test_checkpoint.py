"""Checkpoints: bit for bit what was saved, whole or not at all, and any damage is noticed and named."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from poise.training import checkpoint
from poise.training.best import Best
from poise.training.checkpoint import Checkpoint, CheckpointError, Progress, check, find, load, newest, save, steps

FILES = ["generator.safetensors", "discriminator.safetensors", "ema.safetensors", "optimizers.pt", "state.json"]


def made(step: int = 1) -> Checkpoint:
    """Small, with every kind of content a training has: scalars, whole numbers, other layouts, an optimizer."""
    torch.manual_seed(step)
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).to(memory_format=torch.channels_last)
    adam = torch.optim.Adam(module.parameters())
    module(torch.randn(2, 2, 4, 4)).sum().backward()
    adam.step()
    networks = {name: module.state_dict() for name in checkpoint.NETWORKS}
    networks["ema"] = {"half": torch.randn(3).bfloat16(), "nan": torch.tensor(torch.nan), "empty": torch.zeros(0, 2)}
    optimizers = {"generator": adam.state_dict(), "random": torch.get_rng_state()}
    return Checkpoint(networks, optimizers, Progress(step, 8 * step, step / 3))


def saved(folder: Path, *at: int) -> Path:
    for step in at:
        save(folder, made(step))
    return folder


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path, byte: int | None = None) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if byte is None else byte] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "missing": Path.unlink,
    "empty": empty,
    "truncated": truncate,
    "flipped": flip,
}


def assert_same(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    before = made(3)
    after = load(save(tmp_path / "checkpoints", before))
    assert_same(after.networks, {name: dict(tensors) for name, tensors in before.networks.items()})
    assert_same(after.optimizers["random"], before.optimizers["random"])
    assert_same(after.optimizers["generator"]["state"], before.optimizers["generator"]["state"])
    assert after.optimizers["generator"]["param_groups"] == before.optimizers["generator"]["param_groups"]
    assert after.progress == before.progress


def test_a_checkpoint_is_the_files_the_contract_names(tmp_path: Path) -> None:
    assert sorted(path.name for path in save(tmp_path, made(12)).iterdir()) == sorted(FILES)
    assert [path.name for path in tmp_path.iterdir()] == ["step-12"]


def test_the_newest_two_are_kept_by_number_not_by_name(tmp_path: Path) -> None:
    assert steps(saved(tmp_path, 8, 9, 10, 100)) == [10, 100]


@pytest.mark.parametrize(
    ("keep", "keep_every", "bests", "expected"),
    [
        (1, None, {}, [10]),
        (3, None, {}, [6, 8, 10]),
        (1, 4, {}, [4, 8, 10]),
        (2, None, {2: 2, 4: 2, 6: 2, 8: 2, 10: 2}, [2, 8, 10]),
        (1, None, {2: 2, 4: 2, 6: 2, 8: 8, 10: 8}, [8, 10]),
        (2, None, {2: 2, 4: 2, 6: 2, 8: 2, 10: 10}, [2, 8, 10]),  # should step 10 be damaged, 8 still finds its best
        (1, None, {2: 2, 4: 2, 6: 2, 8: 2, 10: 10}, [10]),
    ],
)
def test_kept_are_the_newest_the_best_and_those_for_good(
    keep: int, keep_every: int | None, bests: dict[int, int], expected: list[int], tmp_path: Path
) -> None:
    for step in (2, 4, 6, 8, 10):
        best = Best(bests[step], "modes", 1.0) if step in bests else None
        save(tmp_path, replace(made(step), progress=Progress(step, best=best)), keep, keep_every)
    assert steps(tmp_path) == expected
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_checkpoints_of_an_abandoned_future_are_dropped(tmp_path: Path) -> None:
    """A run that went on from step 2, as 6 and 8 were damaged, must not lose its own for theirs."""
    saved(tmp_path, 2, 6, 8)
    save(tmp_path, made(2))
    save(tmp_path, made(4))
    assert steps(tmp_path) == [2, 4]


class Killed(BaseException):
    """Stands for the end of the process."""


DEADLINE: list[int] = []
"""changes of the disk until the process is as good as dead: from then on it can change nothing more"""


def dying(event: str, arguments: tuple[Any, ...]) -> None:
    if not DEADLINE or event not in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"):
        return
    if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
        return
    tick()


def tick() -> None:
    if DEADLINE:
        DEADLINE[0] -= 1
        if DEADLINE[0] < 0:
            raise Killed


def ticking(call: Callable[..., Any]) -> Callable[..., Any]:
    """The call, as a change of the disk: Python tells its hooks nothing of these."""

    def wrapped(*arguments: Any) -> Any:
        tick()
        return call(*arguments)

    return wrapped


sys.addaudithook(dying)


def dies(after: int, call: Callable[[], object]) -> bool:
    """Whether the call was cut short after so many changes of the disk."""
    DEADLINE.append(after)
    try:
        call()
    except Killed:
        return True
    finally:
        DEADLINE.clear()
    return False


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("keep", [1, 2])
def test_a_crash_at_any_moment_of_a_save_leaves_a_readable_newest(
    keep: int, again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saving a new step, or one that is there already; the save after the crash then leaves what it should."""
    monkeypatch.setattr(os, "fsync", ticking(os.fsync))
    monkeypatch.setattr(checkpoint, "save_file", ticking(checkpoint.save_file))
    best = Best(2, "modes", 1.0)
    first = tmp_path / "first"
    for step in (2, 4, 6) if again else (2, 4):
        save(first, replace(made(step), progress=Progress(step, best=best)))
    new = replace(made(6), progress=Progress(6, 99, best=Best(6, "modes", 2.0)))
    moments = 0
    while True:
        folder = tmp_path / f"{moments}"
        shutil.copytree(first, folder)
        if not dies(moments, lambda folder=folder: save(folder, new, keep)):  # type: ignore[misc]
            break
        moments += 1
        path, complaints = newest(folder)
        assert complaints == []
        assert path.name in ("step-4", "step-6")
        assert find(folder, "best")[0].name in ("step-2", "step-6")
        save(folder, new, keep)
        assert load(newest(folder)[0]).progress == new.progress
        assert steps(folder) == ([2, 4, 6] if keep == 2 else [6])
        assert [path.name for path in folder.glob(".*")] == []
    assert moments > 10


def test_a_checkpoint_is_found_by_what_it_is(tmp_path: Path) -> None:
    best = Best(2, "modes", 1.0)
    for step in (2, 4, 6):
        save(tmp_path, replace(made(step), progress=Progress(step, best=best)))
    wanted: dict[str | int, int] = {"newest": 6, "best": 2, 4: 4, "4": 4}
    assert {which: check(find(tmp_path, which)[0]).step for which in wanted} == wanted


@pytest.mark.parametrize(
    ("which", "error", "said"),
    [
        (
            "best",
            CheckpointError,
            "has no best checkpoint: none was judged, or best_by is none; there are newest and 2, 4",
        ),
        (3, CheckpointError, "holds no checkpoint of step 3; it holds 2, 4"),
        ("wrong", ValueError, "checkpoint is 'wrong'; allowed: 'newest', 'best' or a step, one of 2, 4"),
        ("-1", ValueError, "allowed: 'newest', 'best' or a step"),
    ],
)
def test_a_checkpoint_that_is_not_there_is_one_line(
    which: str | int, error: type[Exception], said: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=said):
        find(saved(tmp_path, 2, 4), which)


def test_a_damaged_one_that_was_asked_for_is_an_error_not_another(tmp_path: Path) -> None:
    flip(saved(tmp_path, 2, 4) / "step-4" / "ema.safetensors")
    with pytest.raises(CheckpointError, match=r"step-4/ema.safetensors is damaged: .*; give another checkpoint"):
        find(tmp_path, 4)


def test_what_a_crash_left_unfinished_is_ignored_and_then_replaced(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    unfinished = tmp_path / ".step-2.unfinished"
    unfinished.mkdir()
    (unfinished / "junk").write_text("half a checkpoint")
    assert newest(tmp_path) == (tmp_path / "step-1", [])
    saved(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1", "step-2"]
    assert sorted(path.name for path in (tmp_path / "step-2").iterdir()) == sorted(FILES)


@pytest.mark.parametrize("call", ["os.fsync", "os.rename", "torch.save", "poise.training.checkpoint.save_file"])
def test_a_save_that_fails_leaves_the_one_before(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 1)

    def fail(*arguments: object, **options: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(call, fail)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, made(2))
    assert newest(tmp_path) == (tmp_path / "step-1", [])


def name_of(descriptor: int) -> Path:
    return Path(f"/proc/self/fd/{descriptor}").readlink()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are named under /proc only")
def test_every_file_is_on_disk_before_the_name_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(name_of(descriptor)))
    save(tmp_path, made(1))
    unfinished = tmp_path / ".step-1.unfinished"
    assert {unfinished / name for name in FILES} | {unfinished, tmp_path} == set(flushed)


@pytest.mark.parametrize("place", [0, 9, 0.3, 0.7, -1])
@pytest.mark.parametrize("file", FILES)
def test_a_bit_flipped_or_an_end_cut_off_anywhere_is_noticed(file: str, place: float, tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    path = tmp_path / "step-2" / file
    whole = path.read_bytes()
    at = int(place * len(whole)) if isinstance(place, float) else place
    flip(path, at)
    assert newest(tmp_path)[0] == tmp_path / "step-1"
    path.write_bytes(whole[:at])
    found, complaints = newest(tmp_path)
    assert found == tmp_path / "step-1"
    assert complaints[0].endswith("; using step-1")
    path.write_bytes(whole)
    assert newest(tmp_path) == (tmp_path / "step-2", [])


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_checkpoint_is_passed_over_and_its_file_named(file: str, damage: str, tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    DAMAGES[damage](tmp_path / "step-2" / file)
    path, complaints = newest(tmp_path)
    assert path == tmp_path / "step-1"
    assert len(complaints) == 1
    assert complaints[0].endswith("; using step-1")
    if (file, damage) != ("state.json", "flipped"):  # a flipped checksum speaks of the file it belongs to
        assert str(tmp_path / "step-2" / file) in complaints[0]


def test_any_flipped_bit_of_the_state_is_noticed_or_harmless(tmp_path: Path) -> None:
    path = save(tmp_path, made(4))
    state, whole = path / "state.json", (path / "state.json").read_bytes()
    unnoticed = []
    for byte in range(len(whole)):
        flip(state, byte)
        try:
            if check(path) != made(4).progress:
                unnoticed.append(whole[max(0, byte - 12) : byte + 2].decode())
        except CheckpointError:
            pass
        state.write_bytes(whole)
    assert unnoticed == []


@pytest.mark.parametrize(
    "garbage",
    ["", "{", "null", "3", "[]", '"sha256"', "{}", '{"sha256": {}}', '{"sha256": 3}', '{"sha256": {}, "stp": 3}', "\0"],
)
def test_a_state_that_makes_no_sense_is_damage(garbage: str, tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    (tmp_path / "step-2" / "state.json").write_text(garbage)
    path, complaints = newest(tmp_path)
    assert path == tmp_path / "step-1"
    assert str(tmp_path / "step-2") in complaints[0]


def test_an_empty_folder_and_a_stray_file_are_no_checkpoints(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    (tmp_path / "step-2").mkdir()
    (tmp_path / "step-3").write_text("not a folder")
    (tmp_path / "step-x").mkdir()
    path, complaints = newest(tmp_path)
    assert path == tmp_path / "step-1"
    assert any(str(tmp_path / "step-2") in complaint for complaint in complaints)


def test_where_none_is_usable_each_is_named_with_what_is_left(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    truncate(tmp_path / "step-1" / "ema.safetensors")
    flip(tmp_path / "step-2" / "optimizers.pt")
    with pytest.raises(CheckpointError) as caught:
        newest(tmp_path)
    for part in ("step-1/ema.safetensors is damaged", "step-2/optimizers.pt is damaged", "recipe, metrics and samples"):
        assert part in str(caught.value)


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_without_checkpoints_says_so(exists: bool, tmp_path: Path) -> None:
    folder = tmp_path if exists else tmp_path / "nowhere"
    assert steps(folder) == []
    with pytest.raises(CheckpointError, match=f"{folder} holds no checkpoint"):
        newest(folder)


def test_load_refuses_what_check_refuses(tmp_path: Path) -> None:
    path = save(tmp_path, made(1))
    truncate(path / "generator.safetensors")
    with pytest.raises(CheckpointError, match=r"generator\.safetensors is damaged"):
        load(path)


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    path = save(tmp_path, made(1))
    truncate(path / "ema.safetensors")
    save(tmp_path, replace(made(1), progress=Progress(1, 2, 3.0)))
    assert load(path).progress == Progress(1, 2, 3.0)


class Harmful:
    """What a hostile checkpoint would hold: an object whose unpickling makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    harmful = replace(made(1), optimizers={"generator": Harmful(tmp_path / "harmed")})
    with pytest.raises((pickle.UnpicklingError, CheckpointError)):
        load(save(tmp_path / "checkpoints", harmful))
    assert not (tmp_path / "harmed").exists()


def test_a_checkpoint_can_be_moved(tmp_path: Path) -> None:
    save(tmp_path / "a", made(1))
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert load(newest(tmp_path / "b")[0]).progress.step == 1
