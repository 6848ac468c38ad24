"""Sampling: image i depends on the seed and on i alone; uint8 and float say the same; wrong requests are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from poise.models import create
from poise.sampling import LATENTS, Sampler, labels, latents, to_float, to_uint8
from poise.sampling import sampler as sampler_module


class Echo(nn.Module):
    """A "generator" with classes that paints its latent and its label."""

    latent_dim, num_classes, resolution = 2, 5, 1

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return torch.cat([z, y[:, None].float()], 1)[:, :, None, None] * self.scale


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    torch.manual_seed(0)
    return Sampler(create("sngan-cnn", resolution=16, width=2, latent_dim=8)[0])


@pytest.fixture(scope="module")
def series(sampler: Sampler) -> Tensor:
    """The first 30 images of seed 7."""
    return sampler.sample(30, seed=7, output="float")


@given(start=st.integers(0, 15), n=st.integers(1, 15), batch=st.integers(1, 15))
@settings(max_examples=30, deadline=None)
def test_an_image_is_the_same_however_it_is_asked_for(
    sampler: Sampler, series: Tensor, start: int, n: int, batch: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler_module, "BATCH", batch)
        drawn = sampler.sample(n, seed=7, output="float", start=start)
    torch.testing.assert_close(drawn, series[start : start + n], rtol=0, atol=1e-5)


@given(start=st.integers(0, 100), size=st.integers(1, 20))
def test_latents_are_the_same_bit_for_bit_wherever_a_batch_starts(sampler: Sampler, start: int, size: int) -> None:
    whole = latents(sampler.generator, 3, 0, start + size)
    assert torch.equal(latents(sampler.generator, 3, start, size), whole[start:])


def test_latents_are_standard_normal(sampler: Sampler) -> None:
    z = latents(sampler.generator, 0, 0, 5000)
    assert z.shape == (5000, 8)
    assert z.mean().item() == pytest.approx(0, abs=0.03)
    assert z.T.cov().sub(torch.eye(8)).abs().max() < 0.08


def test_uint8_is_the_rounded_float_with_channels_last(sampler: Sampler, series: Tensor) -> None:
    pixels = sampler.sample(30, seed=7)
    assert pixels.shape == (30, 16, 16, 3)
    assert series.shape == (30, 3, 16, 16)
    assert (pixels.dtype, series.dtype) == (torch.uint8, torch.float32)
    assert pixels.is_contiguous()
    assert torch.equal(pixels, to_uint8(series).permute(0, 2, 3, 1))


def test_the_seed_says_which_images(sampler: Sampler) -> None:
    assert torch.equal(sampler.sample(3, seed=1), sampler.sample(3, seed=1))
    assert not torch.equal(sampler.sample(3, seed=1), sampler.sample(3, seed=2))
    assert not torch.equal(sampler.sample(3), sampler.sample(3))


def test_sampling_disturbs_neither_the_generator_nor_the_callers_random_numbers(sampler: Sampler) -> None:
    random = torch.get_rng_state()
    before = {name: value.clone() for name, value in sampler.generator.state_dict().items()}
    sampler.sample(5)
    assert torch.equal(torch.get_rng_state(), random)
    torch.testing.assert_close(dict(sampler.generator.state_dict()), before, rtol=0, atol=0)


def test_labels_reach_the_generator_with_their_latents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler_module, "BATCH", 3)
    y = torch.tensor([4, 0, 1, 3, 2, 2, 1])
    drawn = Sampler(Echo()).sample(7, y, seed=0, output="float")[:, :, 0, 0]
    assert torch.equal(drawn[:, 2], y.float())
    assert torch.equal(drawn[:, :2], latents(Echo(), 0, 0, 7))


def test_without_labels_each_image_draws_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Sampler(Echo()).sample(40, seed=3, output="float")[:, 2, 0, 0]
    assert torch.equal(whole, labels(Echo(), 3, 0, 40).float())  # type: ignore[union-attr]
    assert set(whole.tolist()) == {0, 1, 2, 3, 4}
    monkeypatch.setattr(sampler_module, "BATCH", 7)
    parts = [Sampler(Echo()).sample(n, seed=3, output="float", start=s)[:, 2, 0, 0] for s, n in ((0, 15), (15, 25))]
    assert torch.equal(torch.cat(parts), whole)


def test_one_class_for_all_images() -> None:
    drawn = Sampler(Echo()).sample(6, 3, seed=0, output="float")[:, :, 0, 0]
    assert (drawn[:, 2] == 3).all()
    assert torch.equal(drawn[:, :2], latents(Echo(), 0, 0, 6))


def test_truncation_keeps_latents_within_and_the_others_as_they_were() -> None:
    plain, drawn = (Sampler(Echo()).sample(300, seed=0, output="float", truncation=t)[:, :2, 0, 0] for t in (None, 0.7))
    assert drawn.abs().max() <= 0.7
    inside = plain.abs() <= 0.7
    assert torch.equal(drawn[inside], plain[inside])
    assert not torch.equal(drawn, plain.clamp(-0.7, 0.7))


def test_a_sampler_draws_from_the_distribution_its_generator_was_trained_on() -> None:
    sampler = Sampler(Echo(), LATENTS.build("bernoulli"))
    assert set(sampler.sample(50, seed=0, output="float")[:, :2].flatten().tolist()) == {0, 1}
    with pytest.raises(ValueError, match=r"truncation is 0\.5, but these latents are not normal"):
        sampler.sample(1, truncation=0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"y": 5}, "label is 5; .*0 to 4: nearest 4"),
        ({"y": torch.tensor([0, -1])}, "label is -1; .*nearest 0"),
        ({"y": torch.tensor([0.0, 1.0])}, "labels are torch.float32"),
        ({"truncation": 0.0}, "threshold is 0.0; .*above 0"),
        ({"truncation": -1.0}, "threshold is -1.0; .*above 0"),
        ({"standing": -1}, "standing is -1"),
    ],
)
def test_wrong_labels_and_truncations_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampler(Echo()).sample(2, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n is 0; draw at least 1"),
        ({"n": -3}, "n is -3; draw at least 1"),
        ({"n": 1, "output": "jpeg"}, "output is 'jpeg'; allowed: 'uint8' .* and 'float'"),
        ({"n": 1, "y": torch.tensor([0])}, "no classes; leave y out"),
    ],
)
def test_wrong_requests_are_refused(sampler: Sampler, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sampler.sample(**arguments)


@pytest.mark.parametrize("labels", [1, 3, 5])
def test_as_many_labels_as_images_are_asked_for(labels: int) -> None:
    with pytest.raises(ValueError, match=rf"4.*{labels}|{labels}.*4"):
        Sampler(Echo()).sample(4, torch.zeros(labels, dtype=torch.int64))


def test_every_pixel_value_survives_the_way_to_float_and_back() -> None:
    every = torch.arange(256).to(torch.uint8)
    assert torch.equal(to_uint8(to_float(every)), every)
    assert (to_float(every).min(), to_float(every).max()) == (-1, 1)


def test_to_float_leaves_its_input_alone() -> None:
    pixels = torch.arange(256).to(torch.uint8)
    to_float(pixels)
    assert torch.equal(pixels, torch.arange(256).to(torch.uint8))


@given(st.floats(-3, 3, width=32))
def test_to_uint8_rounds_to_nearest_and_clamps(value: float) -> None:
    exact = min(max((value + 1) * 127.5, 0), 255)
    assert abs(to_uint8(torch.tensor([value])).item() - exact) <= 0.5 + 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_to_uint8_takes_any_float_type(dtype: torch.dtype) -> None:
    assert to_uint8(torch.tensor([-1, 0.5, 1], dtype=dtype)).tolist() == [0, 191, 255]
