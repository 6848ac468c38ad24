"""A full disk: how it is recognized, and what a run does about it."""

from __future__ import annotations

import errno
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from poise.training.checkpoint import steps

FULL = (errno.ENOSPC, errno.EDQUOT)


class DiskFull(RuntimeError):
    """The disk, or a quota on it, is full; the message says what was not written and what is kept."""


def is_full(error: BaseException | None) -> bool:
    """Whether an error says that a disk is full, as Python, safetensors (in its text) or torch (behind it) say it."""
    if error is None:
        return False
    if isinstance(error, OSError):
        return error.errno in FULL
    numbers = re.findall(r"os error (\d+)", str(error))
    return any(int(number) in FULL for number in numbers) or is_full(error.__cause__ or error.__context__)


class Disk:
    """The disk of a run folder: every write of a running training goes through ``writing``.

    Args:
        folder: the run folder.
        when_full: "stop" the run, or "continue" without what could not be written.
        say: where a line about that goes: once for each kind of thing, and once more when there is room for it again.
    """

    def __init__(self, folder: Path, when_full: Literal["stop", "continue"], say: Callable[[str], None]) -> None:
        self.folder, self.when_full, self.say = folder, when_full, say
        self._missing: set[str] = set()

    @contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Around a write that leaves nothing behind where it fails.

        Raises:
            DiskFull: there was no room and the run is to stop. Whatever else goes wrong is raised as it is.
        """
        kind = re.sub(r"\d+", "", what)
        try:
            yield
        except Exception as error:
            if not is_full(error):
                raise
            if self.when_full == "stop":
                raise DiskFull(f"{self.complaint(what)}; free some, then --resume goes on from there") from error
            if kind not in self._missing:
                self.say(f"{self.complaint(what)}; the run goes on")
            self._missing.add(kind)
        else:
            if kind in self._missing:
                self.say(f"the disk has room again: {what} was written")
            self._missing.discard(kind)

    def complaint(self, what: str) -> str:
        """What could not be written, and the newest checkpoint that is there."""
        there = steps(self.folder / "checkpoints")
        kept = f"the checkpoint of step {there[-1]} is kept" if there else "there is no checkpoint yet"
        return f"No space left on device: {what} was not written in {self.folder}, {kept}"


@contextmanager
def quiet_threads() -> Iterator[None]:
    """Let no thread print a traceback of a full disk: TensorBoard's writer raises it again where it is called."""
    before = threading.excepthook

    def hook(found: Any) -> None:
        if not is_full(found.exc_value):
            before(found)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before
