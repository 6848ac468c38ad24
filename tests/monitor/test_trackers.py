"""What was observed reaches the trackers of accelerate, and through them TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import GeneralTracker
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from torch import nn

import poise


class Kept(GeneralTracker):
    """A tracker as accelerate has them for W&B and others."""

    name = "kept"
    requires_logging_directory = False

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, Any]]] = []

    @property
    def tracker(self) -> Any:
        return self.rows

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Nothing."""

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.rows.append((step, values))


def test_accelerates_trackers_get_every_scalar_with_its_step(tmp_path: Path) -> None:
    kept = Kept()
    record: dict[str, Any] = {}
    accelerator = Accelerator(cpu=True, log_with=["tensorboard", kept], project_dir=str(tmp_path))
    try:
        accelerator.init_trackers("run")
        torch.manual_seed(0)
        monitor = poise.Monitor(generator=nn.Linear(3, 2), discriminator=nn.Linear(2, 1), tracker=accelerator.log)
        real, fake = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.5])
        for step in (3, 8):
            record = monitor.observe(step, d_loss=0.25, real_logits=real, fake_logits=fake)
        accelerator.end_training()
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert [step for step, _ in kept.rows] == [3, 8]
    assert kept.rows[-1][1]["ranking"] == record["ranking"]
    (events,) = {path.parent for path in tmp_path.rglob("*tfevents*")}
    board = EventAccumulator(str(events)).Reload()
    assert [(event.step, event.value) for event in board.Scalars("d_loss")] == [(3, 0.25), (8, 0.25)]
    assert board.Scalars("ranking")[-1].value == pytest.approx(record["ranking"]) == 0.75
