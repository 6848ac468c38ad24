"""Where the published grids find their data: a path for each data set, given to a study and no part of any run.

A run's identity has the data set's name and options, not its path: the same files may lie elsewhere tomorrow, or on
another machine, and are the same data. That they are the same is seen in them: the store keeps how many images and
classes there are and the mean brightness of some, and other data under the same name is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from poise.data import SOURCES
from poise.metrics.extractors import default_extractor
from poise.metrics.generators import STEPS, held_out_source
from poise.registry import nearest
from poise.studies.results import Results
from poise.studies.trial import Trial
from poise.training.sections import Choice

Paths = Mapping[str, str]
"""by a data set's name, as recipes have it, the path of its files"""

REMOTE = ("huggingface",)
"""sources whose path may be a name"""
SAMPLED, NEAR = 64, 1.0
"""images looked at, and how far their mean brightness, 0–255, may lie apart: decoders of JPEG round differently"""


def parse_paths(words: Iterable[str]) -> dict[str, str]:
    """``["cifar10=/data/cifar"]`` → ``{"cifar10": "/data/cifar"}``, absolute. Raises ValueError for other words."""
    paths: dict[str, str] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not (name and equals and path):
            raise ValueError(f"--data is {word!r}; give NAME=PATH, such as cifar10=/data/cifar10")
        if name in paths:
            raise ValueError(f"--data {name} is given twice; give it once")
        # Absolute, for workers stand elsewhere; the Hub's names are none of this machine's paths.
        paths[name] = path if name in REMOTE else str(Path(path).expanduser().resolve())
    return paths


def source_of(trial: Trial) -> Choice | None:
    """The data that a trial needs a path to; None where it reads none, is built in, or has its path."""
    from poise.studies.measures import WITHOUT_DATA

    if not trial.recipe or trial.work in WITHOUT_DATA:
        return None
    data = trial.resolved().data
    return data if _takes_path(data.name) and not data.options.get("path") else None


@cache
def _takes_path(name: str) -> bool:
    return "path" in SOURCES.options(name)


def needed(trials: Iterable[Trial]) -> list[str]:
    """Names of the data sets whose paths are to be given, in the order they come."""
    return list(dict.fromkeys(source.name for trial in trials if (source := source_of(trial)) is not None))


def flags(names: Iterable[str]) -> str:
    """``--data cifar10=PATH --data stl10=PATH``"""
    return " ".join(f"--data {name}=PATH" for name in names)


def check_paths(paths: Paths, trials: Sequence[Trial]) -> None:
    """What can be said before anything is opened.

    Raises:
        ValueError: a data set that none of the trials reads, or a path that is not there.
    """
    if not paths:
        return
    names = needed(trials)
    for name, path in paths.items():
        if name not in names:
            told = nearest(name, names) if names else "they need none: leave --data out"
            raise ValueError(f"--data {name}: none of these runs reads {name!r}; {told}")
        if name not in REMOTE and not set(path) & set("*{") and not Path(path).exists():  # shards have patterns
            raise ValueError(f"--data {name}: {path} does not exist")


def open_data(paths: Paths, trials: Sequence[Trial], results: Results, say: Callable[[str], None]) -> None:
    """Open the data of trials once, here, before any of them is done: pictures are then prepared for all of them.

    Raises:
        ValueError: no path to a data set, files that are not it, none held out where a measure needs some, nothing to
            judge its images by, or other images than earlier runs in this store had.
    """
    readers: dict[str, list[Trial]] = {}
    sources: dict[str, Choice] = {}
    for trial in trials:
        if (source := source_of(trial)) is not None:
            key = f"{source.name} {json.dumps(source.options, sort_keys=True)}"
            sources[key] = source
            readers.setdefault(key, []).append(trial)
    if missing := [name for name in dict.fromkeys(one.name for one in sources.values()) if name not in paths]:
        raise ValueError(f"these runs need data that lies somewhere: give {flags(missing)}")
    for key, source in sources.items():
        path = paths[source.name]
        options = {**source.options, "path": path}
        try:
            found = SOURCES.build(source.name, **options)
            sample = _sample(found)
            if any(measure in STEPS for trial in readers[key] for measure in trial.measures):
                held_out_source(source.name, options)
            if any(trial.work == "train" and trial.resolved().evaluate_every for trial in readers[key]):
                default_extractor()
        except (ValueError, OSError) as error:
            raise ValueError(f"--data {source.name}: {' '.join(str(error).split())}") from error
        known = results.data(key)
        if known is None:
            results.keep_data(key, path, json.dumps(sample))
        elif not _alike(json.loads(known[1]), sample):
            raise ValueError(
                f"--data {source.name}: the images in {path} are not those in {known[0]}, which runs in "
                f"{results.folder} were made of: give those, or another --folder"
            )
        say(f"{source.name}: {sample['images']} images of {found.resolution} pixels in {path}")


def placed(trial: Trial, paths: Paths) -> Trial:
    """The trial with the path to its data in its recipe: what is done, while what is kept is the trial without."""
    source = source_of(trial)
    return trial if source is None else replace(trial, changes={**trial.changes, "data.path": paths[source.name]})


def _sample(images: Any) -> dict[str, Any]:
    """What tells one collection of images from another, whatever decoded them."""
    count = len(images) if hasattr(images, "__len__") else 0  # a stream does not know
    pixels, _ = images.batch(0, min(SAMPLED, count or SAMPLED))
    means = [round(mean, 2) for mean in pixels.float().mean((1, 2, 3)).tolist()]
    return {"images": count, "classes": images.num_classes, "means": means}


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    counted = all(one[key] == other[key] for key in ("images", "classes"))
    pairs = zip(one["means"], other["means"], strict=True)
    return counted and all(abs(a - b) <= NEAR for a, b in pairs)
