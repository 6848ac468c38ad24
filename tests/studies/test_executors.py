"""Executors do every task once; workers are pinned, and a death is told and survived.

What they do here is of the standard library: a new process knows nothing of this file.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from poise.studies import Trial
from poise.studies.executors import Died, Here, OnRay, Workers, cores
from poise.studies.runner import Task, perform
from tests.studies.conftest import TOY


def test_here_is_in_order() -> None:
    assert list(Here().map(abs, [-1, 2, -3])) == [(0, 1), (1, 2), (2, 3)]


@pytest.mark.parametrize("count", [0, len(cores()) + 1])
def test_as_many_workers_as_cores(count: int) -> None:
    with pytest.raises(ValueError, match=f"workers is {count}; allowed: 1 to {len(cores())}"):
        Workers(count)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no core affinity on this system")
def test_workers_are_pinned_each_to_a_core_of_its_own_with_one_thread() -> None:
    count = min(2, len(cores()))
    asked = "(*__import__('os').sched_getaffinity(0), __import__('torch').get_num_threads(), __import__('os').getpid())"
    found = dict(Workers(count).map(eval, [asked] * 6))
    assert sorted(found) == list(range(6))
    assert {threads for _, threads, _ in found.values()} == {1}
    core_of = {process: core for core, _, process in found.values()}  # one core of each, or the tuple were longer
    assert set(core_of.values()) <= set(cores()[:count])
    assert len(set(core_of.values())) == len(core_of)


def test_a_worker_that_dies_is_told_and_replaced() -> None:
    found = dict(Workers(1).map(signal.raise_signal, [signal.SIGKILL, 0]))  # 0 is no signal at all
    assert found == {0: Died("the worker process ended by signal SIGKILL"), 1: None}


STUDY = """
from poise.studies.executors import Workers
task = "print(__import__('os').getpid(), flush=True) or __import__('time').sleep(100)"
list(Workers(1).map(eval, [task]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc to see processes in")
def test_a_worker_ends_with_a_study_that_is_killed() -> None:
    """Else it would go on with its run beside the study that is started next."""
    with subprocess.Popen([sys.executable, "-c", STUDY], stdout=subprocess.PIPE, text=True) as study:
        assert study.stdout is not None
        worker = Path("/proc") / study.stdout.readline().strip() / "stat"
        assert _is_running(worker)
        study.kill()
        study.wait()
        until = time.monotonic() + 30
        while _is_running(worker) and time.monotonic() < until:
            time.sleep(0.05)
        assert not _is_running(worker)


def _is_running(stat: Path) -> bool:
    """Whether a process is there and no zombie, by its /proc/PID/stat."""
    return stat.exists() and stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"


@pytest.mark.slow
def test_workers_train_as_this_process_does(tmp_path: Path) -> None:
    trial = Trial("plain", "ring2d", TOY)
    ((_, found),) = Workers(1).map(perform, [Task(trial, tmp_path / "there")])
    here = perform(Task(trial, tmp_path / "here"))
    assert (found.status, found.figures) == (here.status, here.figures)


@pytest.mark.slow
def test_ray_does_the_same(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install poise[study]")
    trial = Trial("plain", "ring2d", TOY)
    try:
        executor = OnRay("local")
        assert dict(executor.map(abs, [-1, 2, -3])) == {0: 1, 1: 2, 2: 3}
        ((_, found),) = executor.map(perform, [Task(trial, tmp_path / "there")])
        ((_, died),) = executor.map(os._exit, [1])
    finally:
        ray.shutdown()
    here = perform(Task(trial, tmp_path / "here"))
    assert (found.status, found.figures) == (here.status, here.figures)
    assert isinstance(died, Died)


def test_ray_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install poise\[study\]"):
        OnRay("auto")
