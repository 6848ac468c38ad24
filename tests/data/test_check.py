"""The look at a data set before training: counts, sizes, broken pictures, and what to think of."""

import numpy as np
import pytest
from PIL import Image

from poise.data.check import FEW, TOLD, check


def save(file, size=(6, 5)):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((size[1], size[0], 3), dtype=np.uint8)).save(file)


def test_everything_is_counted(tmp_path):
    for index in range(12):
        save(tmp_path / "many" / f"{index}.png", (6 + index % 2, 5))
    save(tmp_path / "one" / "0.png", (20, 30))
    (tmp_path / "none").mkdir()
    for index in range(TOLD + 2):
        (tmp_path / "none" / f"{index}.jpg").write_bytes(b"no picture")
    found = check(tmp_path)
    assert found.images == 13
    assert found.classes == {"many": 12, "none": 0, "one": 1}
    assert found.sizes == {(6, 5): 6, (7, 5): 6, (20, 30): 1}
    assert len(found.broken) == TOLD + 2
    told = "\n".join(found.lines())
    for part in (
        "13 images in 3 classes",
        "0 to 12 images a class",
        "6×5 to 20×30 pixels, 3 sizes",
        f"{tmp_path / 'none' / '0.jpg'}: it is no picture of a known format",
        "broken: 2 more",
        "13 images are few",
        "no image of class none can be used",
        "ten times the images",
        "sizes differ",
        "7 cannot be used",
    ):
        assert part in told


def test_a_sound_data_set_gives_no_warning(tmp_path):
    for index in range(FEW):
        save(tmp_path / f"{index}.png")
    found = check(tmp_path)
    assert found.warnings == []
    assert found.lines() == [f"{FEW} images, no classes", "6×5 to 6×5 pixels, 1 sizes"]


def test_nothing_there_is_told(tmp_path):
    with pytest.raises(ValueError, match="has no images"):
        check(tmp_path)
