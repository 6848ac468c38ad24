"""What a run writes while it goes: ``metrics.jsonl``, TensorBoard events, sample grids."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import save_image

from poise.data import Images
from poise.training.picture import picture
from poise.training.run import cut_records, to_line


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

    def write_grid(self, samples: Tensor, step: int, data: Images) -> None:
        """Save a ``picture`` of samples as ``samples/step-N.png``."""
        grid = picture(samples, data)
        save_image(grid, self.folder / "samples" / f"step-{step:06d}.png")
        self._board.add_image("samples", grid, step)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._lines.close()
        self._board.close()


def _scalars(prefix: str, value: Any) -> list[tuple[str, float]]:
    if isinstance(value, dict):
        return [pair for key, inner in value.items() for pair in _scalars(f"{prefix}/{key}".lstrip("/"), inner)]
    return [(prefix, value)] if isinstance(value, (int, float)) else []
