"""Checkpoints: bit for bit what was saved, whole or not at all, and any damage is noticed and named."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from poise.training import checkpoint
from poise.training.checkpoint import Checkpoint, CheckpointError, Progress, check, load, newest, save, steps

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
