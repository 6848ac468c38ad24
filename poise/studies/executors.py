"""Where trials are done: in this process, in worker processes pinned to cores, or on a Ray cluster.

An executor's ``map(do, tasks)`` yields (number of the task, result) as they come, or ``Died`` in place of a result
where the process that did the task is gone.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from threading import Thread
from typing import Any, Protocol

import torch


@dataclass(frozen=True)
class Died:
    """A process ended without a result; how."""

    reason: str


class Executor(Protocol):
    """What does tasks: ``count`` at a time."""

    count: int

    def map(self, do: Callable[[Any], Any], tasks: Sequence[Any]) -> Generator[tuple[int, Any]]: ...


class Here:
    """One task after the other, in this process."""

    count = 1

    def map(self, do: Callable[[Any], Any], tasks: Sequence[Any]) -> Generator[tuple[int, Any]]:
        for number, task in enumerate(tasks):
            yield number, do(task)


def cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


class Workers:
    """Processes, each pinned to a core of its own with one thread; with several GPUs, each on one, in turn.

    Where the system has no affinity (macOS), they are not pinned.

    Args:
        count: 1 to the number of cores.
    """

    def __init__(self, count: int) -> None:
        if not 1 <= count <= len(cores()):
            raise ValueError(f"workers is {count}; allowed: 1 to {len(cores())}, the cores that may be used here")
        self.count = count

    def map(self, do: Callable[[Any], Any], tasks: Sequence[Any]) -> Generator[tuple[int, Any]]:
        waiting = list(enumerate(tasks))[::-1]
        workers: list[_Worker] = []
        try:
            for place in range(min(self.count, len(tasks))):
                workers.append(_Worker(place, do))
                workers[-1].give(*waiting.pop())
            while busy := {worker.connection: worker for worker in workers if worker.number is not None}:
                for ready in wait(list(busy)):
                    worker = busy[ready]  # type: ignore[index]
                    number, result = worker.take()
                    if waiting:
                        worker.give(*waiting.pop())
                    yield number, result
        finally:
            for worker in workers:
                worker.end()


class _Worker:
    """One process and what it is doing. It is started again after a death."""

    def __init__(self, place: int, do: Callable[[Any], Any]) -> None:
        self.place, self.do = place, do
        self.number: int | None = None
        self._start()

    def _start(self) -> None:
        spawning = get_context("spawn")  # a fork of a process with threads may hang
        self.connection, theirs = spawning.Pipe()
        gpus = torch.cuda.device_count()
        where = {"CUDA_VISIBLE_DEVICES": str(self.place % gpus)} if gpus > 1 else {}
        one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # read when libraries load
        with _environment(one_thread | where), _without_interrupts():
            arguments = (theirs, cores()[self.place], self.do)
            self.process = spawning.Process(target=_serve, args=arguments, daemon=True)
            self.process.start()
        theirs.close()  # so that its death ends the pipe

    def give(self, number: int, task: Any) -> None:
        if not self.process.is_alive():
            self._start()
        self.number = number
        self.connection.send(task)

    def take(self) -> tuple[int, Any]:
        number, self.number = self.number, None
        assert number is not None
        try:
            result = self.connection.recv()
        except EOFError:
            self.process.join()
            code = self.process.exitcode or 0
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            return number, Died(f"the worker process ended by {how}")
        return number, result

    def end(self) -> None:
        """Let it stop: a training in it writes its checkpoint first."""
        self.connection.close()
        if self.number is not None:
            with suppress(ProcessLookupError):
                self.process.terminate()
        self.process.join(timeout=60)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _serve(connection: Connection, core: int, do: Callable[[Any], Any]) -> None:
    """A worker's life: tasks in, results out, until the pipe is closed."""
    # Ctrl-C goes to the whole group: a training hears it and writes its checkpoint; the rest ends with the study.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    Thread(target=_end_with_the_study, daemon=True).start()
    with suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            connection.send(do(connection.recv()))


def _end_with_the_study() -> None:
    """A worker whose study was killed ends at once: the next study may be at the same run a moment later."""
    study = parent_process()
    assert study is not None
    wait([study.sentinel])
    os._exit(1)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ctrl-C waits till after it; a process started within it hears none until it unblocks the signal itself."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # its start, else within the first process's, would unblock the signal again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class OnRay:
    """Tasks on a Ray cluster, one core each, and one GPU where it has any. Its machines must share the folder.

    Args:
        address: of the cluster, "auto" for the one this machine is part of, "local" for one made here.

    Raises:
        ModuleNotFoundError: Ray is missing.
    """

    def __init__(self, address: str) -> None:
        try:
            import ray
        except ModuleNotFoundError:
            raise ModuleNotFoundError("--ray needs Ray: pip install poise[study]") from None
        self.ray = ray
        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False, logging_level="error")
        found = ray.cluster_resources()
        self.gpus = 1 if found.get("GPU") else 0
        self.count = int(found.get("GPU") or found.get("CPU", 1))

    def map(self, do: Callable[[Any], Any], tasks: Sequence[Any]) -> Generator[tuple[int, Any]]:
        ray = self.ray
        one_thread = {"env_vars": {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}}
        remote = ray.remote(num_cpus=1, num_gpus=self.gpus, max_retries=0, runtime_env=one_thread)(_alone(do))
        waiting = {remote.remote(task): number for number, task in enumerate(tasks)}
        try:
            while waiting:
                (ready,), _ = ray.wait(list(waiting), num_returns=1)
                number = waiting.pop(ready)
                try:
                    result = ray.get(ready)
                except ray.exceptions.RayError as error:
                    result = Died(f"Ray: {' '.join(str(error).split())[:300]}")
                yield number, result
        finally:
            for reference in waiting:
                ray.cancel(reference)


def _alone(do: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Ray wants a function made by ``def``."""

    def once(task: Any) -> Any:
        torch.set_num_threads(1)
        return do(task)

    return once
