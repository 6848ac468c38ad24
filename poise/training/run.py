"""A run: one training and its folder.

``recipe.yaml`` · ``metrics.jsonl`` · TensorBoard events in ``tensorboard/`` · ``samples/`` · ``checkpoints/`` ·
``evaluation.json`` · ``diagnosis.json`` · ``report.html``.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from poise.data import SOURCES, Images
from poise.models import create
from poise.norms import normalize
from poise.sampling import LATENTS, Latent, Sampler
from poise.training.checkpoint import check, find, load_network
from poise.training.hardware import choose_device
from poise.training.recipe import Recipe
from poise.training.sections import RecipeError


class RunError(RuntimeError):
    """A run folder that cannot be used as asked; the message is one line and says what to do."""

    is_of_all = True
    """where several processes train, every one raises it"""


class Run:
    """A run folder, read.

    Args:
        path: the folder.

    Raises:
        RunError: it is not there or holds no run.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path / "recipe.yaml").is_file():
            what = "has no recipe.yaml" if self.path.is_dir() else "is no folder"
            raise RunError(f"{self.path} is no run: it {what}")
        try:
            self.recipe = Recipe.load(self.path / "recipe.yaml")
        except RecipeError as error:
            raise RunError(f"{self.path / 'recipe.yaml'} is damaged: {error}") from None
        if not self.recipe.versions:  # they are its end, and what is left of a cut recipe may well be a recipe
            raise RunError(
                f"{self.path / 'recipe.yaml'} is damaged: it was cut short, its end, versions, is missing; "
                "put it right by hand, or train again with --overwrite"
            )

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def records(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``; a last line cut short by a crash is left out."""
        return list(read_records(self.path / "metrics.jsonl"))

    def evaluation(self) -> dict[str, Any] | None:
        """The last judgement as kept in ``evaluation.json``, or None before the first."""
        path = self.path / "evaluation.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def data(self) -> Images:
        """The source the run was trained on."""
        return SOURCES.build(self.recipe.data.name, **self.recipe.data.options, **_seeded(self.recipe))

    def sampler(self, network: str = "ema", device: str = "auto", checkpoint: str | int = "newest") -> Sampler:
        """The trained generator; arguments and errors as ``sampler_and_step``."""
        return self.sampler_and_step(network, device, checkpoint)[0]

    def sampler_and_step(
        self, network: str = "ema", device: str = "auto", checkpoint: str | int = "newest"
    ) -> tuple[Sampler, int]:
        """The trained generator from a checkpoint that holds it whole, and the step it is from.

        Args:
            network: "ema" for the averaged weights, "generator" for the last ones.
            device: as in a recipe.
            checkpoint: "newest", "best" (by the recipe's ``best_by``), or a step.

        Raises:
            CheckpointError: it is not usable. A damaged newest one is passed over with a warning.
        """
        if network not in ("ema", "generator"):
            raise ValueError(f"network is {network!r}; allowed: 'ema' (averaged weights) and 'generator' (last ones)")
        needed = [f"{network}.safetensors"]
        path, complaints = find(self.checkpoints, checkpoint, needed)
        for complaint in complaints:
            warnings.warn(complaint, stacklevel=3)
        generator, _ = create(self.recipe.model.name, **self.recipe.model.options)
        normalize(generator, self.recipe.g_norm.name, **self.recipe.g_norm.options)
        generator.load_state_dict(load_network(path, network))
        sampler = Sampler(generator.to(choose_device(device)), build_latent(self.recipe))
        return sampler, check(path, needed).step

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Replace a JSON file of the folder at once; what is not finite becomes null."""
        write_text(self.path / name, json.dumps(_finite(value), indent=1, ensure_ascii=False) + "\n")


def load(path: str | Path, network: str = "ema", device: str = "auto", checkpoint: str | int = "newest") -> Sampler:
    """The trained generator of a run: ``poise.load("runs/x").sample(64, seed=0)`` → uint8 (64, H, W, 3).

    Args:
        path: a run folder. network: "ema" or "generator". device: "auto", "cpu", "cuda" …
        checkpoint: "newest", "best" (by the recipe's ``best_by``), or a step.

    Raises:
        RunError: no run there. CheckpointError: no usable checkpoint.
    """
    return Run(path).sampler(network, device, checkpoint)


def build(recipe: Recipe) -> tuple[Any, Any, Images]:
    """The recipe's (G, D, data), D normalized. Raises ValueError where they do not fit each other."""
    with _naming("data"):
        data = SOURCES.build(recipe.data.name, **recipe.data.options, **_seeded(recipe))
    with _naming("model"):
        networks: tuple[Any, Any] = create(recipe.model.name, **recipe.model.options)
    generator, discriminator = networks
    if bool(generator.resolution) != bool(data.resolution):
        made, held = ("images" if size else "points in the plane" for size in (generator.resolution, data.resolution))
        raise RecipeError(f"model {recipe.model.name} makes {made}, data {recipe.data.name} has {held}: change one")
    if recipe.augment and not data.resolution:
        raise RecipeError(
            f"augment: given {recipe.augment}, but {recipe.data.name} has points, not images: leave it out"
        )
    if generator.resolution != data.resolution:
        raise RecipeError(
            f"model makes {generator.resolution} pixels, data has {data.resolution}: "
            f"set model.resolution={data.resolution} or data.resolution={generator.resolution}"
        )
    if generator.num_classes not in (0, data.num_classes):
        raise RecipeError(
            f"model has {generator.num_classes} classes, data has {data.num_classes}: "
            f"set model.num_classes={data.num_classes}"
        )
    for field, network in (("d_norm", discriminator), ("g_norm", generator)):
        norm = getattr(recipe, field)
        with _naming(field):
            normalize(network, norm.name, **norm.options)
    return generator, discriminator, data


def build_latent(recipe: Recipe) -> Latent:
    """The distribution of the recipe's latents. Raises RecipeError for options out of range."""
    with _naming("latent"):
        return LATENTS.build(recipe.latent.name, **recipe.latent.options)


@contextmanager
def _naming(field: str) -> Iterator[None]:
    """Puts the recipe's field before what a room says of its options."""
    try:
        yield
    except ValueError as error:
        raise RecipeError(f"{field}: {error}") from None


def _seeded(recipe: Recipe) -> dict[str, int]:
    return {} if "seed" in recipe.data.options else {"seed": recipe.seed}


def run_folder(recipe: Recipe, out: str | Path | None) -> Path:
    """Where a recipe's run goes: ``out``, or ``runs/NAME``."""
    return Path(out) if out is not None else Path("runs") / recipe.name


def prepare_folder(out: Path, resume: bool, overwrite: bool) -> None:
    """Make ``out`` ready for a new run, or make sure that it holds one to resume.

    Raises:
        RunError: it holds a run and neither was asked for, holds something else, or there is nothing to resume.
    """
    holds_run = (out / "recipe.yaml").exists()
    if resume and overwrite:
        raise RunError("--resume goes on with a run and --overwrite deletes it: give one of them")
    if resume:
        if not holds_run:
            raise RunError(f"{out} holds no run to resume; leave out --resume to start one")
        return
    if holds_run and not overwrite:
        raise RunError(f"{out} holds a run; --resume goes on with it, --overwrite deletes it and starts anew")
    if holds_run:
        _delete(out)
    elif out.exists() and (not out.is_dir() or any(path.name != ".recipe.yaml.unfinished" for path in out.iterdir())):
        raise RunError(f"{out} exists and is no run; give a new or empty folder as --out")
    out.mkdir(parents=True, exist_ok=True)


def _delete(out: Path) -> None:
    """Empty a run folder, its recipe last: a crash in between leaves something that can still be overwritten."""
    for path in sorted(out.iterdir(), key=lambda path: path.name == "recipe.yaml"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Whole lines of a ``metrics.jsonl``."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:  # a crash cut it short; nothing after it can be trusted
            return


def cut_records(path: Path, step: int) -> None:
    """Drop the lines after ``step``, which a resumed run will write again."""
    kept = [record for record in read_records(path) if record["step"] <= step]
    write_text(path, "".join(to_line(record) for record in kept))


def to_line(record: dict[str, Any]) -> str:
    """A record as one line of JSON; what is not finite becomes null."""
    return json.dumps(_finite(record), ensure_ascii=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Replace a file at once."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file at once. Raises OSError where it cannot be, and then leaves the old one and nothing else."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return float(f"{value:.6g}") if isinstance(value, float) else value
