"""What ``poise evaluate`` takes: a folder or zip of images, a generator's file, and what to compare them with."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from poise.convert import load
from poise.data import SOURCES, Images, sources
from poise.data.files import Pictures
from poise.data.stored import StoredImages
from poise.metrics.evaluation import labelled
from poise.metrics.features import Batches, available, real_batches
from poise.sampling import Sampler


def folder_images(path: str | Path, resolution: int | None = None) -> StoredImages:
    """The pictures of a folder or zip as they are, or all brought to ``resolution`` pixels.

    Raises:
        ValueError: no pictures, or pictures of several sizes, or not square, and no resolution was given.
    """
    pictures = Pictures(path)
    sizes, grey = _looked_at(pictures)
    if resolution is None:
        (width, height), _ = sizes.most_common(1)[0]
        if len(sizes) > 1 or width != height:
            listed = ", ".join(f"{w}×{h}" for (w, h), _ in sizes.most_common(3))
            more = " …" if len(sizes) > 3 else ""
            raise ValueError(
                f"{path} has images of {listed}{more} pixels; figures depend on their resizing: give --resolution N "
                "to bring the largest centred square of each to N pixels"
            )
        resolution = width
    if grey:
        of_all = "" if grey == len(pictures) else f" of {len(pictures)}"
        warnings.warn(
            f"{path} has {grey}{of_all} grey images; they are judged as three equal channels",
            RuntimeWarning,
            stacklevel=2,
        )
    return _judged(lambda: sources.folder(str(path), resolution, flip=False))


def _looked_at(pictures: Pictures) -> tuple[Counter[tuple[int, int]], int]:
    """Pictures by (width, height), and how many are grey, from their headers."""

    def look(index: int) -> tuple[tuple[int, int], bool] | None:
        try:
            with pictures.open(index) as file, Image.open(file) as image:
                return image.size, image.mode in ("1", "L", "LA", "I", "F", "I;16")
        except (OSError, ValueError, SyntaxError):
            return None  # told with its reason when it is read

    with ThreadPoolExecutor() as threads:
        found = [one for one in threads.map(look, range(len(pictures))) if one is not None]
    if not found:
        raise ValueError(f"none of the {len(pictures)} images of {pictures.path} can be read")
    return Counter(size for size, _ in found), sum(grey for _, grey in found)


def _judged(build: Callable[[], Any]) -> Any:
    """Build a source without the warning that its images are few to train on: a judgement has warnings of its own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* images are few")
        return build()


def data_named(name: str, resolution: int | None = None) -> Images:
    """A folder or zip, or a source of ``poise data`` by its name, with a path after a colon: ``cifar10:/data/cifar``.

    Raises:
        ValueError: neither a path that is there nor a known source, or what the source says.
    """
    kind, _, path = name.partition(":")
    if kind in SOURCES and not Path(name).exists():
        options: dict[str, Any] = {"path": path} if path else {}
        if resolution and "resolution" in SOURCES.options(kind):
            options["resolution"] = resolution
        return _judged(lambda: SOURCES.build(kind, **options))
    if Path(name).expanduser().exists():
        return folder_images(name, resolution)
    raise ValueError(f"{name} is neither a folder or zip of images nor a data source; sources: {', '.join(SOURCES)}")


def images_to_judge(
    target: str | Path, against: Images, samples: int | None, seed: int, device: str, resolution: int | None
) -> tuple[Batches, int]:
    """Images of a folder, zip or generator's file, and how many.

    Args:
        samples: how many; all of a folder, 10,000 of a generator by default. seed: which of a generator's.

    Raises:
        ValueError: the folder's images differ in size from those compared with, or the file holds no generator.
    """
    path = Path(target).expanduser()
    if path.is_dir() or path.suffix.lower() == ".zip":
        shown = folder_images(path, resolution)
        if shown.resolution != against.resolution:
            raise ValueError(
                f"{target} has images of {shown.resolution} pixels, those compared with have {against.resolution}; "
                f"give --resolution {min(shown.resolution, against.resolution)} to bring both to one size"
            )
        n = available(shown, samples or len(shown))
        if samples and samples > n:
            raise ValueError(f"samples is {samples}; {target} has {n} images")
        return real_batches(shown, n), n
    n = 10_000 if samples is None else samples
    return labelled(sampler_of(path, device), n, seed), n


def sampler_of(path: str | Path, device: str) -> Sampler:
    """The generator of a file, ready to draw from. Raises ValueError where it holds none."""
    file = Path(path).expanduser()
    if file.parent.parent.name == "checkpoints":
        run, step = file.parents[2], file.parent.name.removeprefix("step-")
        raise ValueError(f"{path} belongs to a run; give the run, {run}, and --checkpoint {step}")
    generator = load(file)
    if not hasattr(generator, "latent_dim"):
        raise ValueError(f"{path} holds a {type(generator).__name__}, no generator; nothing can be drawn from it")
    return Sampler(generator.to(device))
