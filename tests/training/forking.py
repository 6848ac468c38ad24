"""A process with torch imported already, which forks a training for every line of JSON it reads, and ends it as asked.

A task: ``argv`` of the command line or ``recipe``, ``out`` and ``resume`` of ``train``; ``output``, a file for what it
prints; ``signal``, sent ``after`` so many seconds or before the ``operation``-th change of the disk in ``out``. The
answer: ``code``, negative for a signal, and ``seconds``. A training that ends by itself leaves its count of changes in
``output``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import torch

from poise.api import train as _reporting  # noqa: F401  so that no child imports plotly
from poise.cli import main as command
from poise.data.digits import StackedDigits
from poise.metrics.digits_classifier import digits_classifier
from poise.training import Recipe, train

CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")


def watch(task: dict[str, Any]) -> list[int]:
    """Count the changes of the disk below ``out``; at the one asked for, send this process the signal."""
    count = [0]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES or (event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        in_open_folder = event in ("os.remove", "os.rmdir") and arguments[1] != -1
        if in_open_folder or str(arguments[0]).startswith(task["out"]):
            count[0] += 1
            if count[0] == task.get("operation"):
                os.kill(os.getpid(), task["signal"])

    sys.addaudithook(hook)
    return count


def child(task: dict[str, Any]) -> int:
    descriptor = os.open(task["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    count = watch(task)
    if "argv" in task:
        code = command(task["argv"])
    else:
        train(Recipe.load(task["recipe"]), task["out"], resume=task["resume"], bar=False)
        code = 0
    print(f"changes: {count[0]}", flush=True)
    return code


def serve() -> None:
    torch.set_num_threads(1)
    StackedDigits("train", 16, 0)
    digits_classifier(16)
    print("ready", flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        started = time.monotonic()
        process = os.fork()
        if process == 0:
            code = 99
            try:
                code = child(task)
            finally:
                sys.stderr.flush()
                os._exit(code)
        if task.get("after") is not None:
            time.sleep(task["after"])
            os.kill(process, task["signal"])
        _, status = os.waitpid(process, 0)
        print(
            json.dumps({"code": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - started}), flush=True
        )


if __name__ == "__main__":
    serve()
