"""Sources on disk: folders and zips, prepared once or streamed, and the authors' own files in miniature."""

import pickle
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from poise.cache import cache_folder
from poise.data import SOURCES
from poise.data.files import Pictures
from poise.data.pictures import fitted
from poise.data.prepared import BrokenImage, Reading, prepared
from poise.data.sources import celeba, cifar10, cifar100, folder, stl10

pytestmark = pytest.mark.filterwarnings("ignore:.* images are few")
GENERATOR = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POISE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tree(tmp_path):
    """Two classes of pictures, of sizes of their own."""
    root = tmp_path / "pictures"
    for index in range(10):
        file = root / ("cat", "dog")[index % 2] / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        size = (8 + index, 9, 3)
        Image.fromarray(GENERATOR.integers(0, 256, size, dtype=np.uint8)).save(file)
    return root


def zipped(root):
    path = root.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in root.rglob("*.png"):
            archive.write(file, file.relative_to(root))
    return path


def expected(root, resolution):
    """Every picture, fitted, by name; with its class."""
    files = sorted(root.rglob("*.png"), key=lambda file: file.relative_to(root).as_posix())
    return [(fitted(np.asarray(Image.open(file)), resolution), file.parent.name) for file in files]


def all_of(images):
    """Images and labels of one epoch, by their bytes."""
    pixels, labels = images.batch(0, len(images))
    rows = pixels.permute(0, 2, 3, 1).numpy()
    return sorted((row.tobytes(), int(label)) for row, label in zip(rows, labels, strict=True))


@pytest.mark.parametrize("stream", [False, True], ids=["prepared", "streamed"])
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_a_folder_or_zip_gives_each_picture_with_its_class(tree, packed, stream):
    images = folder(str(zipped(tree) if packed else tree), 6, flip=False, stream=stream)
    assert (images.num_classes, images.resolution, len(images)) == (2, 6, 10)
    by_hand = sorted((pixels.tobytes(), ("cat", "dog").index(kind)) for pixels, kind in expected(tree, 6))
    assert all_of(images) == by_hand
    pixels, labels = images.batch(3, 4)
    assert (pixels.shape, pixels.dtype, labels.dtype) == ((4, 3, 6, 6), torch.uint8, torch.int64)
    assert pixels.is_contiguous(memory_format=torch.channels_last)


def test_streamed_is_prepared(tree):
    one, other = (folder(str(tree), 5, stream=stream, seed=4) for stream in (False, True))
    for start in (0, 7, 14, 2):
        for found, same in zip(one.batch(start, 7), other.batch(start, 7), strict=True):
            assert torch.equal(found, same)


def test_every_second_picture_is_mirrored(tree):
    plain, flipped = (folder(str(tree), 6, flip=flip).batch(0, 400)[0] for flip in (False, True))
    same = (plain == flipped).flatten(1).all(1)
    mirrored = (plain.flip(3) == flipped).flatten(1).all(1)
    assert (same | mirrored).all()
    assert 150 < int(mirrored.sum()) < 250


def test_batches_do_not_write_into_the_store(tree):
    images = folder(str(tree), 6, flip=True)
    before = all_of(folder(str(tree), 6, flip=False))
    for start in range(0, 100, 10):
        images.batch(start, 10)[0].zero_()
    assert all_of(folder(str(tree), 6, flip=False)) == before


def test_pictures_are_prepared_once_and_again_when_one_changes(tree):
    folder(str(tree), 6)
    (made,) = cache_folder().iterdir()
    stamp = (made / "pixels.uint8").stat().st_mtime_ns
    folder(str(tree), 6)
    assert [path.name for path in cache_folder().iterdir()] == [made.name]
    assert (made / "pixels.uint8").stat().st_mtime_ns == stamp
    Image.fromarray(np.zeros((9, 9, 3), dtype=np.uint8)).save(tree / "cat" / "0.png")
    folder(str(tree), 6)
    folder(str(tree), 5)
    assert len(list(cache_folder().iterdir())) == 3


