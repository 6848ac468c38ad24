"""Squares cut at random: each place's own, inside the picture, evenly spread, the same prepared or streamed."""

import numpy as np
import pytest
import torch
from PIL import Image

from poise.data.pictures import fitted, scaled
from poise.data.sources import folder
from poise.data.stored import Memory, StoredImages, Uncut, squares

pytestmark = pytest.mark.filterwarnings("ignore:.* images are few")
GENERATOR = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POISE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tree(tmp_path):
    for index in range(12):
        size = (9 + index % 5, 20 - index, 3)
        file = tmp_path / "pictures" / f"{index:02d}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(GENERATOR.integers(0, 256, size, dtype=np.uint8)).save(file)
    return tmp_path / "pictures"


@pytest.mark.parametrize("crop", [None, 8])
def test_prepared_and_streamed_are_the_same_and_depend_on_the_place_alone(tree, crop):
    one, other = (folder(str(tree), 6, crop, "random", stream=stream, seed=3) for stream in (False, True))
    whole = one.batch(0, 60)[0]
    for start, size in ((0, 7), (7, 7), (40, 20), (3, 1)):
        assert torch.equal(one.batch(start, size)[0], whole[start : start + size])
        assert torch.equal(other.batch(start, size)[0], whole[start : start + size])
    assert not torch.equal(folder(str(tree), 6, crop, "random", seed=4).batch(0, 60)[0], whole)


def test_every_square_is_one_of_the_scaled_picture(tree):
    images = folder(str(tree), 6, crop_at="random", flip=False)
    found = images.batch(0, 48)[0].permute(0, 2, 3, 1).numpy()
    windows = set()
    for file in tree.iterdir():
        picture = scaled(np.asarray(Image.open(file)), 6)
        for top in range(picture.shape[0] - 5):
            for left in range(picture.shape[1] - 5):
                windows.add(picture[top : top + 6, left : left + 6].tobytes())
    assert {square.tobytes() for square in found} <= windows


def test_all_corners_come_equally_often():
    """Pixels that say their place; 4 × 3 corners, each expected 1000 times: χ² with 11 degrees of freedom."""
    height, width, side = 7, 8, 5
    place = torch.arange(height * width, dtype=torch.uint8).view(height, width, 1).expand(-1, -1, 3)
    store = Uncut(place.flatten().repeat(1000), torch.tensor([[height, width]]).expand(1000, -1), side)
    images = StoredImages(store, torch.zeros(1000, dtype=torch.int64), 0, side, crop_at="random")
    corners = images.batch(0, 12_000)[0][:, 0, 0, 0].bincount(minlength=height * width).double()
    assert int((corners > 0).sum()) == 12
    assert float(((corners[corners > 0] - 1000) ** 2 / 1000).sum()) < 31.3  # its 0.999 quantile


@pytest.mark.parametrize(("crop", "size"), [(None, (12, 21)), (6, (9, 10)), (6, (6, 30)), (None, (5, 5))])
def test_whole_pictures_have_the_crops_scale(crop, size):
    flat = np.full((*size, 3), 77, dtype=np.uint8)
    whole, side = scaled(flat, 3, crop), crop or min(size)
    assert np.array_equal(whole, np.full((*(round(length * 3 / side) for length in size), 3), 77))


def test_a_square_at_whole_pixels_is_the_square_resized():
    pixels = GENERATOR.integers(0, 256, (6, 30, 3), dtype=np.uint8)
    (cut,) = squares([torch.from_numpy(scaled(pixels, 3))], 3, torch.tensor([[0, 2]]))
    assert np.array_equal(cut.numpy(), fitted(pixels[:, 4:10], 3))


def test_what_cannot_be_cut_is_told(tree):
    with pytest.raises(ValueError, match="crop_at is 'middle'; allowed: 'centre' and 'random'"):
        StoredImages(Memory(torch.zeros(2, 4, 4, 3, dtype=torch.uint8)), torch.zeros(2).long(), 0, 4, crop_at="middle")
    with pytest.raises(ValueError, match="holds squares that are cut already"):
        StoredImages(Memory(torch.zeros(2, 4, 4, 3, dtype=torch.uint8)), torch.zeros(2).long(), 0, 4, crop_at="random")


@pytest.mark.parametrize("stream", [False, True], ids=["prepared", "streamed"])
def test_sizes_that_differ_are_told_where_nothing_is_resized(tree, stream):
    with pytest.raises(ValueError, match=r"00\.png cannot be used: it is 20×9 pixels, not 9×9, and resize is false"):
        folder(str(tree), 9, resize=False, stream=stream)
    assert folder(str(tree), 8, crop=8, resize=False, stream=stream).batch(0, 3)[0].shape == (3, 3, 8, 8)


def test_a_picture_that_stands_in_brings_its_own_label(tmp_path):
    for kind, name, content in (("a", "0", None), ("a", "1", b"no picture"), ("b", "0", 200)):
        file = tmp_path / "pictures" / kind / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            Image.new("RGB", (6, 6), (content or 0,) * 3).save(file)
    images = folder(str(tmp_path / "pictures"), 6, on_error="skip", stream=True)
    with pytest.warns(RuntimeWarning, match="skipped, 1 so far"):
        pixels, labels = images.batch(0, 30)
    assert torch.equal(labels, (pixels[:, 0, 0, 0] == 200).long())
