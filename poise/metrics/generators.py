"""Judging a generator: the figures of its images, and reconstruction, which needs the generator itself."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from poise.data import SOURCES, Images
from poise.metrics.extractor import Extractor
from poise.metrics.features import Batches, available, real_batches
from poise.metrics.figures import Figure, chosen
from poise.metrics.judging import Judgement, judge
from poise.metrics.reconstruction import FINAL, IMAGES, RUNNING, Reconstruction, reconstruct
from poise.metrics.sheets import reconstruction_sheet
from poise.sampling import Sampler

STEPS = {"reconstruction": RUNNING, "reconstruction-2000": FINAL}
"""of the metrics that need a generator"""
SCENES = (
    *("bedroom", "bridge", "church_outdoor", "classroom", "conference_room"),
    *("dining_room", "kitchen", "living_room", "restaurant", "tower"),
)
"""of LSUN, each with 300 pictures that its authors set apart"""
TEST = {
    "stacked-digits": ("split", {"train": "test"}),
    "cifar10": ("split", {"train": "test"}),
    "cifar100": ("split", {"train": "test"}),
    "stl10": ("split", {"unlabeled": "test", "train": "test", "train+unlabeled": "test"}),
    "celeba": ("split", {"train": "test", "val": "test"}),
    "lsun": ("category", {f"{scene}_train": f"{scene}_val" for scene in SCENES}),
}
"""data with images set apart by those who published it: the option, and what it is for training and for testing"""


def judge_generator(
    sampler: Sampler,
    batches: Batches,
    n: int,
    seed: int,
    against: Images,
    metrics: str | Iterable[str],
    extractor: str | Extractor | None = None,
    precision: str = "fp32",
    held_out: Images | None = None,
) -> Judgement:
    """Judge a generator by its images, as ``judge`` does, and by what it can reconstruct.

    Args:
        sampler: the generator. batches, n: images that it drew with this seed.
        against, metrics, extractor, precision: as ``judge`` takes them; precision is the reconstruction's, too.
        held_out: images it never saw, to reconstruct: n of them at most, and 200 for 50 steps, 2,000 for 2,000.

    Raises:
        ValueError: as ``judge`` and ``reconstruct``, or no held-out images where they are needed.
    """
    names = chosen(metrics)
    inside = [name for name in names if name in STEPS]
    if inside and held_out is None:
        raise ValueError(
            "reconstruction needs images held out from training; give --against, a folder or source of them"
        )
    targets = None if held_out is None or not inside else held_out_images(sampler, held_out, min(n, _most(inside)))
    found = Judgement(
        [], {"extractor": "pixels", "precision": precision}, 0 if targets is None else len(targets[0]), 0, 0.0
    )
    if outside := [name for name in names if name not in STEPS]:

        def numbered(numbers: Tensor) -> Tensor:
            drawn = [sampler.sample(1, seed=seed, start=int(number)) for number in numbers]
            return torch.cat(drawn).permute(0, 3, 1, 2)

        found = judge(batches, n, against, outside, extractor, precision, sampler.device, numbered=numbered)
    if targets is None:
        return found
    started = time.perf_counter()
    remade = reconstruct(sampler.generator, *targets, [STEPS[name] for name in inside], precision)
    spent = time.perf_counter() - started
    return dataclasses.replace(
        found,
        figures=[*found.figures, *figures_of(remade, spent)],
        seconds=found.seconds + spent,
        pictures={**found.pictures, "reconstruction": reconstruction_sheet(sampler.generator, *targets, remade)},
    )


def _most(names: Iterable[str]) -> int:
    return max(IMAGES[STEPS[name]] for name in names)


def figures_of(found: Reconstruction, seconds: float) -> list[Figure]:
    """``reconstruction_50`` and the like: mean errors over images, with their intervals."""
    return [
        Figure(
            f"reconstruction_{steps}",
            *_split(found, steps),
            n=len(found.latents),
            seconds=seconds,
            note=f"over held-out images, in [−1, 1]; {steps} steps of RMSProp from 0",
        )
        for steps in found.errors
    ]


def _split(found: Reconstruction, steps: int) -> tuple[float, str, str, tuple[float, float] | None]:
    value, reach = found.mean(steps)
    return value, "mean squared error", "lower", reach


def held_out_images(sampler: Sampler, held_out: Images, n: int) -> tuple[Tensor, Tensor | None]:
    """The first n held-out images, uint8 (n, 3, H, W), and for a generator with classes their labels, else None.

    Raises:
        ValueError: the generator has classes and the images have others, or none.
    """
    classes = int(sampler.generator.num_classes)  # type: ignore[arg-type]
    if classes and held_out.num_classes != classes:
        raise ValueError(
            f"this generator has {classes} classes, the held-out images {held_out.num_classes}; they must fit"
        )
    parts = list(real_batches(held_out, available(held_out, n)))
    images = torch.cat([images for images, _ in parts])
    return images, torch.cat([labels for _, labels in parts if labels is not None]) if classes else None


def held_out_source(name: str, options: dict[str, Any]) -> Images:
    """The images held out from a source that a generator was trained on; takes and raises as ``held_out_options``."""
    return SOURCES.build(name, **held_out_options(name, options))


def held_out_options(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options by which a source gives the images held out from it.

    Args:
        name: of ``poise.data.SOURCES``. options: those it is trained with.

    Raises:
        ValueError: it has none that were set apart, or is trained on these.
    """
    told = "give --against, a folder or source of images that training did not see"
    if name not in TEST:
        raise ValueError(f"{name} has no images set apart for testing; {told}")
    option, tests = TEST[name]
    trained = options.get(option, SOURCES.options(name)[option].default)
    if trained not in tests:
        saw = "all" if trained == "all" else f"the {trained}"
        raise ValueError(f"training saw {saw} images of {name}; train with {option}={next(iter(tests))}, or {told}")
    kept = {key: value for key, value in options.items() if key not in ("flip", "balanced")}
    without = {"flip": False} if "flip" in SOURCES.options(name) else {}
    return {**kept, **without, option: tests[trained]}
