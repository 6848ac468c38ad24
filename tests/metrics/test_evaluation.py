"""Judging: real digits come out near perfect, a collapsed generator does not, and a judgement says how it was made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from poise.data.digits import StackedDigits
from poise.data.stored import Memory, StoredImages
from poise.metrics import MEASURES, can_judge, evaluate, evaluation
from poise.metrics.digits_classifier import digits_classifier
from poise.metrics.stacked_digits import judge_stacked_digits
from poise.sampling import Sampler, to_float

REAL = 4000


class Playback(nn.Module):
    """A "generator" that shows the same images again and again."""

    latent_dim, num_classes, resolution = 4, 0, 16

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.images = nn.Parameter(to_float(images))

    def forward(self, z: Tensor) -> Tensor:
        return self.images.repeat(-(-len(z) // len(self.images)), 1, 1, 1)[: len(z)]


def real(n: int) -> Iterator[Tensor]:
    data = StackedDigits()
    return (data.batch(first, 1000)[0] for first in range(0, n, 1000))


def playback(n: int) -> Sampler:
    return Sampler(Playback(StackedDigits().batch(0, n)[0]))


@pytest.fixture(scope="module")
def of_real() -> dict[str, float]:
    return judge_stacked_digits(real(REAL), StackedDigits()).values


@pytest.fixture(scope="module")
def of_one_image() -> dict[str, float]:
    return evaluate(playback(1), StackedDigits(), 50).values


def test_real_digits_cover_the_modes_that_chance_lets_them(of_real: dict[str, float]) -> None:
    p = StackedDigits().mode_distribution()
    assert of_real["modes"] == pytest.approx((1 - (1 - p) ** REAL).sum().item(), abs=15)


def test_real_digits_have_only_the_kl_of_a_finite_sample(of_real: dict[str, float]) -> None:
    bias = 999 / (2 * REAL)  # Miller 1955: (K − 1)/2n for n samples of K modes
    assert of_real["kl"] == pytest.approx(bias, rel=0.2)


def test_real_digits_are_near_in_features_and_far_apart_in_class(
    of_real: dict[str, float], of_one_image: dict[str, float]
) -> None:
    p = StackedDigits().mode_distribution()
    best = (torch.special.entr(p).sum() - 999 / (2 * REAL)).exp().item()  # were each digit certain
    assert 0.85 * best < of_real["score_digits"] < 1.02 * best
    assert 0 <= of_real["fd_digits"] < 0.01 * of_one_image["fd_digits"]


def test_one_image_is_one_mode(of_one_image: dict[str, float]) -> None:
    data = StackedDigits()
    shown = data.batch(0, 1)[1].item()
    assert of_one_image["modes"] == 1
    assert of_one_image["kl"] == pytest.approx(-data.mode_distribution()[int(shown)].log().item())
    assert of_one_image["score_digits"] == pytest.approx(1)


def test_the_datas_statistics_are_those_of_all_its_stacks() -> None:
    """Of a source with 6 digits all 216 stacks are judged: only the n − 1 of the covariance is left to differ."""
    data = StackedDigits()
    data.planes, data.plane_labels = data.planes[:6], data.plane_labels[:6]
    every = torch.cartesian_prod(*[torch.arange(6)] * 3)
    values = judge_stacked_digits(iter(data.planes[every].split(50)), data).values
    features = digits_classifier(16)(to_float(data.planes[:, None]))[0].double()
    variance = 3 * features.var(0, correction=0).sum().item()
    assert values["fd_digits"] == pytest.approx(variance * ((216 / 215) ** 0.5 - 1) ** 2, abs=1e-4 * variance)
    assert values["kl"] == pytest.approx(0, abs=1e-9)


def test_a_judgement_is_the_same_however_batched(monkeypatch: pytest.MonkeyPatch) -> None:
    once = evaluate(playback(7), StackedDigits(), 30).values
    monkeypatch.setattr(evaluation, "BATCH", 7)
    assert evaluate(playback(7), StackedDigits(), 30).values == pytest.approx(once, rel=1e-5)


def test_the_reference_is_held_out_digits() -> None:
    found = evaluate(playback(1), StackedDigits(), 40, seed=3, with_reference=True)
    held_out = StackedDigits("test", seed=3).batch(0, 40)[0]
    assert found.reference == judge_stacked_digits(iter([held_out]), StackedDigits()).values


def test_a_judgement_as_json_says_what_each_figure_is() -> None:
    kept = json.loads(json.dumps(evaluate(playback(1), StackedDigits(), 20, seed=5, with_reference=True).to_json()))
    assert (kept["samples"], kept["seed"], kept["extractor"]) == (20, 5, "digits-classifier")
    assert kept["seconds"] > 0
    assert kept["metrics"].keys() == MEASURES.keys()
    for name, metric in kept["metrics"].items():
        assert metric.keys() == {"value", "unit", "better", "n", "interval", "reference"}
        assert (metric["unit"], metric["better"]) == (MEASURES[name].unit, MEASURES[name].better)


def test_without_a_reference_none_is_kept() -> None:
    found = evaluate(playback(1), StackedDigits(), 20)
    assert all("reference" not in metric for metric in found.to_json()["metrics"].values())
    assert found.to_record().keys() == {*MEASURES, "samples", "seconds"}


@pytest.mark.parametrize("samples", [1, 0, -5])
def test_too_few_samples_are_refused(samples: int) -> None:
    with pytest.raises(ValueError, match=f"samples is {samples}; .* at least 2"):
        evaluate(playback(1), StackedDigits(), samples)


def test_a_source_without_a_judge_is_refused() -> None:
    class Points:
        resolution, num_classes = 2, 0

        def batch(self, start: int, size: int) -> Any:
            return torch.zeros(size, 2), torch.arange(start, start + size)

    assert not can_judge(Points())
    with pytest.raises(ValueError, match=r"no judge for Points; .* StackedDigits, .* one for images"):
        evaluate(playback(1), Points(), 20)


def test_other_images_are_judged_where_an_extractor_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = StoredImages(Memory(torch.zeros(4, 16, 16, 3, dtype=torch.uint8)), torch.zeros(4, dtype=torch.int64), 0, 16)

    def nothing() -> str:
        raise ValueError("no extractor is here")

    assert can_judge(noise)
    monkeypatch.setattr(evaluation, "default_extractor", nothing)
    assert not can_judge(noise)
    assert can_judge(StackedDigits())


def test_digits_can_be_judged_in_features_too() -> None:
    found = evaluate(playback(30), StackedDigits(), 30, metrics="pr,fid", extractor="digits")
    assert list(found.values) == ["precision", "recall", "fd_digits"]
    kept = json.loads(json.dumps(found.to_json()))
    assert (kept["extractor"], kept["samples"], kept["seed"]) == ("digits", 30, 0)
    assert kept["preprocessing"] == "none to 16, minus 127.5, over 127.5"
    low, high = kept["metrics"]["fd_digits"]["interval"]
    assert low < kept["metrics"]["fd_digits"]["value"] < high
    assert found.to_record().keys() == {"precision", "recall", "fd_digits", "samples", "seconds"}