def test_pictures_at_the_top_have_no_classes(tree):
    assert folder(str(tree / "cat"), 6).num_classes == 0


def test_hidden_files_and_other_kinds_are_passed_over(tree):
    (tree / "cat" / ".hidden.png").write_bytes(b"")
    (tree / "cat" / "notes.txt").write_text("no picture")
    (tree / "__MACOSX").mkdir()
    (tree / "__MACOSX" / "0.png").write_bytes(b"")
    assert len(Pictures(tree)) == 10


@pytest.mark.parametrize("stream", [False, True], ids=["prepared", "streamed"])
def test_a_broken_picture_stops_with_its_path_and_reason(tree, stream):
    (tree / "cat" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(BrokenImage, match=r"cat/broken\.png cannot be used: it is no picture of a known format"):
        folder(str(tree), 6, stream=stream).batch(0, 11)


def test_broken_pictures_are_skipped_and_counted(tree, capsys):
    for name in ("a.png", "b.png"):
        (tree / "cat" / name).write_bytes(b"no picture")
    images = folder(str(tree), 6, on_error="skip", flip=False)
    assert len(images) == 10
    assert capsys.readouterr().out.startswith("2 of 12 images skipped, the first: ")
    assert sorted(images.labels.tolist()) == [0] * 5 + [1] * 5
    with pytest.raises(BrokenImage, match=r"a\.png cannot be used"):
        folder(str(tree), 6)


def test_streaming_puts_the_next_picture_in_a_broken_ones_place(tree):
    (tree / "cat" / "a.png").write_bytes(b"no picture")
    with pytest.warns(RuntimeWarning, match=r"skipped, 1 so far: .*a\.png"):
        pixels, _ = folder(str(tree), 6, on_error="skip", stream=True).batch(0, 11)
    assert len(pixels) == 11


def test_nothing_but_broken_pictures_is_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"no image of .* can be used; the first: .*a\.png"):
        prepared(Reading(Pictures(tmp_path), 4), on_error="skip")


def test_a_failed_preparation_leaves_nothing(tree):
    (tree / "cat" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(BrokenImage):
        folder(str(tree), 6)
    assert list(cache_folder().iterdir()) == []


def loose(root):
    shutil.copy(root / "cat" / "0.png", root)


def emptied(root):
    shutil.rmtree(root)
    root.mkdir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shutil.rmtree, "does not exist; give a folder or zip"),
        (emptied, "has no images; known endings: .png"),
        (loose, r"images both at the top \(0\.png\) and in folders \(cat\)"),
    ],
)
def test_a_folder_that_cannot_be_used_is_told(tree, change, message):
    change(tree)
    with pytest.raises(ValueError, match=message):
        folder(str(tree))


def test_a_file_that_is_no_zip_and_no_path_at_all(tmp_path):
    file = tmp_path / "pictures.zip"
    file.write_bytes(b"no zip")
    with pytest.raises(ValueError, match="is a file but no zip"):
        folder(str(file))
    with pytest.raises(ValueError, match="path is empty; give a folder or zip file of images"):
        folder()


# The authors' own files, in miniature.


