"""The ``poise`` command: words and flags into one call each, errors into one line each.

argparse rather than a generated command line: a recipe's flags are read by the same rules as its YAML, and an error is
one line with the nearest right name. Exit codes: 0 done; 1 failed; 2 asked wrongly; 130 interrupted.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from safetensors import SafetensorError

from poise import __version__
from poise.registry import Builders, nearest


class _Parser(argparse.ArgumentParser):
    """argparse with one-line errors, and help that may end in a text made only when it is shown."""

    ending: Callable[[], str] | None = None

    def format_help(self) -> str:
        return super().format_help() + (self.ending() if self.ending else "")

    def error(self, message: str) -> NoReturn:
        if "invalid choice" in message and "argument COMMAND" in message:
            given = message.split("invalid choice: ")[1].split(" ")[0].strip("'\"")
            message = f"unknown command {given!r}; {nearest(given, COMMANDS)}"
        self.exit(2, f"poise: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    debug = "--debug" in argv
    warnings.showwarning = _one_line_warning
    try:
        words, fields = _split_fields(argv) if argv[:1] in (["train"], ["models"]) else (argv, {})
        arguments, unknown = _parser().parse_known_args(words)
        if unknown:
            _refuse(unknown[0], arguments)
        return arguments.call(arguments, fields)
    except KeyboardInterrupt as stop:
        print(f"poise: {stop or 'interrupted'}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except (ValueError, RuntimeError, OSError, SafetensorError) as error:
        if debug:
            raise
        print(f"poise: {_one_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) or type(error).__name__ == "RunError" else 1


def _train(arguments: argparse.Namespace, fields: dict[str, str]) -> int:
    from poise.api import train
    from poise.training import Recipe, RunError

    if arguments.resume and fields:
        raise RunError(f"--resume goes on with the recipe kept in the run; leave out --{next(iter(fields))}")
    recipe = Recipe.load(arguments.recipe, fields)
    run = train(recipe, arguments.out, resume=arguments.resume, overwrite=arguments.overwrite, bar=not arguments.quiet)
    _print_evaluation(run.evaluation())
    print(f"report: {run.path / 'report.html'}")
    return 0


def _sample(arguments: argparse.Namespace, fields: dict[str, str]) -> int:
    from poise.api import sample_grid

    how = (arguments.zoom, arguments.label, arguments.truncation, arguments.standing)
    print(sample_grid(arguments.run, arguments.out, arguments.n, arguments.seed, arguments.network, *how))
    return 0


def _evaluate(arguments: argparse.Namespace, fields: dict[str, str]) -> int:
    from poise.api import evaluate

    _print_evaluation(evaluate(arguments.run, arguments.samples, arguments.seed, arguments.network))
    return 0


def _doctor(arguments: argparse.Namespace, fields: dict[str, str]) -> int:
    from poise.monitor import diagnose
    from poise.monitor.logs import parse_names

    found = diagnose(arguments.run, parse_names(arguments.names or ()), every=arguments.every)
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
            raise ValueError("poise data check needs a path: a folder or zip file of images")
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
    "evaluate": (_evaluate, "judge a run's generator again"),
    "doctor": (_doctor, "judge a logged training: verdict, timeline and advice; exit 1 when it is failing"),
    "report": (_report, "write a run's report.html again"),
    "recipes": (_recipes, "list the recipes that come with poise"),
    "models": (_models, "list the architectures with their parameters and cost"),
    "convert": (_convert, "turn another library's checkpoint into one of poise's"),
    "data": (_data, "list the data sources, or check a folder of images"),
    "norms": (_norms, "list the weight normalizations"),
}


def _parser() -> _Parser:
    parser = _Parser(prog="poise", description="Generative adversarial networks that train stably.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"poise {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    made = {}
    for name, (call, summary) in COMMANDS.items():
        made[name] = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            allow_abbrev=False,
        )
        made[name].add_argument("--debug", action="store_true", help="show the traceback of an error")
        made[name].set_defaults(call=call, command=name)
    train = made["train"]
    train.add_argument("recipe", metavar="RECIPE", help="a shipped recipe's name (poise recipes) or a YAML file")
    train.add_argument("--out", metavar="DIR", help="run folder (default: runs/NAME)")
    train.add_argument("--resume", action="store_true", help="go on with the run in --out, bit for bit")
    train.add_argument("--overwrite", action="store_true", help="delete the run in --out first")
    train.add_argument("--quiet", action="store_true", help="no progress bar")
    train.ending = _recipe_fields
    made["models"].add_argument("name", metavar="NAME", nargs="?", help="only this one; its options as --option VALUE")
    made["data"].add_argument("action", nargs="?", choices=("list", "check"), default="list", help="default: list")
    made["data"].add_argument("path", metavar="PATH", nargs="?", help="a folder or zip file of images, to check")
    made["convert"].add_argument("source", metavar="SOURCE", help="a file of torch-mimicry, BigGAN-PyTorch, …")
    made["convert"].add_argument("out", metavar="OUT", help="the file to write, .safetensors")
    for name in ("sample", "evaluate", "report"):
        made[name].add_argument("run", metavar="RUN", help="a run folder")
    made["doctor"].add_argument("run", metavar="RUN", help="a run folder, a metrics.jsonl, or TensorBoard events")
    made["doctor"].add_argument(
        "--names", nargs="+", metavar="FIELD=NAME", help="fields that go by other names: d_loss=Loss/critic"
    )
    made["doctor"].add_argument("--every", type=int, default=1, metavar="N", help="judge one record in N steps")
    for name in ("sample", "evaluate"):
        made[name].add_argument("--seed", type=int, default=0, help="which images (default: 0)")
        made[name].add_argument(
            "--network", choices=("ema", "generator"), default="ema", help="averaged or last weights (default: ema)"
        )
    made["sample"].add_argument("-n", type=int, default=64, metavar="N", help="images (default: 64)")
    made["sample"].add_argument("--zoom", type=int, default=4, metavar="N", help="screen pixels a pixel (default: 4)")
    made["sample"].add_argument("--label", type=int, metavar="Y", help="one class only (default: all, at random)")
    made["sample"].add_argument("--truncation", type=float, metavar="X", help="draw latents beyond X σ again")
    made["sample"].add_argument(
        "--standing",
        type=int,
        default=0,
        metavar="N",
        help="batches for batch norm's statistics (default: 0, as trained)",
    )
    made["sample"].add_argument("--out", default="grid.png", metavar="PNG", help="file (default: grid.png)")
    made["evaluate"].add_argument("--samples", type=int, metavar="N", help="images drawn (default: the recipe's)")
    return parser


def _recipe_fields() -> str:
    from poise.training.recipe import fields

    lines = [f"  --{name} {_metavar(default)}\n      {text} (default: {default})\n" for name, default, text in fields()]
    return "\nrecipe fields, in any recipe (defaults are an empty recipe's):\n" + "".join(lines)


def _metavar(default: Any) -> str:
    return {int: "N", float: "X", str: "NAME"}.get(type(default), "VALUE")


def _refuse(word: str, arguments: argparse.Namespace) -> NoReturn:
    if not word.startswith("-"):
        setting = "; a recipe's fields are set as --field value" if arguments.command == "train" else ""
        raise ValueError(f"unexpected word {word!r} after poise {arguments.command}{setting}")
    known = [f"--{name}" for name in vars(arguments) if name not in ("call", "command", "run", "recipe")]
    raise ValueError(f"unknown option {word!r} of poise {arguments.command}; {nearest(word, known)}")


_TRAIN_FLAGS = ("--help", "--debug", "--out", "--resume", "--overwrite", "--quiet")


def _split_fields(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Part a recipe's fields (``--field value``, ``--field=value``; ``-`` and ``_`` are one) from the other words."""
    others: list[str] = []
    fields: dict[str, str] = {}
    words = iter(argv)
    for word in words:
        flag, equals, value = word.partition("=")
        if not flag.startswith("--") or flag in _TRAIN_FLAGS:
            others.append(word)
            if word == "--out":
                others.extend(itertools.islice(words, 1))
            continue
        if not equals:
            following = next(words, None)
            if following is None:
                raise ValueError(f"{flag} lacks its value")
            value = following
        fields[flag[2:].replace("-", "_")] = value
    return others, fields


def _print_evaluation(evaluation: dict[str, Any] | None) -> None:
    if evaluation is None:
        return
    print(f"judged at step {evaluation['step']} by {evaluation['extractor']}, n = {evaluation['samples']}")
    for name, metric in evaluation["metrics"].items():
        reference = f"   real held-out images: {metric['reference']:.4g}" if "reference" in metric else ""
        print(f"  {name:<13} {metric['value']:>9.4g}  {metric['unit']}, {metric['better']} is better{reference}")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _one_line_warning(message: Warning | str, *details: Any, **more: Any) -> None:
    print(f"poise: warning: {' '.join(str(message).split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
