"""Pictures: every kind of file becomes the same RGB pixels; shrinking is correct by area."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from poise.data.pictures import decoded, fitted

GENERATOR = np.random.default_rng(0)
RGB = GENERATOR.integers(0, 256, (5, 7, 3), dtype=np.uint8)


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("PPM", {})]
)
def test_lossless_files_give_their_pixels(kind, options):
    assert np.array_equal(decoded(encoded(Image.fromarray(RGB), kind, **options)), RGB)


def test_jpeg_is_near():
    smooth = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    found = decoded(encoded(Image.fromarray(smooth), "JPEG", quality=95)).astype(int)
    assert np.abs(found - smooth).mean() < 3


def test_grey_is_repeated():
    assert np.array_equal(decoded(encoded(Image.fromarray(RGB[..., 0]))), np.repeat(RGB[..., :1], 3, axis=2))


def test_sixteen_bits_become_eight():
    deep = GENERATOR.integers(0, 65536, (4, 5)).astype(np.uint16)
    found = decoded(encoded(Image.fromarray(deep)))
    assert np.array_equal(found[..., 0], np.round(deep / 65535 * 255).astype(np.uint8))
    assert np.array_equal(found[..., 0], found[..., 2])


def test_a_palette_is_looked_up():
    image = Image.fromarray(RGB).quantize(16)
    assert np.array_equal(decoded(encoded(image)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("background", [(255, 255, 255), (10, 200, 30)])
def test_transparent_pixels_show_the_background(background):
    alpha = GENERATOR.integers(0, 256, (5, 7, 1), dtype=np.uint8)
    found = decoded(encoded(Image.fromarray(np.concatenate([RGB, alpha], axis=2))), background)
    share = alpha / 255
    assert np.abs(found - (share * RGB + (1 - share) * np.array(background))).max() <= 1


def test_a_transparent_colour_shows_the_background():
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), mode="P")
    image.putpalette([9, 9, 9, 50, 60, 70])
    found = decoded(encoded(image, transparency=0), (1, 2, 3))
    assert found.tolist() == [[[1, 2, 3], [50, 60, 70]]]


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [(1, lambda x: x), (2, np.fliplr), (3, lambda x: np.rot90(x, 2)), (6, lambda x: np.rot90(x, -1)), (8, np.rot90)],
)
def test_exif_orientation_is_obeyed(orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(decoded(encoded(Image.fromarray(RGB), exif=exif)), turn(RGB))


@pytest.mark.parametrize("content", [b"", b"no picture", encoded(Image.fromarray(RGB)).getvalue()[:60]])
def test_a_broken_file_is_refused(content):
    with pytest.raises((OSError, ValueError, SyntaxError)):
        decoded(io.BytesIO(content))


def test_the_centre_is_cut_out():
    wide = np.zeros((4, 10, 3), dtype=np.uint8)
    wide[:, 3:7] = RGB[:4, :4]
    assert np.array_equal(fitted(wide, 4), RGB[:4, :4])
    assert np.array_equal(fitted(wide, 2, crop=2), RGB[1:3, 1:3])


def test_whole_factors_are_plain_means():
    pixels = GENERATOR.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    means = pixels.reshape(4, 3, 4, 3, 3).mean(axis=(1, 3))
    assert np.abs(fitted(pixels, 4) - means).max() <= 0.5 + 1e-4


@given(st.integers(1, 30), st.integers(1, 30))
@settings(deadline=None, max_examples=40)
def test_shrinking_is_the_mean_over_the_area_covered(a, b):
    before, after = max(a, b), min(a, b)
    pixels = GENERATOR.integers(0, 256, (before, before, 3), dtype=np.uint8)
    # Every pixel as after × after equal ones, of which each new pixel covers before × before whole ones.
    fine = np.kron(pixels.astype(np.float64), np.ones((after, after, 1)))
    exact = fine.reshape(after, before, after, before, 3).mean(axis=(1, 3))
    assert np.abs(fitted(pixels, after) - exact).max() <= 0.5 + 1e-3


def test_enlarging_keeps_a_flat_colour():
    flat = np.full((3, 3, 3), 77, dtype=np.uint8)
    assert np.array_equal(fitted(flat, 8), np.full((8, 8, 3), 77))


def test_a_crop_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="the image is 7×5 pixels; a crop of 6 does not fit"):
        fitted(RGB, 4, crop=6)
