"""Databases, shards and tables in miniature: LSUN's lmdb, WebDataset's tar files, torchvision's and Hugging Face's."""

import io
import struct
import tarfile

import numpy as np
import pytest
from PIL import Image

from poise.data import sources
from poise.data.lmdb_pictures import LmdbPictures
from poise.data.pictures import decoded, fitted
from poise.data.prepared import BrokenImage
from poise.data.shards import TarPictures, shards

pytestmark = pytest.mark.filterwarnings("ignore:.* images are few")
GENERATOR = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POISE_CACHE", str(tmp_path / "cache"))


def encoded(kind="PNG", size=(9, 11), **options):
    """A picture in a file format, and what it decodes to."""
    file = io.BytesIO()
    Image.fromarray(GENERATOR.integers(0, 256, (*size, 3), dtype=np.uint8)).save(file, kind, **options)
    return file.getvalue(), decoded(io.BytesIO(file.getvalue()))


def all_of(images, n):
    pixels, labels = images.batch(0, n)
    rows = pixels.permute(0, 2, 3, 1).contiguous().numpy()
    return sorted((row.tobytes(), int(label)) for row, label in zip(rows, labels, strict=True))


def expected(pictures, labels, resolution=6):
    return sorted(
        (fitted(picture, resolution).tobytes(), label) for picture, label in zip(pictures, labels, strict=True)
    )


@pytest.fixture
def lsun(tmp_path):
    """LSUN's layout: a folder for each category, keys of 40 hexadecimal digits, WebP. Returns (path, pictures)."""
    lmdb = pytest.importorskip("lmdb")
    made = [encoded("WEBP" if i % 2 else "JPEG") for i in range(8)]
    folder = tmp_path / "lsun" / "bedroom_train_lmdb"
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=1 << 22) as environment, environment.begin(write=True) as transaction:
        for index, (content, _) in enumerate(made):
            transaction.put(f"{index:040x}".encode(), content)
    return tmp_path / "lsun", [picture for _, picture in made]


@pytest.mark.parametrize("stream", [False, True], ids=["prepared", "streamed"])
def test_lsun_from_its_database(lsun, stream, tmp_path, monkeypatch):
    path, pictures = lsun
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    images = sources.lsun(path=str(path), resolution=6, flip=False, stream=stream)
    assert (images.num_classes, len(images)) == (0, 8)
    assert all_of(images, 8) == expected(pictures, [0] * 8)
    again = sources.lsun(path=str(path / "bedroom_train_lmdb"), resolution=6, flip=False, stream=stream)
    assert all_of(again, 8) == all_of(images, 8)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("category", "message"),
    [("bedroom_trian", "no category 'bedroom_trian'; did you mean 'bedroom_train'"), ("", None)],
)
def test_another_category_is_told(lsun, category, message):
    if message is None:
        assert len(LmdbPictures(lsun[0], category)) == 8
        return
    with pytest.raises(ValueError, match=message):
        LmdbPictures(lsun[0], category)


def test_no_database_and_a_broken_one_are_told(tmp_path):
    with pytest.raises(ValueError, match=r"holds no bedroom_train_lmdb with a data\.mdb"):
        sources.lsun(path=str(tmp_path))
    (tmp_path / "bedroom_train_lmdb").mkdir()
    (tmp_path / "bedroom_train_lmdb" / "data.mdb").write_bytes(b"no database" * 1000)
    with pytest.raises(ValueError, match="is no readable LMDB database"):
        sources.lsun(path=str(tmp_path))


@pytest.fixture
def tars(tmp_path):
    """Three shards as WebDataset's own writer makes them. Returns (pattern, pictures, labels)."""
    webdataset = pytest.importorskip("webdataset")
    (tmp_path / "tars").mkdir()
    pictures, labels = [], []
    for shard in range(3):
        with webdataset.TarWriter(str(tmp_path / "tars" / f"train-{shard:03d}.tar")) as writer:
            for index in range(4):
                ending = ("jpg", "png", "webp")[index % 3]
                content, picture = encoded({"jpg": "JPEG"}.get(ending, ending.upper()))
                label = (shard * 4 + index) % 5
                key = f"a.b/{shard:03d}{index:05d}"  # dots in folders are no endings
                writer.write({"__key__": key, ending: content, "cls": label, "json": {"class": 4 - label}})
                pictures.append(picture)
                labels.append(label)
    return str(tmp_path / "tars" / "train-{000..002}.tar"), pictures, labels


@pytest.mark.parametrize("stream", [False, True], ids=["prepared", "streamed"])
@pytest.mark.parametrize("label", ["", "json:class", "none"])
def test_tar_shards_give_each_picture_with_its_class(tars, label, stream):
    pattern, pictures, labels = tars
    images = sources.webdataset(path=pattern, label=label, resolution=6, flip=False, stream=stream)
    by_label = {"": labels, "none": [0] * 12, "json:class": [4 - given for given in labels]}
    assert images.num_classes == (0 if label == "none" else 5)
    assert all_of(images, 12) == expected(pictures, by_label[label])


