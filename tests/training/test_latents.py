"""The recipe's latents are those of training, of the sample grids, of judgements and of the loaded run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.utils import save_image

import poise
from poise import noise
from poise.metrics import evaluate
from poise.models.sngan_cnn import SnganCnnGenerator
from poise.sampling import LATENTS, latents
from poise.training import Recipe, RecipeError, train
from poise.training.picture import picture
from poise.training.run import build_latent

CASES = [("uniform", {"low": 0.5, "high": 2.0}), ("bernoulli", {}), ("censored-normal", {})]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_run_uses_its_recipes_latents_everywhere(
    name: str, options: dict[str, float], tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distribution = LATENTS.build(name, **options)
    recipe = tiny(steps=1, **{"latent.name": name, **{f"latent.{key}": value for key, value in options.items()}})
    given: list[torch.Tensor] = []
    forward = SnganCnnGenerator.forward

    def watched(self: Any, z: torch.Tensor, y: Any = None) -> torch.Tensor:
        given.append(z.clone())
        return forward(self, z, y)

    monkeypatch.setattr(SnganCnnGenerator, "forward", watched)
    run = train(recipe, tmp_path / "run", bar=False, say=lambda _: None)
    monkeypatch.undo()
    generator = poise.load(run.path).generator
    streams = {"d-latent": recipe.batch_size, "g-latent": recipe.batch_size, "grid": 64, "latent": 20}
    expected = [latents(generator, 0, 0, size, stream, distribution) for stream, size in streams.items()]
    sizes = [len(z) for z in expected]
    used = [z for z in given if len(z) in sizes]  # the monitor shows the generator a few latents of its own
    assert len(used) == len(expected)
    assert all(torch.equal(*pair) for pair in zip(used, expected, strict=True))

    sampler, data = poise.load(run.path), run.data()
    evaluation = run.evaluation()
    assert evaluation is not None
    values = evaluate(sampler, data, 20).values
    assert {key: entry["value"] for key, entry in evaluation["metrics"].items()} == pytest.approx(values, rel=1e-4)
    with torch.no_grad():
        save_image(picture(generator(expected[2]), data), tmp_path / "grid.png")
        torch.testing.assert_close(sampler.sample(20, seed=0, output="float"), generator(expected[3]))
    assert (tmp_path / "grid.png").read_bytes() == (run.path / "samples" / "step-000001.png").read_bytes()


def test_options_of_latents_out_of_range_are_said_before_training(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"latent: low is 2.0 and high is 1.0; give two finite numbers"):
        train(tiny(**{"latent.name": "uniform", "latent.low": 2}), tmp_path / "run", bar=False, say=lambda _: None)
    assert not (tmp_path / "run").exists()


def test_latents_are_normal_where_nothing_is_said() -> None:
    assert build_latent(Recipe()) is noise.normal
