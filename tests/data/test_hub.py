"""Hugging Face data sets: on disk in each of their forms, and streamed; offline errors."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from poise.data.hub import huggingface
from poise.data.pictures import decoded, fitted
from poise.data.prepared import BrokenImage
from poise.data.series import Series

datasets = pytest.importorskip("datasets")

pytestmark = pytest.mark.filterwarnings("ignore:.* images are few")
N, SHARDS = 40, 4


@pytest.fixture(autouse=True)
def own_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("POISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    datasets.disable_progress_bars()


def encoded(index):
    """A picture by its number: PNG, of a size of its own."""
    pixels = np.random.default_rng(index).integers(0, 256, (7 + index % 3, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def table(broken=()):
    contents = [b"no picture" if i in broken else encoded(i) for i in range(N)]
    features = datasets.Features(
        {
            "id": datasets.Value("int32"),
            "photo": datasets.Image(),
            "kind": datasets.ClassLabel(names=["a", "b", "c"]),
            "number": datasets.Value("int8"),
        }
    )
    rows = {"id": list(range(N)), "photo": [{"bytes": c, "path": None} for c in contents]}
    return datasets.Dataset.from_dict(
        {**rows, "kind": [i % 3 for i in range(N)], "number": [i % 2 for i in range(N)]}, features=features
    )


def parquet(root, broken=()):
    whole, folder = table(broken), root / "set" / "data"
    folder.mkdir(parents=True)
    for index in range(SHARDS):
        whole.shard(SHARDS, index, contiguous=True).to_parquet(folder / f"train-{index:05d}-of-{SHARDS:05d}.parquet")
    return str(root / "set")


def one_parquet(root):
    table().to_parquet(root / "set.parquet")
    return str(root / "set.parquet")


def saved(root):
    datasets.DatasetDict({"train": table()}).save_to_disk(root / "disk")
    return str(root / "disk")


def imagefolder(root):
    for index in range(N):
        file = root / "pictures" / "train" / "abc"[index % 3] / f"{index:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(index))
    return str(root / "pictures")


def streamed(length=None, **options):
    """A stream; of a length said beforehand, or not."""
    series = huggingface(stream=True, resolution=6, **options)
    assert isinstance(series, Series)
    series.length = length
    return series


def rows(images, start, size):
    pixels, labels = images.batch(start, size)
    each = pixels.permute(0, 2, 3, 1).contiguous().numpy()
    return [(row.tobytes(), int(label)) for row, label in zip(each, labels, strict=True)]


EXPECTED = sorted((fitted(decoded(io.BytesIO(encoded(i))), 6).tobytes(), i % 3) for i in range(N))


@pytest.mark.parametrize("stream", [False, True], ids=["by record", "streamed"])
@pytest.mark.parametrize("form", [parquet, one_parquet, saved, imagefolder])
def test_every_form_gives_each_picture_with_its_class(tmp_path, form, stream):
    images = huggingface(path=form(tmp_path), resolution=6, flip=False, stream=stream)
    assert (images.num_classes, images.resolution) == (3, 6)
    for epoch in range(2):
        assert sorted(rows(images, epoch * N, N)) == EXPECTED
    assert rows(images, 0, N) != rows(images, N, N)


@pytest.mark.parametrize("known", [False, True], ids=["length unknown", "length known"])
def test_a_streams_images_depend_on_their_place_alone(tmp_path, known):
    how = {"path": parquet(tmp_path), "buffer": 7, "crop_at": "random", "length": N if known else None}
    series = streamed(**how)
    whole = rows(series, 0, 130)
    for start, size in ((5, 20), (90, 30), (0, 8), (39, 2), (100, 30), (8, 8)):
        assert rows(streamed(**how), start, size) == whole[start : start + size]
        assert rows(series, start, size) == whole[start : start + size]
    assert rows(streamed(**how, seed=1), 0, 130) != whole


def test_a_stream_that_is_not_as_long_as_was_said_stops(tmp_path):
    with pytest.raises(ValueError, match=f"gave {N} records where {N + 1} were said"):
        streamed(N + 1, path=parquet(tmp_path)).batch(0, N + 1)


@pytest.mark.parametrize("stream", [False, True], ids=["by record", "streamed"])
def test_a_broken_picture_stops_or_is_stood_in_for(tmp_path, stream, capsys, recwarn):
    path = parquet(tmp_path, broken=(3, 11))
    with pytest.raises(BrokenImage, match=r"record \d+, cannot be used: it is no picture"):
        huggingface(path=path, resolution=6, stream=stream).batch(0, N)
    how = {"path": path, "resolution": 6, "on_error": "skip", "flip": False}
    images = huggingface(stream=stream, **how)
    found = rows(images, 0, N if stream else N - 2)
    assert set(found) <= set(EXPECTED)
    told = "".join(str(warning.message) for warning in recwarn) if stream else capsys.readouterr().out
    assert ("skipped, 2 so far: " if stream else "2 of 40 images skipped") in told
    if stream:
        assert rows(huggingface(stream=True, **how), 17, 10) == found[17:27]


def test_columns_are_chosen(tmp_path):
    path = parquet(tmp_path)
    assert huggingface(path=path, label="number", resolution=6).num_classes == 2
    assert huggingface(path=path, label="none", resolution=6).num_classes == 0
    numbered = huggingface(path=path, label="number", num_classes=2, resolution=6, stream=True)
    assert numbered.batch(0, N)[1].bincount().tolist() == [N // 2, N // 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": "foto"}, "there is no column 'foto'; did you mean 'photo'"),
        ({"image": "number"}, "the record holds int, no image"),
        ({"label": "photo"}, "column 'photo' of .* is not of integers"),
        ({"label": "number", "stream": True}, "does not say how many classes there are; set num_classes"),
        ({"balanced": True, "stream": True}, "balanced sampling needs all labels"),
        ({"split": "trian"}, "(?i)split \\W?trian"),
        ({"buffer": 0, "stream": True}, "buffer is 0"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        huggingface(**{"path": parquet(tmp_path), "resolution": 6, **options})


@pytest.mark.parametrize("stream", [False, True])
def test_the_hub_out_of_reach_is_told_in_a_line(monkeypatch, stream):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="nobody/nothing is no folder here, and could not be had from the Hub: "):
        huggingface(path="nobody/nothing", stream=stream)


@pytest.mark.parametrize(
    ("path", "message"), [("", "path is empty"), ("./nowhere/x/y", "does not exist; give a folder, a parquet file")]
)
def test_no_such_path(path, message):
    with pytest.raises(ValueError, match=message):
        huggingface(path=path)


def test_a_changed_picture_is_prepared_again(tmp_path):
    path = imagefolder(tmp_path)
    before = huggingface(path=path, resolution=6, flip=False)
    file = tmp_path / "pictures" / "train" / "a" / "000.png"
    Image.new("RGB", (8, 8), (1, 2, 3)).save(file)
    after = huggingface(path=path, resolution=6, flip=False)
    flat = torch.tensor([1, 2, 3], dtype=torch.uint8).view(1, 3, 1, 1)
    assert (after.batch(0, N)[0] == flat).flatten(1).all(1).sum() == 1
    assert (before.batch(0, N)[0] == flat).flatten(1).all(1).sum() == 0