def test_tar_shards_are_what_webdataset_reads(tars):
    webdataset = pytest.importorskip("webdataset")
    pattern, _, _ = tars
    theirs = list(webdataset.WebDataset(pattern, shardshuffle=False))
    ours = TarPictures(pattern)
    assert ours.labels.tolist() == [int(sample["cls"]) for sample in theirs]
    for index, sample in enumerate(theirs):
        content = next(sample[ending] for ending in ("jpg", "png", "webp") if ending in sample)
        assert np.array_equal(ours.pixels(index, (0, 0, 0)), decoded(io.BytesIO(content)))


def test_patterns_name_shards(tars, tmp_path):
    folder = tmp_path / "tars"
    names = [f"train-00{i}.tar" for i in range(3)]
    for pattern in ("train-{000..002}.tar", "train-{000,001,002}.tar", "train-*.tar", "train-{00}{0..2}.tar"):
        assert [path.name for path in shards(str(folder / pattern))] == names
    assert [path.name for path in shards(str(folder))] == names


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("train-{000..003}.tar", "train-003.tar does not exist"),
        ("nothing-*.tar", "holds no .tar; give shards of WebDataset"),
        ("https://host/train-{000..003}.tar", "shards are read from disks: copy them first"),
        ("broken.tar", "broken.tar is no uncompressed tar file, or broken off"),
        ("none.tar", "has no images in 1 shards"),
        ("gap.tar", "0002.png has no cls beside it; label=none"),
        ("word.tar", "0001.cls has no class number"),
    ],
)
def test_shards_that_cannot_be_used_are_told(tars, tmp_path, path, message):
    folder = tmp_path / "tars"
    (folder / "broken.tar").write_bytes(b"no tar" * 500)
    contents = {
        "none": {"0001.txt": b"no picture"},
        "gap": {"0001.png": encoded()[0], "0001.cls": b"0", "0002.png": encoded()[0]},
        "word": {"0001.png": encoded()[0], "0001.cls": b"cat"},
    }
    for name, members in contents.items():
        with tarfile.open(folder / f"{name}.tar", "w") as archive:
            for member, content in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    with pytest.raises(ValueError, match=message):
        sources.webdataset(path=path if "://" in path else str(folder / path))


def test_a_label_gap_is_told_and_a_broken_picture_named(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for member, content in {"a.png": encoded()[0], "a.cls": b"0", "b.png": b"no picture", "b.cls": b"2"}.items():
            info = tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    path = str(tmp_path / "a.tar")
    with pytest.raises(BrokenImage, match=r"a\.tar:b\.png cannot be used: it is no picture"):
        sources.webdataset(path=path)
    with pytest.raises(ValueError, match="labels have gaps: no image of class 1"):
        sources.webdataset(path=path, stream=True)


def idx(array):
    """The MNIST family's file format: a magic number, the sizes, the bytes."""
    return struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def fashion(root, pixels, labels):
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte").write_bytes(idx(pixels))
    (raw / "train-labels-idx1-ubyte").write_bytes(idx(labels))
    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (raw / name).write_bytes(b"")
    return {"train": True}


def svhn(root, pixels, labels):
    io_ = pytest.importorskip("scipy.io")
    root.mkdir(exist_ok=True)
    # MATLAB's: the image is the last axis, and 0 is written 10.
    given = {"X": pixels.transpose(1, 2, 3, 0), "y": np.where(labels == 0, 10, labels)[:, None]}
    io_.savemat(root / "train_32x32.mat", given)
    return {"split": "train"}


@pytest.mark.parametrize("stream", [False, True], ids=["prepared", "streamed"])
@pytest.mark.parametrize(("name", "write", "shape"), [("FashionMNIST", fashion, (28, 28)), ("SVHN", svhn, (32, 32, 3))])
def test_torchvisions_data_sets_from_their_files(tmp_path, monkeypatch, name, write, shape, stream):
    pixels = GENERATOR.integers(0, 256, (20, *shape), dtype=np.uint8)
    labels = np.arange(20, dtype=np.uint8) % 10
    options = write(tmp_path / "root", pixels, labels)
    monkeypatch.setattr("torchvision.datasets.svhn.check_integrity", lambda *_: True)  # the real files' checksums
    images = sources.torchvision(
        path=str(tmp_path / "root"), dataset=name, options=options, resolution=14, stream=stream
    )
    assert (images.num_classes, len(images)) == (10, 20)
    rgb = pixels if pixels.ndim == 4 else np.repeat(pixels[..., None], 3, axis=3)
    assert all_of(images, 20) == expected(rgb, labels.tolist(), 14)


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        ("SVNH", {}, "dataset is 'SVNH', none of torchvision's; did you mean 'SVHN'"),
        ("SVHN", {"spilt": "train"}, "SVHN has no option 'spilt'; did you mean 'split'"),
        ("SVHN", {"download": True}, "SVHN has no option 'download'"),
        ("SVHN", {"split": "train"}, "does not hold SVHN: "),
    ],
)
def test_what_torchvision_does_not_find_is_told(tmp_path, dataset, options, message):
    with pytest.raises(ValueError, match=message):
        sources.torchvision(path=str(tmp_path), dataset=dataset, options=options)
