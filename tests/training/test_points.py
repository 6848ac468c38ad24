"""Runs on points in the plane: pictures, judgement, report and resuming are as for images; errors come early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import poise
from poise.api import sample_grid
from poise.api import train as train_and_report
from poise.data.toys import Mixture, grid, ring
from poise.training import Recipe, RecipeError, Run, checkpoint, train
from poise.training.picture import BLUE, ORANGE, scatter
from poise.training.run import build

SMALL: dict[str, Any] = {
    "name": "points",
    "data": "ring2d",
    "model": {"name": "mlp", "width": 8, "latent_dim": 2},
    "d_norm": "none",
    "penalties": [{"name": "r1", "gamma": 0.1}],
    "loss": "relativistic",
    "steps": 4,
    "batch_size": 16,
    "evaluation_samples": 200,
    "checkpoint_every": 2,
    "sample_every": 2,
    "device": "cpu",
    "precision": "fp32",
}


def trained(out: Path, make: Any = train, **changes: Any) -> Run:
    options = {key: changes.pop(key) for key in ("resume",) if key in changes}
    run: Run = make(Recipe.parse({**SMALL, **changes}), out, bar=False, say=lambda _: None, **options)
    return run


def test_a_run_on_points_leaves_pictures_a_judgement_and_a_report(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", train_and_report)
    evaluation = run.evaluation()
    assert evaluation is not None
    assert evaluation["metrics"].keys() == {"modes", "good"}
    assert evaluation["metrics"]["modes"]["reference"] == 8
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "modes covered (of 8)" in page
    assert "good points, within 3σ of a mode" in page
    for picture in (run.path / "samples" / "step-000004.png", sample_grid(run, tmp_path / "drawn.png", 20)):
        with Image.open(picture) as opened:
            assert opened.size == (480, 480)
    points = poise.load(run.path).sample(30, seed=1)
    assert (points.shape, points.dtype) == ((30, 2), torch.float32)


def test_a_run_on_points_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole")
    parts = trained(tmp_path / "parts")
    newest = checkpoint.newest(parts.checkpoints)[0]
    for file in newest.iterdir():  # as if it had been stopped after step 2
        file.unlink()
    newest.rmdir()
    trained(tmp_path / "parts", resume=True)
    saved = [checkpoint.load(checkpoint.newest(run.checkpoints)[0]).networks for run in (whole, parts)]
    torch.testing.assert_close(*saved, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model": "sngan-cnn"}, "model sngan-cnn makes images, data ring2d has points in the plane"),
        ({"data": "stacked-digits"}, "model mlp makes points in the plane, data stacked-digits has images"),
        ({"augment": ["color"]}, "augment: .* ring2d has points, not images"),
        ({"data": {"name": "ring2d", "modes": 0}}, "data: modes is 0; it must be at least 1"),
    ],
)
def test_what_does_not_fit_is_said_before_training(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        build(Recipe.parse({**SMALL, **changes}))


def coloured(picture: torch.Tensor, colour: str) -> torch.Tensor:
    """Rows and columns, (n, 2), of the pixels that have a colour."""
    wanted = torch.tensor([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return ((picture - wanted.view(3, 1, 1)).abs().amax(0) < 1e-3).nonzero()


@pytest.mark.parametrize("mixture", [ring(), grid(), Mixture(torch.tensor([[1.0, 0.5]]), 0.1)])
def test_a_picture_has_its_points_and_modes_where_they_are(mixture: Mixture) -> None:
    corners = mixture.centres.abs().max() * torch.tensor([[0.7, 0.4], [-0.7, -0.2]])
    beyond = torch.tensor([[1e3, 0.0], [float("nan"), 0.0], [float("inf"), 0.0]])
    picture = scatter(torch.cat([corners, beyond]), mixture)
    assert picture.shape == (3, 480, 480)
    drawn = coloured(scatter(torch.cat([corners, beyond]), Mixture(mixture.centres, 1e-6)), BLUE).float()
    assert len(drawn) == 2 * 3 * 3
    rows = drawn[:, 0].sort().values.view(2, 9).mean(1), drawn[:, 1].sort().values.view(2, 9).mean(1)
    scale = (rows[1][1] - rows[1][0]) / (corners[0, 0] - corners[1, 0])  # pixels a unit
    assert float(rows[0][1] - rows[0][0]) == pytest.approx(float(scale * (corners[0, 1] - corners[1, 1])), abs=2)
    assert len(coloured(picture, ORANGE)) > 0


@pytest.mark.slow
@pytest.mark.parametrize(("name", "modes", "good"), [("ring2d", 8, 0.6), ("grid2d", 24, 0.4)])
def test_a_recipe_of_points_ends_well_in_half_its_steps(name: str, modes: int, good: float, tmp_path: Path) -> None:
    recipe = Recipe.load(name, {"steps": 1500, "seed": 11, "device": "cpu", "evaluate_every": 1500})
    evaluation = train(recipe, tmp_path / "run", bar=False, say=lambda _: None).evaluation()
    assert evaluation is not None
    assert evaluation["metrics"]["modes"]["value"] >= modes
    assert evaluation["metrics"]["good"]["value"] > good
