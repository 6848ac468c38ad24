"""What each word after ``poise`` does: one call, and what is printed of its result."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from poise.cli.studies import study
from poise.registry import Builders


def _train(arguments: argparse.Namespace, fields: dict[str, str]) -> int:
    from poise.api import train
    from poise.training import Recipe, RunError, processes

    if arguments.resume and fields:
        raise RunError(f"--resume goes on with the recipe kept in the run; leave out --{next(iter(fields))}")
    recipe = Recipe.load(arguments.recipe, fields)
    run = train(recipe, arguments.out, resume=arguments.resume, overwrite=arguments.overwrite, bar=not arguments.quiet)
    if processes.rank() == 0:
        _print_evaluation(run.evaluation())
        print(f"report: {run.path / 'report.html'}")
    processes.finish()
    return 0


def _sample(arguments: argparse.Namespace, fields: dict[str, str]) -> int:
    from poise.api import sample_grid

    how = (arguments.zoom, arguments.label, arguments.truncation, arguments.standing, arguments.checkpoint)
    print(sample_grid(arguments.run, arguments.out, arguments.n, arguments.seed, arguments.network, *how))
    return 0


def _evaluate(arguments: argparse.Namespace, fields: dict[str, str]) -> int:
    from poise.api import evaluate, truncation_curve

    names = ("network", "checkpoint", "metrics", "extractor", "against", "precision", "resolution", "device")
    options = {name: getattr(arguments, name) for name in names}
    if arguments.truncation is not None:
        options |= {"samples": arguments.samples, "seed": arguments.seed, "standing": arguments.standing}
        found = truncation_curve(arguments.run, arguments.truncation, **options)
        print(f"judged by {found['extractor']}, n = {found['samples']} at each of {len(found['points'])} thresholds")
    elif arguments.standing:
        raise ValueError("--standing goes with --truncation; without it a generator is judged as it was trained")
    else:
        beside = Path(arguments.out).parent if arguments.out else None
        found = evaluate(arguments.run, arguments.samples, arguments.seed, **options, pictures=beside)
        _print_evaluation(found)
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


def _compare(arguments: argparse.Namespace, fields: dict[str, str]) -> int:
    from poise.api import compare
    from poise.report import comparison_table

    found = compare(*arguments.runs)
    print("\n".join(comparison_table.lines(found)).strip("\n"))
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if arguments.plot:
        print(comparison_table.write_page(found, arguments.plot))
    return 0


def _doctor(arguments: argparse.Namespace, fields: dict[str, str]) -> int:
    from poise.monitor import diagnose
    from poise.monitor.logs import parse_names

    try:
        found = diagnose(arguments.run, parse_names(arguments.names or ()) or None, every=arguments.every)
    except FileNotFoundError as error:  # exit 2: 1 says that a training is failing
        raise ValueError(str(error)) from None
    print("\n".join(found.lines()))
    return 1 if found.verdict.is_failing else 0


def _report(arguments: argparse.Namespace, fields: dict[str, str]) -> int:
    from poise.api import write_report

    print(write_report(arguments.run))
    return 0


def _recipes(arguments: argparse.Namespace, fields: dict[str, str]) -> int:
    from poise.training import Recipe, shipped_recipes

    for name, path in shipped_recipes().items():
        recipe = Recipe.load(name)
        first = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        print(f"{name:<29} {recipe.model.name}, {recipe.d_norm.name}, {recipe.loss}, {recipe.steps} steps\n    {first}")
    return 0


def _models(arguments: argparse.Namespace, fields: dict[str, str]) -> int:
    import torch

    from poise.models import MODELS, create, sizes
    from poise.training.sections import Choice

    if fields and not arguments.name:
        raise ValueError(f"--{next(iter(fields))} is an option of one architecture; give its name: poise models NAME")
    for name in [arguments.name] if arguments.name else MODELS:
        options = Choice.parse(name, fields).checked(MODELS, "model").options
        with torch.device("meta"):
            pair = create(name, **options)
        print(f"{name:<12} {MODELS.summary(name).replace('``', '')}")
        for player, network in zip("GD", pair, strict=True):
            found = sizes(network)
            print(f"    {player} {found.parameters:>13,} parameters {found.macs / 1e6:>12,.1f} million MACs an image")
        taken = {option: options.get(option, p.default) for option, p in MODELS.options(name).items()}
        print("    with " + ", ".join(f"{option}={value}" for option, value in taken.items()))
    return 0


def _convert(arguments: argparse.Namespace, fields: dict[str, str]) -> int:
    from poise.convert import convert

    print(convert(arguments.source, arguments.out))
    return 0


def _data(arguments: argparse.Namespace, fields: dict[str, str]) -> int:
    from poise.data import SOURCES
    from poise.data.check import check

    if arguments.action == "check":
        if not arguments.path:
            raise ValueError("poise data check needs a path: a folder or zip of images, lmdb, or tar shards")
        found = check(arguments.path)
        print("\n".join(found.lines()))
        return 1 if found.broken else 0
    _list(SOURCES)
    return 0


def _norms(arguments: argparse.Namespace, fields: dict[str, str]) -> int:
    from poise.norms import NORMS

    _list(NORMS)
    return 0


def _list(entries: Builders[Any]) -> None:
    """Each entry with its first line and its options."""
    width = max(map(len, entries))
    for name in entries:
        options = ", ".join(f"{option}={p.default}" for option, p in entries.options(name).items())
        print(f"{name:<{width}} {entries.summary(name).replace('``', '')}" + (f"  [{options}]" if options else ""))


COMMANDS: dict[str, tuple[Callable[[argparse.Namespace, dict[str, str]], int], str]] = {
    "train": (_train, "train a recipe, judge it and write a report"),
    "sample": (_sample, "draw images of a run's generator into one PNG"),
    "evaluate": (_evaluate, "judge a run's generator, a folder or a generator's file"),
    "compare": (_compare, "put judged runs beside each other, with intervals and tests"),
    "doctor": (_doctor, "judge a logged training; exit 1 when it is failing"),
    "report": (_report, "write a run's report.html again"),
    "study": (study, "run and judge the papers' claims: NAME, all, or list"),
    "recipes": (_recipes, "list the recipes that come with poise"),
    "models": (_models, "list the architectures with their parameters and cost"),
    "convert": (_convert, "turn another library's checkpoint into one of poise's"),
    "data": (_data, "list the data sources, or check a folder of images"),
    "norms": (_norms, "list the weight normalizations"),
}


def _print_evaluation(evaluation: dict[str, Any] | None) -> None:
    if evaluation is None:
        return
    at = f" at step {evaluation['step']}" if "step" in evaluation else ""
    print(f"judged{at} by {evaluation['extractor']}, n = {evaluation['samples']}")
    if "weights" in evaluation:
        told = (
            f"weights {evaluation['weights']}, {evaluation['precision']}, against {evaluation['real_samples']} images"
        )
        print(f"  {evaluation['preprocessing']}; {told}")
    width = max(13, *map(len, evaluation["metrics"]))
    for name, metric in evaluation["metrics"].items():
        reference = f"   real held-out images: {metric['reference']:.4g}" if "reference" in metric else ""
        reach = "   95% {:.4g} to {:.4g}".format(*metric["interval"]) if "interval" in metric else ""
        print(
            f"  {name:<{width}} {metric['value']:>9.4g}  {metric['unit']}, {metric['better']} is better"
            f"{reference}{reach}"
        )
