"""Reconstruction: the same as image by image, right where the answer is known, and G is left as it was."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from poise import api
from poise.cli import main
from poise.data.digits import StackedDigits
from poise.metrics.generators import held_out_options, held_out_source
from poise.metrics.reconstruction import reconstruct
from poise.metrics.sheets import reconstruction_sheet
from poise.models import create
from poise.training import RecipeError
from poise.training.best_network import best_network, reconstruction_by_step


class Linear(nn.Module):
    """``G(z) = Az + b``, and of a class c, ``Az + b + c/10``."""

    resolution, latent_dim = 4, 3

    def __init__(self, num_classes: int = 0) -> None:
        super().__init__()
        self.num_classes = num_classes
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layer = nn.Linear(3, 48).double()
        self.dropout = nn.Dropout(0.5)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        made = self.dropout(self.layer(z)).unflatten(1, (3, 4, 4))
        return made if y is None else made + y.to(made)[:, None, None, None] / 10


def images(n: int, size: int = 4) -> Tensor:
    return 2 * torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 1


def one_by_one(generator: nn.Module, x: Tensor, y: Tensor | None, steps: int) -> Tensor:
    """The search written out for each image alone: z ← z − 0.01·g/(√v + 1e-6), v ← 0.9v + 0.1g²."""
    generator.eval()
    errors = []
    for index in range(len(x)):
        z = torch.zeros(1, int(generator.latent_dim), dtype=x.dtype)  # type: ignore[arg-type]
        v = torch.zeros_like(z)
        labels = () if y is None else (y[index : index + 1],)
        for _ in range(steps):
            z.requires_grad_()
            (g,) = torch.autograd.grad((generator(z, *labels) - x[index]).square().mean(), z)
            v = 0.9 * v + 0.1 * g.square()
            z = (z - 0.01 * g / (v.sqrt() + 1e-6)).detach()
        errors.append((generator(z, *labels) - x[index]).square().mean().detach())
    return torch.stack(errors)


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("batch", [0, 2])
def test_a_batch_is_as_image_by_image(batch: int, labelled: bool) -> None:
    generator, x = Linear(7 * labelled), images(5)
    y = torch.arange(5) if labelled else None
    found = reconstruct(generator, x, y, (3, 20), batch=batch)
    for steps in (3, 20):
        torch.testing.assert_close(found.errors[steps], one_by_one(generator, x, y, steps))


def test_a_network_with_batch_norm_is_searched_image_by_image_too() -> None:
    generator = create("sngan-cnn", resolution=16, width=4, latent_dim=6)[0].double()
    generator(torch.randn(16, 6, dtype=torch.float64))  # statistics of its own
    x = images(3, 16)
    torch.testing.assert_close(reconstruct(generator, x, steps=4).errors[4], one_by_one(generator, x, None, 4))


def test_images_at_zero_cost_nothing_and_stay_there() -> None:
    generator = Linear().eval()
    x = generator(torch.zeros(2, 3, dtype=torch.float64)).detach()
    found = reconstruct(generator, x, steps=(0, 50))
    assert found.errors[0].tolist() == found.errors[50].tolist() == [0, 0]
    assert found.latents.abs().max() == 0


def test_the_error_falls_to_that_of_least_squares() -> None:
    generator, x = Linear(), images(6)
    a, b = generator.layer.weight.detach(), generator.layer.bias.detach()
    left = x.flatten(1) - b
    best = (left - left @ torch.linalg.pinv(a).T @ a.T).square().mean(1)
    errors = reconstruct(generator, x, steps=(0, 50, 600)).errors
    assert (errors[50] < errors[0]).all()
    assert (errors[600] >= best - 1e-12).all()
    torch.testing.assert_close(errors[600], best, rtol=1e-3, atol=0)  # RMSProp of constant rate stays 0.01 away


def test_the_generator_is_left_as_it_was() -> None:
    generator = Linear().train()
    generator.layer.bias.requires_grad_(False)
    before = [p.detach().clone() for p in generator.parameters()]
    with torch.no_grad():  # as in a training's judgement
        reconstruct(generator, images(2), steps=2)
    assert generator.training
    assert generator.dropout.training
    assert [p.requires_grad for p in generator.parameters()] == [True, False]
    assert all(torch.equal(p, old) and p.grad is None for p, old in zip(generator.parameters(), before, strict=True))


def test_bfloat16_searches_about_as_well_and_errors_are_of_full_precision() -> None:
    generator, x = Linear().float(), images(8).float()
    full, half = (reconstruct(generator, x, steps=(0, 200), precision=p) for p in ("fp32", "bf16"))
    assert torch.equal(full.errors[0], half.errors[0])
    torch.testing.assert_close(half.errors[200], full.errors[200], rtol=0.02, atol=0)


def test_the_mean_has_a_95_percent_interval_over_images() -> None:
    found = reconstruct(Linear(), images(9), steps=5)
    value, reach = found.mean(5)
    errors = found.errors[5].tolist()
    mean = sum(errors) / 9
    error = math.sqrt(sum((e - mean) ** 2 for e in errors) / 8 / 9)
    assert value == pytest.approx(mean)
    assert reach == pytest.approx((mean - 1.96 * error, mean + 1.96 * error))
    assert reconstruct(Linear(), images(1), steps=0).mean(0)[1] is None


def test_a_recipe_is_refused_early_where_nothing_is_held_out(tiny: Any) -> None:
    with pytest.raises(RecipeError, match=r"metrics\.0: reconstruction: folder has no images set apart for testing"):
        tiny(**{"data.name": "folder", "metrics": ["reconstruction"]})
    assert tiny(metrics=["reconstruction"], best_by="reconstruction_50").metrics == ["reconstruction"]


WRONG: dict[str, tuple[Any, str]] = {
    "no images": (lambda: reconstruct(Linear(), images(0)), "no held-out images"),
    "another size": (lambda: reconstruct(Linear(), images(2, 5)), r"shape \(2, 3, 5, 5\); this .* \(n, 3, 4, 4\)"),
    "no labels": (lambda: reconstruct(Linear(5), images(2)), "come without labels, and this generator has 5 classes"),
    "labels": (lambda: reconstruct(Linear(), images(2), torch.tensor([0, 1])), "with labels, .* has 0 classes"),
    "a label": (lambda: reconstruct(Linear(5), images(2), torch.tensor([0, 5])), "from 0 to 5; this .* 0 to 4"),
    "negative": (lambda: reconstruct(Linear(), images(2), steps=-1), "steps is -1; give one number or several"),
    "precision": (lambda: reconstruct(Linear(), images(2), precision="fp8"), "precision is 'fp8'; allowed"),
    "no test split": (
        lambda: held_out_source("imagenet", {}),
        "imagenet has no images set apart for testing; give --against",
    ),
    "trained on all": (
        lambda: held_out_source("celeba", {}),
        "training saw all images of celeba; train with split=train, or give --against",
    ),
    "trained on it": (lambda: held_out_source("cifar10", {"split": "test"}), "training saw the test images of cifar10"),
    "no best": (lambda: best_network({2: math.nan}), "none of 1 checkpoints has a finite reconstruction error"),
}


@pytest.mark.parametrize(("wrong", "said"), WRONG.values(), ids=WRONG)
def test_mistakes_are_one_line(wrong: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        wrong()


def test_held_out_digits_are_those_training_never_sees() -> None:
    found = held_out_source("stacked-digits", {"resolution": 8, "split": "train"})
    assert isinstance(found, StackedDigits)
    assert (found.split, found.resolution) == ("test", 8)


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        ("celeba", {"split": "train", "path": "/data"}, {"split": "test", "path": "/data", "flip": False}),
        ("lsun", {}, {"category": "bedroom_val", "flip": False}),
        ("lsun", {"category": "tower_train"}, {"category": "tower_val", "flip": False}),
        ("stl10", {"resolution": 48}, {"split": "test", "resolution": 48, "flip": False}),
    ],
)
def test_what_is_held_out_is_what_its_authors_set_apart(
    name: str, given: dict[str, Any], wanted: dict[str, Any]
) -> None:
    assert held_out_options(name, given) == wanted


def test_the_best_network_is_the_one_of_least_error_and_the_first_of_equals() -> None:
    assert best_network({2: 0.5, 4: math.nan, 6: 0.25, 8: 0.25}) == 6


def test_the_picture_has_targets_beside_reconstructions() -> None:
    generator = Linear().float()
    x = torch.full((3, 3, 4, 4), 200, dtype=torch.uint8)
    found = reconstruct(generator, x, steps=0)
    picture = reconstruction_sheet(generator, x, None, found)
    assert (picture.getpixel((10, 26)), picture.mode) == ((200, 200, 200), "RGB")
    assert picture.getpixel((8 + 64 + 2 + 8 + 3, 26)) != (200, 200, 200)


def test_a_run_is_judged_by_what_it_reconstructs_with_a_picture(run_copy: Any, capsys: Any) -> None:
    asked = ["--samples", "12", "--metrics", "reconstruction", "--checkpoint", "reconstruction", "--device", "cpu"]
    assert main(["evaluate", str(run_copy.path), *asked]) == 0
    kept = json.loads((run_copy.path / "evaluation.json").read_text())
    metric, by_step = kept["metrics"]["reconstruction_50"], kept["reconstruction_by_step"]
    errors = reconstruction_by_step(run_copy, StackedDigits("test"), device="cpu")
    assert {int(step): error for step, error in by_step.items()} == pytest.approx(errors, rel=1e-4)
    assert kept["step"] == best_network(errors)
    assert len(errors) > 1
    assert (metric["n"], metric["better"], kept["extractor"]) == (12, "lower", "pixels")
    assert metric["interval"][0] < metric["value"] < metric["interval"][1]
    assert "reconstruction_50" in capsys.readouterr().out
    with Image.open(run_copy.path / "reconstruction.png") as picture:
        assert picture.size[0] > 4 * 2 * 64


def test_a_generators_file_reconstructs_a_folder_and_a_folder_cannot(run_copy: Any, tmp_path: Path) -> None:
    folder = tmp_path / "held-out"
    folder.mkdir()
    for index, image in enumerate(StackedDigits("test").batch(0, 3)[0]):
        Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(folder / f"{index}.png")
    found = api.evaluate(run_copy, metrics="reconstruction", against=str(folder), device="cpu")
    assert found["metrics"]["reconstruction_50"]["n"] == 3
    with pytest.raises(ValueError, match=r"reconstruction needs a generator, .* has only images; give a run"):
        api.evaluate(folder, metrics="reconstruction", against="stacked-digits", device="cpu")
