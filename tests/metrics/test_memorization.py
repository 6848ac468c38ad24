"""Memorization: neighbours as sorting all distances gives them, copies found, new images let be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from poise import api
from poise.data.stored import Memory, StoredImages
from poise.metrics import Extractor, Preprocessing, judge
from poise.metrics.features import real_batches
from poise.metrics.memorization import nearest_training_images, neighbours
from poise.metrics.sheets import neighbours_sheet, numbered
from poise.metrics.uncertainty import share_interval


def normal(n: int, seed: int, dim: int = 4) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("tile", [7, 32, 1000])
def test_neighbours_are_those_of_all_distances_sorted(tile: int) -> None:
    a, b = normal(50, 0), normal(33, 1)
    distances, order = torch.cdist(b, a).sort(1)
    found, far = neighbours(b, a, 3, tile)
    assert torch.equal(found, order[:, :3])
    torch.testing.assert_close(far, distances[:, :3])


def test_one_does_not_count_as_its_own_neighbour() -> None:
    a = normal(50, 0)
    all_distances = torch.cdist(a, a).fill_diagonal_(torch.inf)
    rows = torch.tensor([4, 40, 11])
    found, far = neighbours(a[rows], a, 1, 16, rows)
    assert torch.equal(found[:, 0], all_distances[rows].argmin(1))
    torch.testing.assert_close(far[:, 0], all_distances[rows].amin(1))


def test_the_threshold_is_the_first_percent_of_distances_between_training_images() -> None:
    real, generated = normal(400, 0), normal(300, 1)
    own = torch.cdist(real, real).fill_diagonal_(torch.inf).amin(1)
    to_real, which = torch.cdist(generated, real).min(1)
    found = nearest_training_images(generated, real, tile=64)
    assert found.threshold == pytest.approx(own.sort().values[3].item())
    assert found.expected == 4 / 400
    assert torch.equal(found.duplicate, to_real <= found.threshold)
    assert torch.equal(found.authentic, to_real > own[which])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_copies_are_all_found_and_none_is_authentic(dtype: torch.dtype) -> None:
    real = (normal(500, 0) + 100).to(dtype)
    found = nearest_training_images(real[100:200].clone(), real)
    assert torch.equal(found.indices[:, 0], torch.arange(100, 200))
    assert found.duplicate.all()
    assert not found.authentic.any()


def test_new_images_of_the_distribution_give_about_one_percent() -> None:
    found = nearest_training_images(normal(4000, 1), normal(4000, 0))
    low, high = share_interval(0.01, 4000)
    assert low - 0.003 < found.duplicate.double().mean() < high + 0.003  # the threshold's own deviation is 0.0016


def test_duplicates_among_training_images_are_told() -> None:
    """50 of 450 images are there twice: only equal images are duplicates, and a fifth of the data are."""
    once = normal(450, 0)
    real = torch.cat([once, once[:50]])
    found = nearest_training_images(normal(200, 1), real)
    assert found.expected == pytest.approx(100 / 500)
    assert found.threshold > 0
    assert found.duplicate.double().mean() < 0.01


def test_too_few_training_images_are_refused() -> None:
    with pytest.raises(ValueError, match="k is 5, of 3 training images; needed: at least 2 images, and k from 1 to 2"):
        nearest_training_images(normal(5, 0), normal(3, 1))


class Pixels(nn.Module):
    """Pixels as features."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def stored(n: int, seed: int) -> StoredImages:
    random = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, 4, 4, 3), generator=random, dtype=torch.uint8)
    return StoredImages(Memory(pixels), torch.zeros(n, dtype=torch.int64), 0, 4)


def test_a_judgement_says_how_many_are_copies_and_shows_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("POISE_CACHE", str(tmp_path))
    real, other = stored(200, 0), stored(50, 1)
    copied = real.store.read(torch.arange(10))
    shown = StoredImages(Memory(torch.cat([copied, other.store.read(torch.arange(40))])), torch.zeros(50).long(), 0, 4)
    extractor = Extractor("pixels", Pixels(), Preprocessing("none", 4))
    batches = real_batches(shown, 50)
    found = judge(batches, 50, real, "memorization", extractor, numbered=lambda numbers: numbered(shown, numbers))
    duplicates, authenticity = found.figures
    assert (duplicates.name, duplicates.better, duplicates.n) == ("duplicates", "lower", 50)
    assert 0.2 <= duplicates.value <= 0.3
    assert duplicates.interval == share_interval(duplicates.value, 50)
    assert "200 training images searched" in duplicates.note
    assert authenticity.value <= 0.8
    picture = found.pictures["neighbours"]
    # Each of the first rows is a copy: the image and its nearest, to the right, look the same.
    for row in range(8):
        top = 16 + 8 + row * (64 + 16)
        image = picture.crop((8, top, 8 + 64, top + 64))
        nearest = picture.crop((8 + 66 + 8, top, 8 + 66 + 8 + 64, top + 64))
        assert image.tobytes() == nearest.tobytes()


def test_the_picture_shows_the_training_image_that_was_nearest() -> None:
    real = stored(30, 0)
    features = torch.cat([images for images, _ in real_batches(real, 30)]).flatten(1).double()
    generated = numbered(real, torch.tensor([7, 3]))
    found = nearest_training_images(generated.flatten(1).double(), features, k=2)
    assert found.indices[:, 0].tolist() == [7, 3]
    assert isinstance(neighbours_sheet(found, lambda numbers: generated[numbers], real), Image.Image)


def test_a_folder_is_checked_against_another_with_its_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POISE_CACHE", str(tmp_path / "cache"))
    pixels = stored(60, 0).store.read(torch.arange(60)).numpy()
    for name, chosen in {"train": range(60), "made": range(5, 15)}.items():
        (tmp_path / name).mkdir()
        for index in chosen:
            large = pixels[index].repeat(4, 0).repeat(4, 1)
            Image.fromarray(large).save(tmp_path / name / f"{index:02}.png")
    options = {"metrics": "memorization", "extractor": "digits", "device": "cpu"}
    found = api.evaluate(
        tmp_path / "made",
        against=str(tmp_path / "train"),
        pictures=tmp_path / "out",
        **options,  # type: ignore[arg-type]
    )
    assert found["metrics"]["duplicates"]["value"] == 1
    assert (tmp_path / "out" / "neighbours.png").is_file()
