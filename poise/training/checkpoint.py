"""Checkpoints: whole or not there at all.

``checkpoints/step-N/`` holds ``generator.safetensors``, ``discriminator.safetensors``, ``ema.safetensors``,
``optimizers.pt`` (optimizer and random state), ``monitor.pt`` (what the monitor remembers) and ``state.json`` (counters
and a SHA-256 of every other file). It is written under a temporary name, flushed to disk and renamed; the one before it
is kept. What is dropped loses its name before its files. Nothing is unpickled but through torch's ``weights_only``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from poise.monitor.verdict import HEALTHY, WARMING_UP
from poise.training.best import Best
from poise.training.changes import Changes

NETWORKS = ("generator", "discriminator", "ema")


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used; the message names the file, what is wrong, and what remains usable."""


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    step: int = 0
    """generator updates done"""
    images: int = 0
    """real images shown to the discriminator"""
    seconds: float = 0.0
    """wall time spent, over all sittings"""
    best: Best | None = None
    """the best judgement so far"""
    rollbacks: int = 0
    """times the run returned to a checkpoint"""
    changes: Changes = field(default_factory=Changes)
    """what is done otherwise since then"""
    verdict: str = "healthy"
    """the monitor's, or what it had seen a first sign of"""
    spared: int = 0
    """the last step at which a failing verdict was not to be acted on; 0: none since the last return"""

    @property
    def is_healthy(self) -> bool:
        """Whether the monitor had seen no sign of a failure, be it that it had no past to compare with."""
        return self.verdict in (HEALTHY, WARMING_UP)


@dataclass(frozen=True)
class Checkpoint:
    """What is saved: state dicts of the networks, the optimizers' and the random state, the progress, the monitor."""

    networks: dict[str, dict[str, Tensor]]
    optimizers: dict[str, Any]
    progress: Progress
    monitor: dict[str, Any] = field(default_factory=dict)
    """the monitor's state; empty for a training that none watches"""


def save(folder: Path, checkpoint: Checkpoint, keep: int = 2, keep_every: int | None = None) -> Path:
    """Write ``folder/step-N`` whole, then drop what is no longer wanted. Returns its path.

    Kept are the newest ``keep``, as many newest ones that are healthy, the best by the account of each of the newest,
    those of steps that ``keep_every`` divides, and that of step 0 where there is one. Checkpoints of later steps are
    dropped: a run that saves this one went on from before them.

    Raises:
        OSError, SafetensorError, RuntimeError: it cannot be written; nothing of it is left, and no other is touched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    final = folder / f"step-{checkpoint.progress.step}"
    unfinished = folder / f".{final.name}.unfinished"
    unfinished.mkdir()
    try:
        _write(unfinished, checkpoint)
        dropped = _rename_away(final) if final.exists() else None
        unfinished.rename(final)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    _flush(folder)
    if dropped:
        shutil.rmtree(dropped)
    prune(folder, checkpoint.progress.step, keep, keep_every)
    return final


def prune(folder: Path, last: int, keep: int = 2, keep_every: int | None = None) -> None:
    """Drop what ``save`` drops after the checkpoint of step ``last``, and what a crash left half dropped."""
    _clear(folder)
    wanted = _wanted(folder, last, keep, keep_every)
    for step in steps(folder):
        if step not in wanted:
            shutil.rmtree(_rename_away(folder / f"step-{step}"))


def _clear(folder: Path) -> None:
    """Delete what a crash left without a name."""
    for left in folder.glob(".step-*"):
        shutil.rmtree(left, ignore_errors=True)


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    """All files of a checkpoint, flushed to disk."""
    for name, tensors in checkpoint.networks.items():
        # Cloned: two names of one tensor, as of a shared γ, are two tensors in the file.
        separate = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}
        save_file(separate, folder / f"{name}.safetensors")
    with (folder / "optimizers.pt").open("wb") as file:  # opened here, so that a full disk is an OSError
        torch.save(checkpoint.optimizers, file)
    if checkpoint.monitor:
        with (folder / "monitor.pt").open("wb") as file:
            torch.save(checkpoint.monitor, file)
    sums = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    state = _signed({**asdict(checkpoint.progress), "sha256": sums})
    (folder / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    for path in folder.iterdir():
        _flush(path)
    _flush(folder)


def _wanted(folder: Path, last: int, keep: int, keep_every: int | None) -> set[int]:
    """Steps of the checkpoints to keep after saving that of step ``last``."""
    earlier = [step for step in steps(folder) if step <= last]
    wanted = {*earlier[-keep:], *(step for step in earlier if step == 0)}
    healthy = 0
    for step in reversed(earlier):
        if healthy >= keep and step not in earlier[-keep:]:
            break
        try:
            found = check(folder / f"step-{step}", needed=())
        except CheckpointError:
            continue
        if found.best and step in earlier[-keep:]:
            wanted.add(found.best.step)
        if found.is_healthy and healthy < keep:
            wanted.add(step)
            healthy += 1
    return wanted | {step for step in earlier if keep_every and step and step % keep_every == 0}


def _rename_away(path: Path) -> Path:
    """Take a checkpoint's name, so that a crash while its files are deleted leaves no half of one under it."""
    dropped = path.with_name(f".{path.name}.dropped")
    return path.rename(dropped)


def steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder, oldest first."""
    if not folder.is_dir():
        return []
    names = [path.name.removeprefix("step-") for path in folder.iterdir() if path.name.startswith("step-")]
    return sorted(int(name) for name in names if name.isdigit())


def check(path: Path, needed: Collection[str] | None = None) -> Progress:
    """Read a checkpoint's progress after comparing its files with their checksums.

    Args:
        needed: names of the files to check; all by default.

    Raises:
        CheckpointError: a file is missing or damaged; the message names it.
    """
    state_path = path / "state.json"
    try:
        state = json.loads(state_path.read_text(encoding="utf-8"))
        if state != _signed({name: value for name, value in state.items() if name != "state"}):
            raise ValueError
        sums, progress = state["sha256"], _progress(state)
    except OSError:
        raise CheckpointError(f"{state_path} is missing") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{state_path} is damaged") from None
    for name, wanted in sums.items():
        if needed is not None and name not in needed:
            continue
        try:
            found = _sha256(path / name)
        except OSError:
            raise CheckpointError(f"{path / name} is missing") from None
        if found != wanted:
            raise CheckpointError(f"{path / name} is damaged: its checksum differs from the one in state.json")
    return progress


def newest(folder: Path, needed: Collection[str] | None = None) -> tuple[Path, list[str]]:
    """The newest checkpoint whose ``needed`` files (all by default) are whole, and a line for each one passed over.

    Raises:
        CheckpointError: there is none; the message says what is wrong with each.
    """
    complaints: list[str] = []
    for step in reversed(steps(folder)):
        path = folder / f"step-{step}"
        try:
            check(path, needed)
        except CheckpointError as error:
            complaints.append(str(error))
            continue
        return path, [f"{complaint}; using {path.name}" for complaint in complaints]
    found = "; ".join(complaints) or f"{folder} holds no checkpoint"
    raise CheckpointError(
        f"{found}; no checkpoint is usable, the recipe, metrics and samples beside it still are: "
        "train again with --overwrite or into another --out"
    )


def find(folder: Path, which: str | int = "newest", needed: Collection[str] | None = None) -> tuple[Path, list[str]]:
    """The checkpoint asked for, its ``needed`` files (all by default) whole, and a line for each one passed over.

    Args:
        which: "newest", "best", or a step. Of the newest, damaged ones are passed over; of the others they are errors.

    Raises:
        CheckpointError: it is not there or damaged.
        ValueError: ``which`` is none of the three.
    """
    if which == "newest":
        return newest(folder, needed)
    there = ", ".join(map(str, steps(folder))) or "none"
    if which == "best":
        path, complaints = newest(folder, needed=())
        best = check(path, needed=()).best
        if best is None:
            raise CheckpointError(
                f"{folder} has no best checkpoint: none was judged, or best_by is none; there are newest and {there}"
            )
        step = best.step
    elif str(which).isdecimal():
        step, complaints = int(which), []
    else:
        raise ValueError(f"checkpoint is {which!r}; allowed: 'newest', 'best' or a step, one of {there}")
    path = folder / f"step-{step}"
    if not path.is_dir():
        raise CheckpointError(f"{folder} holds no checkpoint of step {step}; it holds {there}")
    try:
        check(path, needed)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; give another checkpoint: newest, or one of {there}") from None
    return path, complaints


def load_network(path: Path, name: str) -> dict[str, Tensor]:
    """State dict of one network ("generator", "discriminator", "ema") of a checkpoint that ``newest`` gave."""
    return load_file(path / f"{name}.safetensors")


def load(path: Path) -> Checkpoint:
    """Read a checkpoint whole, after ``check``."""
    progress = check(path)
    networks = {name: load_network(path, name) for name in NETWORKS}
    optimizers = torch.load(path / "optimizers.pt", map_location="cpu", weights_only=True)
    kept = path / "monitor.pt"
    monitor = torch.load(kept, map_location="cpu", weights_only=True) if kept.exists() else {}
    return Checkpoint(networks, optimizers, progress, monitor)


def _progress(state: dict[str, Any]) -> Progress:
    known = {field.name: state[field.name] for field in fields(Progress) if field.name in state}
    best, changes = known.pop("best", None), known.pop("changes", {})
    return Progress(**known, best=Best(**best) if best else None, changes=Changes(**changes))


def _signed(state: dict[str, Any]) -> dict[str, Any]:
    """The state with a checksum of itself, as "state"."""
    return {**state, "state": hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
