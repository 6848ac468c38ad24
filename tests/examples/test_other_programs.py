"""Examples of programs that are not ours: the lines that poise adds are few, and every probe works in them."""

from __future__ import annotations

import runpy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import poise

EXAMPLES = Path(__file__).parents[2] / "examples"
NORMALIZED = {
    "vq_autoencoder": {"0", "2", "4"},
    "vocoder_discriminator": {f"parts.{part}.{name}" for part in range(3) for name in ("convs.0", "convs.1", "last")},
    "super_resolution": {"down.0", "down.1", "up.0", "up.1"},
}
"""layers of the discriminator, by example"""


@pytest.mark.parametrize("name", NORMALIZED)
def test_it_trains_under_the_monitor(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    records: list[dict[str, Any]] = []
    example = runpy.run_path(str(EXAMPLES / f"{name}.py"))
    observe = poise.Monitor.observe

    def noted(self: poise.Monitor, *given: Any, **shown: Any) -> dict[str, Any]:
        records.append(observe(self, *given, **shown))
        return records[-1]

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # the monitor warns where it cannot show samples
        patch.setattr(poise.Monitor, "observe", noted)
        monitor = example["train"](25)
    assert "step 25: " in capsys.readouterr().out
    assert set(poise.norms.sigmas(monitor.networks["D"])) == NORMALIZED[name]
    last = {name: value for record in records for name, value in record.items()}  # each probe has a cadence of its own
    assert {"ranking", "diversity", "coverage", "lipschitz", "gradient_norm", "sigma", "stable_rank"} <= last.keys()
    assert {layer.partition(".")[0] for layer in last["hidden_variance"]} == {"G", "D"}
    assert {f"D.{layer}" for layer in NORMALIZED[name]} == last["effective_sigma"].keys()
    assert last["verdict"] != "not-finite"


@pytest.mark.parametrize("name", NORMALIZED)
def test_the_lines_that_poise_adds_are_few_and_marked(name: str) -> None:
    lines = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()
    code = [number for number, line in enumerate(lines) if "poise." in line.partition("#")[0] and "->" not in line]
    assert 1 <= len(code) <= 3
    for number in code:
        assert any("# poise:" in line for line in lines[number - 2 : number + 1]), lines[number]
