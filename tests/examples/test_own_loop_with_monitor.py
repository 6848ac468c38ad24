"""The example runs as shown: healthy while it is left alone, and its failure is named."""

import runpy
from pathlib import Path

import pytest
import torch

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_loop_with_monitor.py"


def test_the_failure_is_named_with_advice(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    monitor = runpy.run_path(str(EXAMPLE))["train"](600, 400)
    out = capsys.readouterr().out
    assert [verdict.name for verdict in monitor.timeline] == ["warming-up", "healthy", "mode-collapse"]
    assert 400 < monitor.verdict.step < 600
    assert "mode-collapse" in out
    assert f"advice: {monitor.advice}" in out
