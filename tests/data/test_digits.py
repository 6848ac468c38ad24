"""Stacked digits: the split, the enlargement, images as a function of their position, and the distribution of modes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.datasets import load_digits

from poise.data import SOURCES
from poise.data.digits import StackedDigits, digits

SPLITS = ["train", "test"]
EACH_SPLIT = pytest.mark.parametrize("split", SPLITS)


def as_rows(planes):
    return [tuple(row) for row in planes.flatten(1).tolist()]


def test_splits_hold_every_digit_once():
    (train, _), (test, _) = digits("train", 8), digits("test", 8)
    assert (len(train), len(test)) == (1437, 360)
    # Ink of 0 to 16 becomes 0 to 255. No two of the 1,797 digits are alike, so sorting tells them apart.
    everything = np.floor(load_digits().data / 16 * 255 + 0.5).astype(int).tolist()
    assert sorted(as_rows(train) + as_rows(test)) == sorted(map(tuple, everything))
    assert len(set(map(tuple, everything))) == 1797


@EACH_SPLIT
def test_splits_have_the_classes_in_proportion(split):
    counts = torch.bincount(digits(split, 8)[1], minlength=10)
    overall = np.bincount(load_digits().target)
    share = counts.sum().item() / 1797
    assert np.abs(counts.numpy() - overall * share).max() <= 1


@EACH_SPLIT
def test_labels_belong_to_their_planes(split):
    data, target = load_digits(return_X_y=True)
    known = {
        tuple(row): label for row, label in zip((data / 16 * 255).round().astype(int).tolist(), target, strict=True)
    }
    planes, labels = digits(split, 8)
    assert [known[row] for row in as_rows(planes)] == labels.tolist()


def enlarged_by_hand(small, factor):
    """Bilinear enlargement with pixel centres at half integers, one output pixel at a time."""
    size = len(small) * factor
    large = [[0.0] * size for _ in range(size)]
    for y in range(size):
        for x in range(size):
            (top, below), (left, right) = (
                (max((i + 0.5) / factor - 0.5, 0.0) // 1, max((i + 0.5) / factor - 0.5, 0.0) % 1) for i in (y, x)
            )
            row, column = int(top), int(left)
            next_row, next_column = min(row + 1, len(small) - 1), min(column + 1, len(small) - 1)
            upper = small[row][column] * (1 - right) + small[row][next_column] * right
            lower = small[next_row][column] * (1 - right) + small[next_row][next_column] * right
            large[y][x] = upper * (1 - below) + lower * below
    return large


@pytest.mark.parametrize("resolution", [8, 16, 32, 64])
def test_planes_are_enlarged_bilinearly(resolution):
    exact, planes = digits("train", 8)[0], digits("train", resolution)[0]
    assert planes.shape == (1437, resolution, resolution)
    assert planes.dtype == torch.uint8
    for index in (0, 700):
        # Back to the sixteenths of the source: 8×8 planes were rounded.
        ink = (exact[index].double() / 255 * 16).round() / 16 * 255
        expected = torch.tensor(enlarged_by_hand(ink.tolist(), resolution // 8), dtype=torch.float64)
        assert (planes[index].double() - expected).abs().max() <= 0.5 + 1e-3


def test_the_enlargement_of_a_corner_worked_out_on_paper():
    # A 2×2 corner a b / c d at twice the size: its first pixels are a, (3a+b)/4, (a+3b)/4 along the first row.
    a, b, c = (value * 255 / 16 for value in (4, 16, 0))
    small = [[a, b], [c, c]]
    found = enlarged_by_hand(small, 2)
    assert found[0] == pytest.approx([a, (3 * a + b) / 4, (a + 3 * b) / 4, b])
    assert found[1][0] == pytest.approx((3 * a + c) / 4)
    assert found[1][1] == pytest.approx((9 * a + 3 * b + 4 * c) / 16)


@EACH_SPLIT
@given(start=st.integers(0, 2**40), size=st.integers(0, 20), cut=st.integers(0, 20), seed=st.integers(-5, 2**64))
@settings(deadline=None, max_examples=25)
def test_an_image_is_a_function_of_seed_and_position(split, start, size, cut, seed):
    cut = min(cut, size)
    source = StackedDigits(split, 8, seed)
    images, labels = source.batch(start, size)
    again = StackedDigits(split, 8, seed)
    second, first = again.batch(start + cut, size - cut), again.batch(start, cut)
    assert torch.equal(images, torch.cat([first[0], second[0]]))
    assert torch.equal(labels, torch.cat([first[1], second[1]]))


def test_seeds_and_splits_give_other_orders():
    labels = [
        StackedDigits(split, 8, seed).batch(0, 200)[1] for split, seed in (("train", 0), ("train", 1), ("test", 0))
    ]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert (labels[i] == labels[j]).double().mean() < 0.05


@EACH_SPLIT
@pytest.mark.parametrize("resolution", [8, 32])
def test_labels_spell_the_planes(split, resolution):
    planes, plane_labels = digits(split, resolution)
    known = dict(zip((plane.numpy().tobytes() for plane in planes), plane_labels.tolist(), strict=True))
    assert len(known) == len(planes)
    images, labels = StackedDigits(split, resolution).batch(1000, 100)
    for image, label in zip(images, labels.tolist(), strict=True):
        red, green, blue = (known[plane.contiguous().numpy().tobytes()] for plane in image)
        assert label == int(f"{red}{green}{blue}")


@EACH_SPLIT
@pytest.mark.parametrize("size", [0, 1, 5])
def test_a_batch_is_uint8_and_channels_last(split, size):
    images, labels = StackedDigits(split, 16).batch(3, size)
    assert (images.dtype, images.shape) == (torch.uint8, (size, 3, 16, 16))
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert (labels.dtype, labels.shape) == (torch.int64, (size,))


@EACH_SPLIT
def test_modes_are_drawn_as_their_distribution_says(split):
    source = StackedDigits(split, 8)
    expected = source.mode_distribution()
    assert (expected.dtype, expected.shape) == (torch.float64, (1000,))
    assert expected.sum().item() == pytest.approx(1, abs=1e-12)
    assert (expected > 0).all()
    drawn = torch.cat([source.batch(start, 5000)[1] for start in range(0, 40_000, 5000)])
    counts = torch.bincount(drawn, minlength=1000)
    assert stats.chisquare(counts.numpy(), expected.numpy() * len(drawn)).pvalue > 0.01


def test_the_distribution_is_that_of_three_independent_digits():
    source = StackedDigits("test", 8)
    digit = torch.bincount(source.plane_labels, minlength=10).tolist()
    for label in (0, 7, 40, 123, 999):
        ways = digit[label // 100] * digit[label // 10 % 10] * digit[label % 10]
        assert source.mode_distribution()[label].item() == pytest.approx(ways / 360**3, rel=1e-12)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"split": "valid"}, "^split is 'valid'; stacked digits have 'train' and 'test'"),
        ({"resolution": 28}, "^resolution is 28; stacked digits come in 8, 16, 32, 64 pixels"),
        ({"sed": 1}, r"^data 'stacked-digits' has no option 'sed'; did you mean 'seed'\?$"),
    ],
)
def test_wrong_options_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        SOURCES.build("stacked-digits", **options)


def test_the_source_says_what_it_holds():
    source = SOURCES.build("stacked-digits", resolution=32)
    assert (source.num_classes, source.resolution) == (1000, 32)


def test_labels_of_the_first_digit_belong_to_the_same_images():
    every, first = StackedDigits(resolution=8, seed=3), StackedDigits(resolution=8, seed=3, labels="first")
    assert (every.num_classes, first.num_classes) == (1000, 10)
    (images, labels), (same, digit) = every.batch(5, 40), first.batch(5, 40)
    assert torch.equal(images, same)
    assert torch.equal(labels // 100, digit)


def test_another_kind_of_labels_is_refused():
    with pytest.raises(ValueError, match="labels is 'last'; stacked digits have 'all', of 1000, and 'first', of 10"):
        SOURCES.build("stacked-digits", labels="last")
