"""The example runs as shown, and does what it says."""

import runpy
from pathlib import Path

import pytest
import torch

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_discriminator.py"


def test_it_trains_and_prints_a_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 <= runpy.run_path(str(EXAMPLE))["train"](20) <= 8
    assert "step 20: d_loss" in capsys.readouterr().out


@pytest.mark.slow
def test_it_finds_every_mode() -> None:
    torch.manual_seed(0)
    assert runpy.run_path(str(EXAMPLE))["train"](2000) == 8


def test_modes_are_counted_by_nearness() -> None:
    modes_hit = runpy.run_path(str(EXAMPLE))["modes_hit"]
    assert modes_hit(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.99, 0.01]])) == 2
    assert modes_hit(torch.zeros(5, 2)) == 0
