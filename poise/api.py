"""The front door: what the command and ``import poise`` offer, each a few lines over the rooms behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from poise.metrics import Judgement
from poise.metrics import evaluate as judge
from poise.metrics.figures import DEFAULT_METRICS
from poise.metrics.generators import held_out_source
from poise.report import compare_runs
from poise.report import write_report as write_page
from poise.training import Recipe, Run, run_folder
from poise.training import train as run_training
from poise.training.best_network import best_network, reconstruction_by_step
from poise.training.disk import is_full
from poise.training.hardware import choose_device
from poise.training.picture import picture
from poise.training.processes import rank


def train(
    recipe: Recipe | str | Path,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    bar: bool = True,
    say: Callable[[str], None] = print,
) -> Run:
    """Train, judge and report a recipe: ``poise.training.train``, and then ``report.html``, also of a failed run.

    Takes and raises what ``poise.training.train`` does.
    """
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    folder = run_folder(recipe, out)
    before = _changed(folder)
    try:
        return run_training(recipe, folder, resume=resume, overwrite=overwrite, bar=bar, say=say)
    finally:
        if rank() == 0 and _changed(folder) != before:  # not where the folder was refused
            try:
                write_page(folder)
            except OSError as error:
                if not is_full(error):
                    raise
                say(f"report.html was not written, the disk is full; with room, poise report {folder} writes it")


def evaluate(
    run: Run | str | Path,
    samples: int | None = None,
    seed: int = 0,
    network: str = "ema",
    checkpoint: str | int = "newest",
    metrics: str | None = None,
    extractor: str | None = None,
    against: str | None = None,
    precision: str = "fp32",
    resolution: int | None = None,
    device: str = "auto",
    pictures: str | Path | None = None,
) -> dict[str, Any]:
    """Judge a run's generator, kept in its ``evaluation.json``; or the images of a folder or of another generator.

    Args:
        run: a run or its folder; or, with ``against``, a folder or zip of images, or a generator's file.
        samples: images to judge; the recipe's ``evaluation_samples``, all of a folder, 10,000 of a file by default.
        seed: which images. network: "ema" or "generator", of a run.
        checkpoint: "newest", "best", a step, or "reconstruction": that which reconstructs held-out images best.
        metrics: of ``poise.metrics.METRICS``, with commas between; by default what the run's data is judged by.
        extractor: of ``poise.metrics.EXTRACTORS``; with a file of weights, ``NAME:PATH``.
        against: a folder or zip of real images, or a source, ``NAME`` or ``NAME:PATH``; a run's own data by default.
        precision: the extractor's, "fp32" or "bf16". resolution: pixels that folders' images are brought to.
        device: as in a recipe.
        pictures: where those of reconstructions and of nearest neighbours go; those of a run go into its folder.

    Returns:
        What is kept: samples, seed, extractor, seconds, and each metric's value, unit, better direction, and interval
        or reference.
    """
    from poise.metrics.others import judge_other
    from poise.metrics.sources import data_named

    real = None if against is None else data_named(against, resolution)
    if real is not None and not isinstance(run, Run) and not (Path(run) / "recipe.yaml").is_file():
        where = str(choose_device(device))
        names = ",".join(DEFAULT_METRICS) if metrics is None else metrics
        other = judge_other(run, real, samples, seed, where, resolution, names, extractor, precision)
        _save(other, pictures)
        return {**other.to_json(), "seed": seed}
    if real is None and not isinstance(run, Run) and _is_other(Path(run)):
        raise ValueError(f"{run} is no run; give --against, a folder or data source to compare its images with")
    run = run if isinstance(run, Run) else Run(run)
    data = run.data() if real is None else real
    held_out, errors = real, {}
    if real is None and data.resolution and ("reconstruction" in (metrics or "") or checkpoint == "reconstruction"):
        held_out = held_out_source(run.recipe.data.name, run.recipe.data.options)
    if checkpoint == "reconstruction" and held_out is not None:
        errors = reconstruction_by_step(run, held_out, network=network, device=device, precision=precision)
        checkpoint = best_network(errors)
    sampler, step = run.sampler_and_step(network, device, checkpoint)
    samples = run.recipe.evaluation_samples if samples is None else samples
    found = judge(sampler, data, samples, seed, True, metrics, extractor, precision, held_out)
    _save(found.judgement, run.path)
    kept = {"step": step, "network": network, **({"against": against} if against else {}), **found.to_json()}
    kept |= {"reconstruction_by_step": errors} if errors else {}
    run.write_json("evaluation.json", kept)
    return kept


def truncation_curve(
    run: Run | str | Path,
    truncation: str | Iterable[float],
    samples: int | None = None,
    seed: int = 0,
    network: str = "ema",
    checkpoint: str | int = "newest",
    metrics: str | None = None,
    extractor: str | None = None,
    against: str | None = None,
    precision: str = "fp32",
    resolution: int | None = None,
    device: str = "auto",
    standing: int = 0,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Judge a generator at several truncations of its latents; of a run, kept in ``truncation.json`` and its report.

    Args:
        run: a run or its folder; or, with ``against``, a generator's file.
        truncation: thresholds in σ, or words such as "0.1,0.2,…,2".
        standing: batches for batch norm's standing statistics at each; 0 for the running averages.
        say: told of each threshold. Others as ``evaluate`` takes them.

    Returns:
        What is kept: samples, seed, extractor …, and of each point its threshold and metrics.
    """
    from poise.metrics import truncation_curve as curve
    from poise.metrics.sources import data_named, sampler_of
    from poise.metrics.truncation import thresholds

    options: dict[str, Any] = {"metrics": metrics, "extractor": extractor, "precision": precision, "standing": standing}
    wanted = thresholds(truncation)
    real = None if against is None else data_named(against, resolution)
    if not isinstance(run, Run) and _is_other(Path(run)):
        if real is None or Path(run).is_dir():
            what = "holds images; only a generator's latents are truncated" if Path(run).is_dir() else "is no run"
            raise ValueError(f"{run} {what}; give a run, or a generator's file and --against what to compare with")
        sampler = sampler_of(run, str(choose_device(device)))
        return curve(sampler, real, wanted, 10_000 if samples is None else samples, seed, say=say, **options)
    run = run if isinstance(run, Run) else Run(run)
    sampler, step = run.sampler_and_step(network, device, checkpoint)
    samples = run.recipe.evaluation_samples if samples is None else samples
    found = curve(sampler, real or run.data(), wanted, samples, seed, say=say, **options)
    kept = {"step": step, "network": network, **({"against": against} if against else {}), **found}
    run.write_json("truncation.json", kept)
    write_page(run.path)
    return kept


