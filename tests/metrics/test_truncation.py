"""Figures over truncation: thresholds by words, each point what a judgement at it gives, real images looked at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from poise.data.digits import StackedDigits
from poise.data.stored import Memory, StoredImages
from poise.data.toys import ring2d
from poise.metrics import Extractor, Preprocessing, features, judge, judging, truncation_curve
from poise.metrics.evaluation import labelled
from poise.metrics.truncation import thresholds
from poise.sampling import Sampler


class Painter(nn.Module):
    """Paints its latent, scaled, into 16 × 16 images, brighter for later classes; batch-normed where asked."""

    latent_dim, resolution = 4, 16

    def __init__(self, classes: int = 0, normed: bool = False) -> None:
        super().__init__()
        self.num_classes = classes
        self.scale = nn.Parameter(torch.tensor(0.3))
        self.norm = nn.BatchNorm1d(4) if normed else nn.Identity()

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        z = self.norm(z) * self.scale + (0 if y is None else 0.2 * y[:, None])
        return z.repeat_interleave(64, 1).view(-1, 1, 16, 16).expand(-1, 3, -1, -1).clamp(-1, 1)


class Means(nn.Module):
    """A mean for each quarter of an image, and classes by the largest."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        found = images[:, 0].unflatten(1, (4, 4)).mean((2, 3))
        return found, found


def real() -> StoredImages:
    pixels = torch.randint(0, 256, (90, 16, 16, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return StoredImages(Memory(pixels), torch.arange(90) % 3, 3, 16)


def means() -> Extractor:
    return Extractor("means", Means(), Preprocessing("none", 16, (127,) * 3, (64,) * 3))


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("POISE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("0.5", [0.5]),
        ("2,1,1", [1, 2]),
        ("0.1,0.2,…,0.5", [0.1, 0.2, 0.3, 0.4, 0.5]),
        ("0.5,1,...,2,4", [0.5, 1, 1.5, 2, 4]),
        (0.7, [0.7]),
        ([1, 0.5], [0.5, 1]),
    ],
)
def test_thresholds(given: Any, found: list[float]) -> None:
    assert thresholds(given) == found


@pytest.mark.parametrize(
    "given", ["", "0", "-1,1", "nan", "a", "1,…,2", "1,2,…", "1,2,…,3.5", "2,1,…,3", "1,1,…,3", "0.001,0.002,…,2", []]
)
def test_other_thresholds_are_refused_in_one_line(given: Any) -> None:
    with pytest.raises(ValueError, match="truncation") as refusal:
        thresholds(given)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("standing", [0, 2])
def test_each_point_is_the_judgement_at_its_threshold(classes: int, standing: int) -> None:
    sampler = Sampler(Painter(classes, normed=True))
    found = truncation_curve(sampler, real(), "0.5,2", 60, 1, "fid,is,pr", means(), standing=standing)
    assert [point["threshold"] for point in found["points"]] == [0.5, 2]
    assert (found["samples"], found["extractor"], found["standing"]) == (60, "means", standing)
    for point in found["points"]:
        shown = labelled(sampler, 60, 1, point["threshold"], standing)
        alone = judge(shown, 60, real(), "fid,is,pr", means())
        assert point["metrics"].keys() == {figure.name for figure in alone.figures}
        for figure in alone.figures:
            assert point["metrics"][figure.name]["value"] == pytest.approx(figure.value)


def test_truncated_latents_vary_less() -> None:
    found = truncation_curve(Sampler(Painter()), real(), "0.1,2", 60, metrics="fid,pr", extractor=means())
    narrow, wide = (point["metrics"] for point in found["points"])
    assert narrow["recall"]["value"] <= wide["recall"]["value"]
    assert narrow["fd_means"]["value"] != wide["fd_means"]["value"]


def test_real_images_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []

    def counted(*arguments: Any) -> Any:
        looked.append(arguments[1])
        return features.reference_features(*arguments)

    monkeypatch.setattr(judging, "reference_features", counted)
    truncation_curve(Sampler(Painter()), real(), "0.5,1,2", 60, metrics="fid", extractor=means())
    assert looked == [90]


def test_stacked_digits_have_their_own_measures() -> None:
    [point] = truncation_curve(Sampler(Painter()), StackedDigits(), 0.5, 20)["points"]
    assert point["metrics"].keys() == {"modes", "kl", "score_digits", "fd_digits"}


def test_what_cannot_be_truncated_or_judged_is_refused() -> None:
    uniform = Sampler(Painter(), lambda *_: torch.zeros(1))
    with pytest.raises(ValueError, match="these latents are not normal"):
        truncation_curve(uniform, StackedDigits(), 0.5, 20)
    with pytest.raises(ValueError, match="samples is 1"):
        truncation_curve(Sampler(Painter()), StackedDigits(), 0.5, 1)
    with pytest.raises(ValueError, match="Points is not judged in an extractor's features"):
        truncation_curve(Sampler(Painter()), ring2d(), 0.5, 20, metrics="fid")
