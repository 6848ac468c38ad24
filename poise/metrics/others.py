"""Judging what is no run: the images of a folder or zip, or a generator's file."""

from __future__ import annotations

import warnings
from pathlib import Path

from torch import Tensor

from poise.convert import load
from poise.data import Images
from poise.metrics.extractor import Extractor
from poise.metrics.figures import chosen
from poise.metrics.generators import STEPS, judge_generator
from poise.metrics.judging import Judgement, judge
from poise.metrics.sheets import numbered
from poise.metrics.sources import folder_images, images_to_judge
from poise.sampling import Sampler


def judge_other(
    target: str | Path,
    against: Images,
    samples: int | None,
    seed: int,
    device: str,
    resolution: int | None,
    metrics: str,
    extractor: str | Extractor | None = None,
    precision: str = "fp32",
) -> Judgement:
    """Judge a folder, zip or generator's file; a generator reconstructs images of ``against``, too.

    Takes and raises what ``images_to_judge``, ``judge`` and ``judge_generator`` do.
    """
    names = chosen(metrics)
    inside = [name for name in names if name in STEPS]
    path = Path(target).expanduser()
    is_folder = path.is_dir() or path.suffix.lower() == ".zip"
    if is_folder and inside:
        raise ValueError(f"{inside[0]} needs a generator, {target} has only images; give a run or a generator's file")
    batches, n = images_to_judge(target, against, samples, seed, device, resolution)
    if not is_folder:
        return judge_generator(
            Sampler(load(path).to(device)), batches, n, seed, against, names, extractor, precision, against
        )

    def again(numbers: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said when the folder was opened first
            return numbered(folder_images(path, resolution), numbers)

    return judge(batches, n, against, names, extractor, precision, device, numbered=again)
