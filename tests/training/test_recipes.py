"""The shipped recipes: each builds and trains, at reduced width, on pictures of its size made up for the test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import poise
from poise.training import Recipe, shipped_recipes, train
from poise.training.ema import Ema

CLASSES = 3
NARROW = {"sagan": 8, "sngan": 4, "r3gan": 16, "biggan": 8, "biggan-deep": 8, "mlp": 8}


def reduced(name: str, pictures: Path) -> dict[str, Any]:
    """What a test changes: the data's place, widths, batches and length; all else stays."""
    recipe = Recipe.load(name)
    changes: dict[str, Any] = {"steps": 2, "batch_size": 4, "device": "cpu", "precision": "fp32", "log_every": 1}
    changes["model.width"] = NARROW.get(recipe.model.name, 2)
    if recipe.g_batch_size:
        changes["g_batch_size"] = 6
    if recipe.n_dis > 2:
        changes["n_dis"] = 2
    if recipe.data.name in ("stacked-digits", "ring2d", "grid2d"):
        return changes | {"evaluation_samples": 20}
    changes |= {
        "evaluate_every": None,
        "data.name": "folder",
        "data.path": str(pictures),
        "data.resolution": recipe.model.options["resolution"],
    }
    if recipe.model.options.get("num_classes"):
        changes["model.num_classes"] = CLASSES
    return changes


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if "256" in n else []) for n in shipped_recipes()]
)
def test_a_shipped_recipe_trains(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POISE_CACHE", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    for index in range(2 * CLASSES):
        file = tmp_path / "pictures" / f"class {index % CLASSES}" / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(file)
    run = train(
        Recipe.load(name, reduced(name, tmp_path / "pictures")), tmp_path / "run", bar=False, say=lambda _: None
    )
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    losses = [line[loss] for line in lines if "d_loss" in line for loss in ("d_loss", "g_loss")]
    assert len(losses) == 4
    assert np.isfinite(losses).all()
    samples = poise.load(run.path).sample(2, seed=0)
    resolution = run.recipe.model.options.get("resolution")
    assert samples.shape == ((2, resolution, resolution, 3) if resolution else (2, 2))


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_says_where_it_is_from(name: str) -> None:
    text = shipped_recipes()[name].read_text(encoding="utf-8")
    comment = "".join(line for line in text.splitlines() if line.startswith("#"))
    assert any(f"{year}" in comment for year in range(2015, 2026))
    assert Recipe.load(name).name == name


def test_a_normalized_generators_average_keeps_unit_vectors() -> None:
    torch.manual_seed(0)
    network = poise.normalize(torch.nn.Linear(5, 4), "sn")
    ema = Ema(network, 10.0)
    for step in range(1, 6):
        with torch.no_grad():
            next(network.parameters()).add_(torch.randn(()))
            network.get_parameter("parametrizations.weight.original").add_(torch.randn(4, 5))
        network(torch.zeros(1, 5))
        ema.update(network, step)
        for name, vector in ema.module.named_buffers():
            if vector.ndim == 1 and vector.is_floating_point():
                assert vector.norm().item() == pytest.approx(1, abs=1e-5), name
    assert float(torch.linalg.matrix_norm(ema.module.weight, 2)) < 2
