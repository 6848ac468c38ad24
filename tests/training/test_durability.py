"""A run that is killed loses nothing: whenever it happens, the resumed run ends bit for bit as an uninterrupted one."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from poise.training import Recipe, Run, checkpoint

Tiny = Callable[..., Recipe]


class Forker:
    """Runs trainings by ``forking.py``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        command = [sys.executable, str(Path(__file__).with_name("forking.py"))]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(map(str, [Path(__file__).parents[2], *filter(None, sys.path)]))
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def run(self, out: Path, **task: Any) -> tuple[int, float, str]:
        """Exit code, seconds and what was printed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        output = self.folder / "output.txt"
        task = {"out": str(out), "output": str(output), "signal": signal.SIGKILL, **task}
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return answer["code"], answer["seconds"], output.read_text()


@dataclass
class Whole:
    """An uninterrupted run, and how long it took in seconds and in changes of the disk."""

    recipe: str
    run: Run
    seconds: float
    changes: int


@pytest.fixture(scope="module")
def forker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forker]:
    made = Forker(tmp_path_factory.mktemp("forker"))
    yield made
    made.process.communicate()


@pytest.fixture(scope="module")
def whole(tiny: Tiny, forker: Forker) -> Whole:
    recipe = tiny(
        **{"steps": 24, "log_every": 2, "sample_every": 8, "checkpoint_every": 4, "evaluate_every": 6},
        **{"keep_every": 12, "batch_size": 4, "best_by": "modes"},
    )
    path = forker.folder / "recipe.yaml"
    path.write_text(recipe.to_yaml())
    out = forker.folder / "whole"
    code, seconds, printed = forker.run(out, recipe=str(path), resume=False)
    assert code == 0, printed
    return Whole(str(path), Run(out), seconds, int(printed.split("changes: ")[1]))


def state(run: Run) -> Any:
    saved = checkpoint.load(checkpoint.newest(run.checkpoints)[0])
    return saved.networks, saved.optimizers, replace(saved.progress, seconds=0.0)


def logged(run: Run) -> list[tuple[Any, ...]]:
    return [tuple(record.get(key) for key in ("step", "g_loss", "d_loss", "lr")) for record in run.records()]


def goes_on_as_if_nothing_had_been(whole: Whole, forker: Forker, out: Path) -> None:
    if checkpoint.steps(out / "checkpoints"):
        _, complaints = checkpoint.newest(out / "checkpoints")
        assert complaints == [], "the newest checkpoint is not readable"
    code, _, printed = forker.run(out, recipe=whole.recipe, resume=(out / "recipe.yaml").exists())
    assert code == 0, printed
    resumed, expected = state(Run(out)), state(whole.run)
    torch.testing.assert_close(resumed[:2], expected[:2], rtol=0, atol=0)
    assert resumed[2] == expected[2]
    assert logged(Run(out)) == logged(whole.run)
    assert checkpoint.steps(out / "checkpoints") == checkpoint.steps(whole.run.checkpoints)
    assert [path.name for path in out.rglob(".*")] == []


def test_the_uninterrupted_run_keeps_what_it_was_asked_to(whole: Whole) -> None:
    best = state(whole.run)[2].best
    assert best is not None
    assert checkpoint.steps(whole.run.checkpoints) == sorted({12, 20, 24, best.step})


@pytest.mark.parametrize("part", [0.02, 0.5, 0.9])
def test_a_run_killed_before_a_change_of_the_disk(part: float, whole: Whole, forker: Forker, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, _, printed = forker.run(out, recipe=whole.recipe, resume=False, operation=1 + int(part * whole.changes))
    assert code == -signal.SIGKILL, printed
    goes_on_as_if_nothing_had_been(whole, forker, out)


DRAW = random.Random(5)
MOMENTS = [(place + DRAW.random()) / 10 for _ in range(2) for place in range(10)]
"""shares of the whole run, ten of them one in each tenth, twice"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS[:10])
def test_a_run_killed_after_any_time(moment: float, whole: Whole, forker: Forker, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, _, printed = forker.run(out, recipe=whole.recipe, resume=False, after=moment * whole.seconds)
    assert code in (-signal.SIGKILL, 0), printed  # 0: it was quicker than the one timed
    goes_on_as_if_nothing_had_been(whole, forker, out)


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS[10:])
def test_a_run_killed_at_any_change_of_the_disk(moment: float, whole: Whole, forker: Forker, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, _, printed = forker.run(out, recipe=whole.recipe, resume=False, operation=1 + int(moment * whole.changes))
    assert code == -signal.SIGKILL, printed
    goes_on_as_if_nothing_had_been(whole, forker, out)


def test_sigterm_while_saving_ends_the_command_as_ctrl_c_does(whole: Whole, forker: Forker, tmp_path: Path) -> None:
    out = tmp_path / "run"
    argv = ["train", whole.recipe, "--out", str(out), "--quiet"]
    code, _, printed = forker.run(out, argv=argv, operation=whole.changes // 2, signal=signal.SIGTERM)
    assert code == 130, printed
    found = re.search(r"poise: stopped after step (\d+) with a checkpoint; --resume goes on from there\n", printed)
    assert found
    assert checkpoint.steps(out / "checkpoints")[-1] == int(found[1])
    assert (out / "report.html").exists()
    code, _, printed = forker.run(out, recipe=whole.recipe, resume=True)
    assert code == 0, printed
    torch.testing.assert_close(state(Run(out))[:2], state(whole.run)[:2], rtol=0, atol=0)