@pytest.mark.parametrize(
    ("source", "kind", "label"), [(cifar10, "CIFAR10", "labels"), (cifar100, "CIFAR100", "fine_labels")]
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_cifar_from_its_pickles(tmp_path, monkeypatch, source, kind, label, split):
    """The archives' layout: rows of 3072 bytes, red, green and blue planes one after the other."""
    whole = getattr(datasets, kind)
    classes = int(kind.removeprefix("CIFAR"))
    base = tmp_path / whole.base_folder
    base.mkdir()
    files = (whole.train_list if split == "train" else whole.test_list)[:]
    rows: list[np.ndarray] = []
    labels: list[int] = []
    for file, _ in files:
        planes = GENERATOR.integers(0, 256, (classes, 3072), dtype=np.uint8)
        with (base / file).open("wb") as stream:
            pickle.dump({"data": planes, label: list(range(classes))}, stream)
        rows.append(planes)
        labels += range(classes)
    with (base / whole.meta["filename"]).open("wb") as stream:
        pickle.dump({whole.meta["key"]: [str(c) for c in range(classes)]}, stream)
    # The real files' checksums are torchvision's to check.
    for attribute in ("train_list", "test_list"):
        listed = files if attribute == f"{split}_list" else []
        monkeypatch.setattr(whole, attribute, [[file, None] for file, _ in listed])
    monkeypatch.setattr(whole, "meta", {**whole.meta, "md5": None})

    images = source(str(tmp_path), split, flip=False)
    assert (images.num_classes, images.resolution, len(images)) == (classes, 32, classes * len(files))
    by_hand = np.concatenate(rows).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    assert all_of(images) == sorted((row.tobytes(), label) for row, label in zip(by_hand, labels, strict=True))


def test_stl10_from_its_binary(tmp_path, monkeypatch):
    """Images in column-major order, planes one after the other, and no header."""
    base = tmp_path / "stl10_binary"
    base.mkdir()
    upright = GENERATOR.integers(0, 256, (6, 3, 96, 96), dtype=np.uint8)
    (base / "unlabeled_X.bin").write_bytes(upright.transpose(0, 1, 3, 2).tobytes())
    (base / "class_names.txt").write_text("\n".join(map(str, range(10))))
    monkeypatch.setattr(datasets.STL10, "train_list", [["unlabeled_X.bin", None]] * 3)
    monkeypatch.setattr(datasets.STL10, "test_list", [])
    images = stl10(str(tmp_path), resolution=48, flip=False)
    assert (images.num_classes, images.resolution, len(images)) == (0, 48, 6)
    small = upright.reshape(6, 3, 48, 2, 48, 2).mean(axis=(3, 5)).transpose(0, 2, 3, 1)
    found = images.store.read(torch.arange(6)).numpy()
    assert np.abs(found - small).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10"])
def test_files_that_are_not_there_are_told(tmp_path, name):
    with pytest.raises(ValueError, match="does not hold"):
        SOURCES.build(name, path=str(tmp_path))
    with pytest.raises(ValueError, match="split is 'val'"):
        SOURCES.build(name, path=str(tmp_path), split="val")


def test_celeba_is_cut_to_its_face(tmp_path):
    picture = GENERATOR.integers(0, 256, (218, 178, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "000001.png")
    images = SOURCES.build("celeba", path=str(tmp_path), flip=False)
    assert (images.num_classes, images.resolution) == (0, 64)
    found = images.batch(0, 1)[0][0].permute(1, 2, 0).numpy()
    assert np.array_equal(found, fitted(picture[29:189, 9:169], 64))


def test_celeba_is_parted_by_its_authors_list(tmp_path):
    numbers = {"train": (1, 162770), "val": (162771, 182637), "test": (182638, 202599)}
    for shade, number in enumerate(sorted(number for ends in numbers.values() for number in ends)):
        Image.fromarray(np.full((218, 178, 3), 40 * shade, dtype=np.uint8)).save(tmp_path / f"{number:06d}.png")
    Image.fromarray(np.zeros((218, 178, 3), dtype=np.uint8)).save(tmp_path / "another.png")
    shades = {}
    for split in (*numbers, "all"):
        images = celeba(str(tmp_path), split, resolution=4, flip=False)
        shades[split] = sorted(images.batch(0, len(images))[0].float().mean((1, 2, 3)).tolist())
    assert shades == {"train": [0, 40], "val": [80, 120], "test": [160, 200], "all": [0, 0, 40, 80, 120, 160, 200]}
    with pytest.raises(ValueError, match="split is 'tset'; CelebA has 'all', 'train', 'val', 'test'"):
        celeba(str(tmp_path), "tset")


def test_balanced_classes_come_equally_often(tree):
    for file in sorted((tree / "cat").iterdir())[1:]:
        file.unlink()
    labels = folder(str(tree), 6, balanced=True).batch(0, 60)[1]
    assert labels.bincount().tolist() == [30, 30]
