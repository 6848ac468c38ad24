"""Resizing is torch-fidelity's bit for bit; what is pinned is said; images that do not fit are refused."""

from __future__ import annotations

import pytest
import torch

from poise.metrics import Preprocessing
from poise.metrics.preprocessing import tf1_bilinear


@pytest.mark.parametrize("size", [(32, 32), (299, 299), (64, 71), (500, 310), (1, 1), (7, 9)])
def test_tf1_bilinear_is_torch_fidelitys_bit_for_bit(size: tuple[int, int]) -> None:
    room = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow")
    images = torch.randint(0, 256, (2, 3, *size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    reference = room.interpolate_bilinear_2d_like_tensorflow1x(images.float(), size=(299, 299), align_corners=False)
    assert torch.equal(tf1_bilinear(images.float(), 299), reference)
    prepared = Preprocessing("tf1-bilinear", 299, (128,) * 3, (128,) * 3)(images)
    assert torch.equal(prepared, (reference - 128) / 128)


def test_shrinking_with_antialiasing_takes_every_pixel_into_account() -> None:
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    images[..., 1::2] = 200  # columns that sampling at every second pixel would miss
    inner = Preprocessing("bilinear-antialias", 32)(images)[..., 2:-2]
    torch.testing.assert_close(inner, torch.full_like(inner, 100), atol=1.0, rtol=0)


def test_the_images_given_are_left_as_they_were() -> None:
    images = torch.full((1, 3, 8, 8), 7, dtype=torch.uint8)
    Preprocessing("none", 8, (1, 2, 3), (2, 2, 2))(images)
    assert (images == 7).all()


def test_its_name_says_all_that_is_done() -> None:
    named = {str(Preprocessing("tf1-bilinear", 299, (128,) * 3, (128,) * 3)), str(Preprocessing("none", None))}
    named |= {str(Preprocessing("bilinear-antialias", size, (127, 1, 2), (3, 4, 5))) for size in (224, 225)}
    assert "tf1-bilinear to 299, minus 128, over 128" in named
    assert len(named) == 4


WRONG = {
    "floats": (torch.zeros(1, 3, 8, 8), "float32 of shape .*; an extractor takes uint8"),
    "one plane": (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), "shape \\(1, 1, 8, 8\\)"),
    "no batch": (torch.zeros(3, 8, 8, dtype=torch.uint8), "shape \\(3, 8, 8\\)"),
    "another size": (torch.zeros(1, 3, 9, 8, dtype=torch.uint8), "9×8 pixels; this extractor takes 8×8"),
}


@pytest.mark.parametrize(("images", "said"), WRONG.values(), ids=WRONG)
def test_images_that_do_not_fit_are_refused(images: torch.Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Preprocessing("none", 8)(images)


def test_an_unknown_kind_and_a_missing_size_are_refused() -> None:
    with pytest.raises(ValueError, match="resize is 'bicubic'; allowed: 'tf1-bilinear'"):
        Preprocessing("bicubic", 8)
    with pytest.raises(ValueError, match="give the pixels to resize to"):
        Preprocessing("tf1-bilinear", None)
