"""Judging any images: figures by name with intervals, n and what they rest on; folders, zips and generators' files."""

from __future__ import annotations

import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from poise.data.stored import Memory, StoredImages
from poise.metrics import METRICS, Extractor, Preprocessing, judge
from poise.metrics.features import real_batches
from poise.metrics.figures import chosen
from poise.metrics.sources import data_named, folder_images, images_to_judge


class Classifier(nn.Module):
    """A few random features and classes."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.classes = nn.Linear(3 * 64, 6), nn.Linear(6, 4)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.features(images.flatten(1)).relu()
        return features, self.classes(features)


def extractor(dim: int = 6) -> Extractor:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Extractor("small-net", Classifier(), Preprocessing("none", 8, (127,) * 3, (64,) * 3))


def stored(n: int = 120, seed: int = 0, classes: int = 3, brightness: int = 256) -> StoredImages:
    random = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, brightness, (n, 8, 8, 3), generator=random, dtype=torch.uint8)
    return StoredImages(Memory(pixels), torch.arange(n) % max(classes, 1), classes, 8)


def judged(shown: StoredImages, against: StoredImages, metrics: str, **options: Any) -> Any:
    n = len(shown)
    return judge(real_batches(shown, n, 50), n, against, metrics, options.pop("extractor", extractor()), **options)


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("POISE_CACHE", str(tmp_path / "cache"))


def test_every_metric_gives_figures_that_say_what_they_rest_on() -> None:
    of_images = [name for name in METRICS if not name.startswith("reconstruction")]
    found = judged(stored(seed=1), stored(), ",".join(of_images))
    kept = json.loads(json.dumps(found.to_json()))
    names = {"fd_small_net", "kd_small_net", "score_small_net", "precision", "recall", "density", "coverage"}
    others = {"fd_small_net_infinity", "intra_fd_small_net", "duplicates", "authenticity"}
    assert kept["metrics"].keys() == names | others
    assert (kept["samples"], kept["real_samples"], kept["extractor"]) == (120, 120, "small-net")
    assert kept["preprocessing"] == "none to 8, minus 127, over 64"
    for name, metric in kept["metrics"].items():
        assert metric["n"] == 120
        assert metric["unit"]
        assert metric["better"] in ("higher", "lower")
        assert metric["interval"][0] <= metric["value"] <= metric["interval"][1], name
    assert len(kept["reference"]) == 16


def test_the_same_images_are_at_distance_zero_and_darker_ones_are_not() -> None:
    same = judged(stored(), stored(), "fid,pr").figures
    dark = judged(stored(seed=1, brightness=20), stored(), "fid,pr").figures
    assert same[0].value == pytest.approx(0, abs=1e-6)
    assert (same[1].value, same[2].value) == (1, 1)
    assert dark[0].value > 1
    assert dark[2].value < 0.5, "recall"


def test_without_intervals_no_features_are_needed_for_fid_and_the_value_is_the_same() -> None:
    shown = stored(seed=1)
    quick, full = (judged(shown, stored(), "fid", intervals=wanted).figures[0] for wanted in (False, True))
    assert quick.interval is None
    assert quick.value == pytest.approx(full.value)


def test_fewer_images_than_features_are_warned_of() -> None:
    with pytest.warns(RuntimeWarning, match="6 generated images and 6 features: the covariance is singular"):
        judged(stored(6, 1), stored(), "fid")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        judged(stored(60, 1), stored(), "fid")


LARGER = Extractor("larger", nn.Identity(), Preprocessing("none", 16))
WRONG: dict[str, tuple[Any, str]] = {
    "unknown": (lambda: chosen("fid,kd"), "unknown metric 'kd'; did you mean"),
    "none": (lambda: chosen(" ,"), "no metric is named; known: fid"),
    "of images": (lambda: judged(stored(), stored(), "reconstruction"), "reconstruction needs a generator to seek"),
    "no classes": (lambda: judged(stored(), stored(classes=0), "intra-fid"), "intra-fid needs classes"),
    "one image": (lambda: judged(stored(1, classes=0), stored(), "fid"), "samples is 1; .* at least 2"),
    "other images": (
        lambda: judge([(torch.zeros(2, 3, 6, 6, dtype=torch.uint8), None)], 2, stored(), "fid", extractor()),
        "images judged have 6 pixels, those compared with have 8; .* --resolution",
    ),
    "another size": (
        lambda: judged(stored(), stored(), "fid", extractor=LARGER),
        "8×8 pixels; this extractor takes 16×16",
    ),
}


@pytest.mark.parametrize(("wrong", "said"), WRONG.values(), ids=WRONG)
def test_mistakes_are_one_line(wrong: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        wrong()


def write_pictures(folder: Path, sizes: list[tuple[int, int]], grey: bool = False) -> Path:
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for index, (width, height) in enumerate(sizes):
        pixels = random.integers(0, 256, (height, width) if grey else (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def test_a_folder_and_a_zip_of_it_are_judged_alike(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "shown", [(8, 8)] * 12)
    with zipfile.ZipFile(tmp_path / "shown.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, file.name)
    real = stored()
    values = []
    for target in (folder, tmp_path / "shown.zip"):
        batches, n = images_to_judge(target, real, None, 0, "cpu", None)
        values.append(judge(batches, n, real, "fid", extractor()).figures[0].value)
    assert n == 12
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_folders_that_do_not_fit_are_refused_with_what_to_do(tmp_path: Path) -> None:
    mixed = write_pictures(tmp_path / "mixed", [(8, 8), (9, 9)])
    wide = write_pictures(tmp_path / "wide", [(8, 6)])
    large = write_pictures(tmp_path / "large", [(10, 10)] * 2)
    (tmp_path / "empty").mkdir()
    said = {mixed: "8×8, 9×9 pixels; .* --resolution", wide: "8×6 pixels", tmp_path / "empty": "has no images"}
    for folder, match in said.items():
        with pytest.raises(ValueError, match=match):
            folder_images(folder)
    assert folder_images(mixed, 8).resolution == 8
    with pytest.raises(ValueError, match="images of 10 pixels, those compared with have 8; give --resolution 8"):
        images_to_judge(large, stored(), None, 0, "cpu", None)
    with pytest.raises(ValueError, match=r"samples is 9; .* has 2 images"):
        images_to_judge(large, folder_images(large), 9, 0, "cpu", None)
    with pytest.raises(ValueError, match="belongs to a run; give the run, runs/x, and --checkpoint 300"):
        images_to_judge("runs/x/checkpoints/step-300/ema.safetensors", stored(), None, 0, "cpu", None)
    with pytest.raises(ValueError, match="nowhere is neither a folder or zip of images nor a data source"):
        data_named("nowhere")


def test_grey_pictures_are_judged_with_a_warning(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "grey", [(8, 8)] * 3, grey=True)
    with pytest.warns(RuntimeWarning, match="has 3 grey images; they are judged as three equal channels"):
        assert len(folder_images(folder)) == 3


def test_few_images_to_compare_with_are_no_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    data_named(str(write_pictures(tmp_path / "real", [(8, 8)] * 3)))
    assert not recwarn.list


def test_a_source_is_found_by_its_name() -> None:
    assert data_named("stacked-digits", 32).resolution == 32
