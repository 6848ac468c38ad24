"""Features of images: the same however batched, each real one once, and a kept reference that no damage spoils."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from poise.data.stored import Memory, StoredImages
from poise.metrics import Extractor, Preprocessing, features
from poise.metrics.features import data_fingerprint, extract, real_batches, reference_features


def extractor(seed: int = 0) -> Extractor:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 6))
    return Extractor("linear", network, Preprocessing("none", 8)).to()


def stored(n: int = 50, seed: int = 0) -> StoredImages:
    random = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, 8, 8, 3), generator=random, dtype=torch.uint8)
    return StoredImages(Memory(pixels), torch.arange(n) % 5, 5, 8, flip=True)


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("POISE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "references"


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "extract", lambda *_, **__: pytest.fail("extracted in spite of a cache"))


def test_every_real_image_comes_once_with_its_label_and_not_mirrored() -> None:
    data = stored()
    assert isinstance(data.store, Memory)
    images, labels = zip(*real_batches(data, 50, size=7), strict=True)
    rows = torch.cat(images).permute(0, 2, 3, 1).flatten(1).tolist()
    kept = data.store.pixels.flatten(1).tolist()
    assert sorted(rows) == sorted(kept)
    assert [kept.index(row) % 5 for row in rows] == torch.cat(labels).tolist()


@pytest.mark.parametrize("size", [50, 13, 1])
def test_statistics_are_those_of_all_features(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "BATCH", 10)
    found = extract(real_batches(stored(), 50, size), 50, extractor(), keep=True)
    assert found.features is not None
    torch.testing.assert_close(found.mean, found.features.double().mean(0))
    torch.testing.assert_close(found.covariance, found.features.double().T.cov())


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("mean", "covariance", "features", "labels"))


def test_a_reference_is_made_once_and_then_read(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = reference_features(stored(), 50, extractor(), keep=20)
    assert made.features is not None
    assert len(made.features) == 20
    forbid(monkeypatch)
    assert same(made, reference_features(stored(), 50, extractor(), keep=20))
    assert len(list(cache.iterdir())) == 1


CHANGED: dict[str, Any] = {
    "an image": lambda: reference_features(stored(seed=1), 50, extractor(), 20),
    "number": lambda: reference_features(stored(), 49, extractor(), 20),
    "weights": lambda: reference_features(stored(), 50, extractor(1), 20),
    "precision": lambda: reference_features(stored(), 50, extractor().to(precision="bf16"), 20),
    "kept": lambda: reference_features(stored(), 50, extractor(), 21),
}


@pytest.mark.parametrize("change", CHANGED)
def test_whatever_changes_the_figures_makes_another_reference(change: str, cache: Path) -> None:
    reference_features(stored(), 50, extractor(), 20)
    CHANGED[change]()
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("damage", ["empty", "truncated", "a flipped bit"])
def test_a_damaged_reference_is_made_anew(damage: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = reference_features(stored(), 50, extractor(), keep=20)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    flipped = whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:]
    file.write_bytes({"empty": b"", "truncated": whole[:-9], "a flipped bit": flipped}[damage])
    assert same(made, reference_features(stored(), 50, extractor(), keep=20))
    forbid(monkeypatch)
    assert same(made, reference_features(stored(), 50, extractor(), keep=20))


def test_a_cache_that_cannot_be_written_costs_nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("no folder")
    monkeypatch.setenv("POISE_CACHE", str(tmp_path / "a file"))
    assert reference_features(stored(), 50, extractor()).n == 50


def test_one_changed_pixel_is_another_fingerprint() -> None:
    data = stored()
    before = data_fingerprint(data, 50)
    assert before == data_fingerprint(stored(), 50)
    assert isinstance(data.store, Memory)
    data.store.pixels[17, 3, 3, 1] ^= 1
    assert data_fingerprint(data, 50) != before


def test_one_image_and_a_score_without_classes_are_refused() -> None:
    image: Tensor = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"1 images were judged; .* at least 2"):
        extract([(image, None)], 1, extractor())
    with pytest.raises(ValueError, match="linear gives no classes"):
        extract([(image, None)], 1, extractor(), splits=1)
