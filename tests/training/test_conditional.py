"""Runs on pictures of one's own, with labels: what the recipe says of classes, losses and penalties is what happens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import poise
from poise.metrics import evaluation
from poise.training import Recipe, RecipeError, Run, checkpoint, train

GENERATOR = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _no_extractor(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without any: what these tests are about is not how images are judged."""

    def nothing() -> str:
        raise ValueError("no extractor is here")

    monkeypatch.setattr(evaluation, "default_extractor", nothing)


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three classes of four pictures."""
    monkeypatch.setenv("POISE_CACHE", str(tmp_path / "cache"))
    for index in range(12):
        file = tmp_path / "pictures" / f"class {index % 3}" / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(GENERATOR.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(file)
    return tmp_path / "pictures"


def recipe(pictures: Path, **changes: Any) -> Recipe:
    model = {"name": "sngan", "resolution": 32, "width": 4, "latent_dim": 8, "num_classes": 3}
    values: dict[str, Any] = {
        "name": "mine",
        "data": {"name": "folder", "path": str(pictures), "resolution": 32},
        "model": model,
        "d_norm": "sn",
        "loss": "hinge",
        "steps": 3,
        "n_dis": 2,
        "batch_size": 4,
        "log_every": 1,
        "sample_every": 2,
        "device": "cpu",
        "precision": "fp32",
    }
    return Recipe.parse({**values, **changes})


def trained(recipe: Recipe, out: Path, **options: Any) -> tuple[Run, list[str]]:
    said: list[str] = []
    return train(recipe, out, bar=False, say=said.append, **options), said


def test_a_folder_of_classes_trains_a_conditional_pair(pictures: Path, tmp_path: Path) -> None:
    run, said = trained(recipe(pictures), tmp_path / "run")
    assert "there is no judge for folder: the run is not evaluated, look at its samples" in said
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert run.evaluation() is None
    sampler = poise.load(run.path)
    images = sampler.sample(6, y=torch.tensor([0, 1, 2, 0, 1, 2]), seed=0)
    assert images.shape == (6, 32, 32, 3)
    assert not torch.equal(sampler.sample(1, y=0, seed=0), sampler.sample(1, y=1, seed=0))


def test_a_conditional_run_goes_on_bit_for_bit(pictures: Path, tmp_path: Path) -> None:
    penalties = [{"name": "r1", "gamma": 1.0, "every": 2}, {"name": "wgan-gp"}]
    whole = recipe(pictures, penalties=penalties, checkpoint_every=2)
    one, _ = trained(whole, tmp_path / "one")
    other, _ = trained(whole, tmp_path / "other")
    newest = checkpoint.newest(other.checkpoints)[0]
    for file in newest.iterdir():  # as if it had been stopped after step 2
        file.unlink()
    newest.rmdir()
    trained(whole, tmp_path / "other", resume=True)
    saved = [checkpoint.load(checkpoint.newest(run.checkpoints)[0]) for run in (one, other)]
    torch.testing.assert_close(saved[0].networks, saved[1].networks, rtol=0, atol=0)


@pytest.mark.parametrize("loss", ["relativistic", "least-squares", "minimax"])
@pytest.mark.parametrize("conditioning", ["auxiliary", "concat"])
def test_every_loss_takes_labels(pictures: Path, tmp_path: Path, loss: str, conditioning: str) -> None:
    options = recipe(pictures).model.options | {"conditioning": conditioning}
    run, _ = trained(recipe(pictures, loss=loss, model={"name": "sngan", **options}, steps=1), tmp_path / "run")
    (line,) = (json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines())
    assert np.isfinite([line["d_loss"], line["g_loss"]]).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"name": "sngan", "num_classes": 4}}, "model has 4 classes, data has 3: set model.num_classes=3"),
        ({"penalties": [{"name": "r3"}]}, "penalties.0: unknown penalty 'r3'; did you mean 'r"),
        (
            {"penalties": [{"name": "r1", "gama": 1}]},
            "'r1' has no option 'gama'; did you mean 'gamma'",
        ),
        ({"penalties": [{"name": "r1", "gamma": "big"}]}, "penalties.0.gamma: given 'big'"),
        ({"data": {"name": "folder", "path": "nowhere"}}, "data: nowhere does not exist"),
    ],
)
def test_what_does_not_fit_is_said_before_training(
    pictures: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        trained(recipe(pictures, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_penalties_can_be_given_on_the_command_line() -> None:
    given = Recipe.load("stacked-digits", {"penalties": "[{name: r1, gamma: 5, every: 16}]"})
    (penalty,) = given.penalties
    assert (penalty.name, penalty.options) == ("r1", {"gamma": 5.0, "every": 16})
    assert Recipe.parse(yaml.safe_load(given.to_yaml())) == given
