"""The command line's words and flags: argparse, and a recipe's fields, which are flags too."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from poise import __version__
from poise.cli.commands import COMMANDS
from poise.registry import nearest


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors, and help that may end in a text made only when it is shown."""

    ending: Callable[[], str] | None = None

    def format_help(self) -> str:
        return super().format_help() + (self.ending() if self.ending else "")

    def error(self, message: str) -> NoReturn:
        if "invalid choice" in message and "argument COMMAND" in message:
            given = message.split("invalid choice: ")[1].split(" ")[0].strip("'\"")
            message = f"unknown command {given!r}; {nearest(given, COMMANDS)}"
        self.exit(2, f"poise: {message}\n")


def parser_of_all() -> Parser:
    """The parser of every command."""
    parser = Parser(prog="poise", description="Generative adversarial networks that train stably.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"poise {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
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
    made["compare"].add_argument("runs", metavar="RUN", nargs="+", help="runs; seeds of a recipe become one entry")
    made["compare"].add_argument("--out", metavar="FILE", help="keep the comparison as JSON in a file, too")
    made["compare"].add_argument("--plot", metavar="HTML", help="draw values with intervals into a page, too")
    made["data"].add_argument("action", nargs="?", choices=("list", "check"), default="list", help="default: list")
    made["data"].add_argument("path", metavar="PATH", nargs="?", help="a folder or zip of images, lmdb or tar shards")
    made["convert"].add_argument("source", metavar="SOURCE", help="a file of torch-mimicry, BigGAN-PyTorch, …")
    made["convert"].add_argument("out", metavar="OUT", help="the file to write, .safetensors")
    for name in ("sample", "report"):
        made[name].add_argument("run", metavar="RUN", help="a run folder")
    made["evaluate"].add_argument("run", metavar="RUN", help="a run, a folder or zip of images, or a generator's file")
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
        made[name].add_argument(
            "--checkpoint",
            metavar="WHICH",
            default="newest",
            help="newest, best or a step; evaluate: or reconstruction, the best by it",
        )
    made["sample"].add_argument("-n", type=int, default=64, metavar="N", help="images (default: 64)")
    made["sample"].add_argument("--zoom", type=int, default=4, metavar="N", help="screen pixels a pixel (default: 4)")
    made["sample"].add_argument("--label", type=int, metavar="Y", help="one class only (default: all, at random)")
    made["sample"].add_argument("--truncation", type=float, metavar="X", help="draw latents beyond X σ again")
    for name in ("sample", "evaluate"):
        made[name].add_argument(
            "--standing",
            type=int,
            default=0,
            metavar="N",
            help="batches for batch norm's statistics (default: 0, as trained)",
        )
    made["sample"].add_argument("--out", default="grid.png", metavar="PNG", help="file (default: grid.png)")
    made["evaluate"].add_argument("--samples", type=int, metavar="N", help="images (default: the recipe's, or all)")
    for flag, metavar, text in _EVALUATE_OPTIONS:
        made["evaluate"].add_argument(f"--{flag}", metavar=metavar, help=text)
    made["evaluate"].add_argument("--resolution", type=int, metavar="N", help="bring folders' images to N pixels")
    made["evaluate"].add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="the extractor's (default: fp32)"
    )
    made["evaluate"].add_argument("--device", default="auto", metavar="NAME", help="cpu, cuda … (default: auto)")
    study = made["study"]
    study.add_argument("name", metavar="NAME", help="a claim's name; all; or list, which shows them")
    study.add_argument(
        "--budget", choices=("mini", "small", "paper"), default="mini", help="how much to run (default: mini)"
    )
    study.add_argument("--workers", type=int, metavar="N", help="processes, each pinned to a core (default: this one)")
    study.add_argument("--ray", metavar="ADDRESS", help="run on a Ray cluster: its address, auto or local")
    study.add_argument(
        "--folder", default="runs/studies", metavar="DIR", help="runs and results (default: runs/studies)"
    )
    study.add_argument("--out", metavar="DIR", help="where claims.md goes (default: docs for all, else --folder's)")
    study.add_argument(
        "--data", action="append", default=[], metavar="NAME=PATH", help="where a data set lies, for grids that read it"
    )
    study.add_argument("--yes", action="store_true", help="do run the paper's budget")
    return parser


_EVALUATE_OPTIONS = (
    (
        "metrics",
        "LIST",
        "fid, kid, is, pr, dc, fid-infinity, intra-fid, memorization, reconstruction, reconstruction-2000, with commas "
        "between (default: by the data)",
    ),
    ("extractor", "NAME", "inception-v3, dinov2, clip, efficientnet-lite0, digits (default: Inception if it is here)"),
    ("against", "DATA", "a folder or zip of real images, or NAME:PATH of a data source (default: the run's data)"),
    ("truncation", "LIST", "judge at each of these thresholds, in σ, such as 0.1,0.2,…,2: a curve, truncation.json"),
    ("out", "FILE", "keep the result as JSON in a file, too"),
)


def _recipe_fields() -> str:
    from poise.training.recipe import fields

    lines = [f"  --{name} {_metavar(default)}\n      {text} (default: {default})\n" for name, default, text in fields()]
    return "\nrecipe fields, in any recipe (defaults are an empty recipe's):\n" + "".join(lines)


def _metavar(default: Any) -> str:
    return {int: "N", float: "X", str: "NAME"}.get(type(default), "VALUE")


def refuse(word: str, arguments: argparse.Namespace) -> NoReturn:
    """Raise ValueError for a word or option that a command does not have; the message names the nearest."""
    if not word.startswith("-"):
        setting = "; a recipe's fields are set as --field value" if arguments.command == "train" else ""
        raise ValueError(f"unexpected word {word!r} after poise {arguments.command}{setting}")
    known = [f"--{name}" for name in vars(arguments) if name not in ("call", "command", "run", "recipe")]
    raise ValueError(f"unknown option {word!r} of poise {arguments.command}; {nearest(word, known)}")


_TRAIN_FLAGS = ("--help", "--debug", "--out", "--resume", "--overwrite", "--quiet")


def split_fields(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
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
