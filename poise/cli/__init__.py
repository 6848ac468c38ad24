"""The ``poise`` command: words and flags into one call each, errors into one line each.

argparse rather than a generated command line: a recipe's flags are read by the same rules as its YAML, and an error is
one line with the nearest right name. Exit codes: 0 done; 1 failed; 2 asked wrongly; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from safetensors import SafetensorError

from poise.cli.commands import COMMANDS
from poise.cli.parser import parser_of_all, refuse, split_fields

__all__ = ["COMMANDS", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    debug = "--debug" in argv
    warnings.showwarning = _one_line_warning
    try:
        words, fields = split_fields(argv) if argv[:1] in (["train"], ["models"]) else (argv, {})
        arguments, unknown = parser_of_all().parse_known_args(words)
        if unknown:
            refuse(unknown[0], arguments)
        return arguments.call(arguments, fields)
    except KeyboardInterrupt as stop:
        if os.environ.get("RANK", "0") == "0":
            print(f"poise: {stop or 'interrupted'}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except (ValueError, RuntimeError, OSError, ImportError, SafetensorError) as error:  # a missing package is told, too
        if debug:
            raise
        rank = os.environ.get("RANK", "0")  # of processes that train together
        if rank == "0" or not getattr(error, "is_of_all", False):
            print(f"poise: {'' if rank == '0' else f'process {rank}: '}{_one_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) or type(error).__name__ == "RunError" else 1


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _one_line_warning(message: Warning | str, *details: Any, **more: Any) -> None:
    print(f"poise: warning: {' '.join(str(message).split())}", file=sys.stderr)
