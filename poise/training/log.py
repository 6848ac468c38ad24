"""What a run writes while it goes: ``metrics.jsonl``, TensorBoard events, sample grids; whole lines and files only."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import save_image

from poise.data import Images
from poise.training.disk import Disk, is_full, quiet_threads
from poise.training.picture import picture
from poise.training.run import cut_records, read_records, to_line, write_bytes


class RunLog:
    """The open log of a run folder; a context manager.

    Args:
        folder: the run folder.
        step: where the run stands; what an earlier sitting wrote beyond it is dropped.
        disk: what to do where there is no room; by default to stop.
    """

    def __init__(self, folder: Path, step: int, disk: Disk | None = None) -> None:
        self.folder = folder
        self._disk = disk or Disk(folder, "stop", print)
        self._while_open = ExitStack()
        self._while_open.enter_context(quiet_threads())
        (folder / "samples").mkdir(exist_ok=True)
        self._open(step)

    def _open(self, step: int) -> None:
        path = self.folder / "metrics.jsonl"
        cut_records(path, step)
        # Unbuffered: a line that did not fit must not come out of a buffer later.
        self._lines = path.open("ab", buffering=0)
        self._board: SummaryWriter | None = None
        with self._disk.writing("TensorBoard's file"):
            self._board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=step + 1)

    def write(self, record: dict[str, Any]) -> None:
        """Append one line; its numbers become TensorBoard scalars of the same names."""
        with self._disk.writing(f"the line of step {record['step']} in metrics.jsonl"):
            _append(self._lines, to_line(record).encode())
        with self._drawing() as board:
            for tag, value in _scalars("", record):
                if tag not in ("step", "images") and board:
                    board.add_scalar(tag, value, record["step"])

    def write_grid(self, samples: Tensor, step: int, data: Images) -> None:
        """Save a ``picture`` of samples as ``samples/step-N.png``."""
        grid = picture(samples, data)
        png = io.BytesIO()
        save_image(grid, png, format="png")
        with self._disk.writing(f"the sample grid of step {step}"):
            write_bytes(self.folder / "samples" / f"step-{step:06d}.png", png.getvalue())
        with self._drawing() as board:
            if board:
                board.add_image("samples", grid, step)

    def roll_back(self, step: int, event: dict[str, Any]) -> None:
        """Drop all that was logged after ``step`` but earlier returns, and log the return to it.

        That step is the line's: its checkpoint is written anew with what is changed, so a resumed run keeps the line.
        """
        self._close()
        records = read_records(self.folder / "metrics.jsonl")
        earlier = [record["rollback"] for record in records if "rollback" in record and record["step"] > step]
        self._open(step)
        for one in (*earlier, event):
            self.write({"step": step, "rollback": one})

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._while_open:
            self._close()

    @contextmanager
    def _drawing(self) -> Iterator[SummaryWriter | None]:
        """TensorBoard's writer. Once it found the disk full it is of no more use: None, until the next sitting."""
        with self._disk.writing("TensorBoard's events") if self._board else ExitStack():
            try:
                yield self._board
            except Exception as error:
                if is_full(error):
                    self._board = None
                raise

    def _close(self) -> None:
        self._lines.close()
        with self._drawing() as board:
            if board:
                board.close()


def _append(file: io.FileIO, line: bytes) -> None:
    """Write the whole line or nothing."""
    before = os.fstat(file.fileno()).st_size
    try:
        rest = memoryview(line)
        while rest:
            rest = rest[file.write(rest) :]
    except OSError:
        file.truncate(before)
        raise


class NoLog:
    """The log of a process whose first one writes."""

    def write(self, record: dict[str, Any]) -> None:
        """Nothing."""

    def write_grid(self, samples: Tensor, step: int, data: Images) -> None:
        """Nothing."""

    def roll_back(self, step: int, event: dict[str, Any]) -> None:
        """Nothing."""

    def __enter__(self) -> NoLog:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing."""


def _scalars(prefix: str, value: Any) -> list[tuple[str, float]]:
    if isinstance(value, dict):
        return [pair for key, inner in value.items() for pair in _scalars(f"{prefix}/{key}".lstrip("/"), inner)]
    return [(prefix, value)] if isinstance(value, (int, float)) else []
