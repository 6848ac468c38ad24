"""Random numbers as a function of (seed, stream, position): against plain integers, and by their distributions."""

import functools
import pickle
import zlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from poise import noise

DRAWS = [noise.bits, noise.uniform, noise.normal, functools.partial(noise.integers, high=7)]
MANY = torch.arange(40_000)
SEEDS = st.integers(-(2**70), 2**70)


def splitmix64(x):
    """Steele, Lea and Flood's finalizer, in Python's own integers."""
    x %= 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def hashed(seed, stream, position, column):
    golden = 0x9E3779B97F4A7C15
    key = splitmix64(seed * golden + splitmix64(zlib.crc32(stream.encode())))
    row = splitmix64(position * golden + key)
    return splitmix64(row + (column + 1) * golden)


def test_the_integer_reference_is_the_published_generator():
    # The first outputs of SplitMix64 seeded with 1234567, as its reference implementation prints them.
    outputs = [splitmix64(1234567 + n * 0x9E3779B97F4A7C15) for n in (1, 2, 3)]
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(
    SEEDS,
    st.sampled_from(["latent", "digits-train", "ö"]),
    st.lists(st.integers(0, 2**62), max_size=5),
    st.integers(1, 5),
)
@settings(deadline=None, max_examples=50)
def test_bits_are_the_integer_reference(seed, stream, positions, width):
    found = noise.bits(seed, stream, torch.tensor(positions, dtype=torch.int64), width)
    assert found.shape == (len(positions), width)
    unsigned = [[value % 2**64 for value in row] for row in found.tolist()]
    assert unsigned == [[hashed(seed, stream, position, c) for c in range(width)] for position in positions]


@pytest.mark.parametrize("draw", DRAWS)
@given(data=st.data())
@settings(deadline=None, max_examples=25)
def test_a_value_depends_on_its_position_alone(draw, data):
    start, total, width = data.draw(st.integers(0, 2**40)), data.draw(st.integers(1, 40)), data.draw(st.integers(1, 37))
    cut = data.draw(st.integers(0, total))
    positions = torch.arange(start, start + total)
    parts = [draw(3, "latent", part, width) for part in (positions[:cut], positions[cut:])]
    assert torch.equal(torch.cat(parts), draw(3, "latent", positions, width))


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("other", [(1, "latent"), (-1, "latent"), (2**64 - 1, "latent"), (0, "fixed"), (0, "Latent")])
def test_another_seed_or_stream_is_independent(draw, other):
    ours, others = (draw(*key, MANY[:2000], 2).double() for key in ((0, "latent"), other))
    assert stats.pearsonr(ours[:, 0].numpy(), others[:, 0].numpy()).pvalue > 1e-3
    assert (ours == others).double().mean() < 0.2


def test_uniform_numbers_are_uniform():
    drawn = noise.uniform(0, "latent", MANY, 2)
    assert drawn.dtype == torch.float32
    for column in drawn.double().numpy().T:
        assert stats.kstest(column, "uniform").pvalue > 0.01


@pytest.mark.parametrize(
    ("top", "expected"), [(0, 2.0**-25), (1, 1.5 * 2**-24), (2**23, 0.5), (2**24 - 1, 1 - 2.0**-24)]
)
def test_uniform_maps_every_hash_inside_the_open_interval(monkeypatch, top, expected):
    monkeypatch.setattr(noise, "bits", lambda *_: torch.tensor([[noise._signed(top << 40 | 0xFFFF)]]))
    drawn = noise.uniform(0, "latent", torch.tensor([0]), 1).item()
    assert 0 < drawn < 1
    assert drawn == pytest.approx(expected, abs=2.0**-23)


def test_uniform_stays_below_one_where_the_hash_is_all_ones():
    # Sample 124,327 of seed 0: the 24 bits that column 123 is made of are all set.
    position, column = 124_327, 123
    assert hashed(0, "latent", position, column) >> 40 == 2**24 - 1
    assert noise.uniform(0, "latent", torch.tensor([position]), 128)[0, column] < 1


@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_normal_numbers_are_normal_and_uncorrelated(width):
    drawn = noise.normal(0, "latent", MANY, width)
    assert drawn.dtype == torch.float32
    assert drawn.shape == (len(MANY), width)
    assert drawn.is_contiguous()
    for column in drawn.double().numpy().T:
        assert stats.kstest(column, "norm").pvalue > 0.01
    # Squares too: Box and Muller's pairs share a radius, which is only harmless if the angle is right.
    for moments in (drawn.double(), drawn.double().square()):
        correlation = torch.corrcoef(moments.T).reshape(width, width)
        assert (correlation - torch.eye(width)).abs().max() < 5 / len(MANY) ** 0.5


@pytest.mark.parametrize("high", [1, 2, 10, 1437])
def test_integers_are_uniform_below_high(high):
    drawn = noise.integers(0, "digits", MANY, 3, high)
    assert drawn.dtype == torch.int64
    assert 0 <= drawn.min() <= drawn.max() < high
    if high > 1:
        for column in drawn.T:
            assert stats.chisquare(torch.bincount(column, minlength=high).numpy()).pvalue > 0.01


@pytest.mark.parametrize("high", [0, -3])
def test_integers_need_a_value_to_draw_from(high):
    with pytest.raises(ValueError, match=f"high is {high}; .*at least 1"):
        noise.integers(0, "digits", MANY[:1], 1, high)


def test_uniform_doubles_are_uniform_and_as_fine_as_they_can_be():
    drawn = noise.uniform(0, "latent", MANY, 2, torch.float64)
    assert drawn.dtype == torch.float64
    assert 0 < drawn.min() <= drawn.max() < 1
    for column in drawn.numpy().T:
        assert stats.kstest(column, "uniform").pvalue > 0.01
    scaled = drawn * 2**53
    assert torch.equal(scaled, scaled.round())
    assert (scaled.long() % 2**40).unique().numel() > 0.999 * drawn.numel()
    # The same hash to fewer bits is the float32 one.
    assert (drawn - noise.uniform(0, "latent", MANY, 2)).abs().max() <= 2.0**-24


@pytest.mark.parametrize("top", [0, 2**52 - 1])
def test_uniform_doubles_stay_inside_the_open_interval(monkeypatch, top):
    monkeypatch.setattr(noise, "bits", lambda *_: torch.tensor([[noise._signed(top << 12 | 0xFFF)]]))
    assert 0 < noise.uniform(0, "latent", torch.tensor([0]), 1, torch.float64).item() < 1


@pytest.mark.parametrize("draw", DRAWS)
@given(data=st.data())
@settings(deadline=None, max_examples=25)
def test_what_is_drawn_ahead_is_what_is_drawn(draw, data):
    width = data.draw(st.sampled_from([1, 7, 1 << 15, (1 << 16) + 1]))
    ahead = pickle.loads(pickle.dumps(noise.Ahead(draw, 3, "latent", width)))
    rows = max(1, (1 << 17) // width)
    for _ in range(3):  # in any order, across the ends of what is drawn at once, and more than that
        start = data.draw(st.integers(0, 3)) * rows + data.draw(st.integers(0, 3))
        size = min(data.draw(st.integers(0, 3)) + data.draw(st.booleans()) * rows, 1 + (1 << 18) // width)
        assert torch.equal(ahead(start, size), draw(3, "latent", torch.arange(start, start + size), width))