def _save(found: Judgement | None, folder: str | Path | None) -> None:
    """Write what is to be judged by eye, ``reconstruction.png`` and ``neighbours.png``, into a folder."""
    if found is None or folder is None:
        return
    for name, image in found.pictures.items():
        Path(folder).mkdir(parents=True, exist_ok=True)
        image.save(Path(folder) / f"{name}.png")


def _is_other(path: Path) -> bool:
    """Whether something is there that is no run: a file, or a folder with something in it."""
    if path.is_dir():
        return not (path / "recipe.yaml").is_file() and any(path.iterdir())
    return path.is_file()


def compare(*runs: Run | str | Path) -> dict[str, Any]:
    """Runs beside each other, by their ``evaluation.json``; seeds of one recipe as their mean.

    Takes, returns and raises what ``poise.report.compare_runs`` does; ``poise.report.comparison_table`` shows it.
    """
    return compare_runs(run.path if isinstance(run, Run) else run for run in runs)


def write_report(run: Run | str | Path) -> Path:
    """Write a run's ``report.html`` anew and return its path."""
    return write_page((run if isinstance(run, Run) else Run(run)).path)


def sample_grid(
    run: Run | str | Path,
    out: str | Path,
    n: int = 64,
    seed: int = 0,
    network: str = "ema",
    zoom: int = 4,
    y: int | None = None,
    truncation: float | None = None,
    standing: int = 0,
    checkpoint: str | int = "newest",
) -> Path:
    """Draw ``n`` images of a run's generator into one PNG, 8 to a row, and return its path.

    Args:
        run: a run or its folder. out: a ``.png`` file. n: images. seed: which ones. network: "ema" or "generator".
        zoom: each pixel becomes zoom × zoom of the picture, 1 to 64; points in the plane have a picture of one size.
        y, truncation, standing: as ``Sampler.sample`` takes them: one class, the latents' threshold in σ, and batches
            for batch norm's standing statistics.
        checkpoint: "newest", "best" or a step.
    """
    from torchvision.utils import make_grid, save_image

    run = run if isinstance(run, Run) else Run(run)
    out = Path(out)
    if out.suffix.lower() != ".png":
        raise ValueError(f"out is {str(out)!r}; a grid is saved as .png")
    if not 1 <= zoom <= 64:
        raise ValueError(f"zoom is {zoom}; allowed: 1 to 64 screen pixels a pixel")
    sampler = run.sampler(network, checkpoint=checkpoint)
    images = sampler.sample(n, y, seed, "float", truncation=truncation, standing=standing)
    if images.ndim == 2:  # points in the plane: a picture with axes and a size of its own
        grid, zoom = picture(images, run.data()), 1
    else:
        grid = make_grid(images, nrow=8, padding=1, normalize=True, value_range=(-1, 1))
    out.parent.mkdir(parents=True, exist_ok=True)
    save_image(grid.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2), out)
    return out


def _changed(folder: Path) -> int | None:
    metrics = folder / "metrics.jsonl"
    return metrics.stat().st_mtime_ns if metrics.exists() else None
