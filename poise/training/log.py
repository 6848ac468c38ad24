"""What a run writes while it goes: ``metrics.jsonl``, TensorBoard events, sample grids."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import make_grid, save_image

from poise.training.run import cut_records, to_line

COLUMNS = 8


class RunLog:
    """The open log of a run folder; a context manager.

    Args:
        folder: the run folder.
        step: where the run stands; what an earlier sitting wrote beyond it is dropped.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.folder = folder
        path = folder / "metrics.jsonl"
        cut_records(path, step)
        self._lines = path.open("a", encoding="utf-8", buffering=1)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        (folder / "samples").mkdir(exist_ok=True)

    def write(self, record: dict[str, Any]) -> None:
        """Append one line; its numbers become TensorBoard scalars of the same names."""
        self._lines.write(to_line(record))
        for tag, value in _scalars("", record):
            if tag not in ("step", "images"):
                self._board.add_scalar(tag, value, record["step"])

    def write_grid(self, images: Tensor, step: int) -> None:
        """Save images in [−1, 1], (n, 3, H, W), as ``samples/step-N.png``."""
        grid = make_grid(images, nrow=COLUMNS, padding=1, normalize=True, value_range=(-1, 1))
        save_image(grid, self.folder / "samples" / f"step-{step:06d}.png")
        self._board.add_image("samples", grid, step)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._lines.close()
        self._board.close()


class NoLog:
    """The log of a process whose first one writes."""

    def write(self, record: dict[str, Any]) -> None:
        """Nothing."""

    def write_grid(self, images: Tensor, step: int) -> None:
        """Nothing."""

    def __enter__(self) -> NoLog:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing."""


def _scalars(prefix: str, value: Any) -> list[tuple[str, float]]:
    if isinstance(value, dict):
        return [pair for key, inner in value.items() for pair in _scalars(f"{prefix}/{key}".lstrip("/"), inner)]
    return [(prefix, value)] if isinstance(value, (int, float)) else []
