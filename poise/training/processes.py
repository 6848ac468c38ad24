"""The processes that train one pair of networks together; all that training knows of them is here.

Each holds whole networks and optimizers and its part of every batch. Gradients are averaged before an optimizer's step,
batch norm's statistics within the pass; so all take the same step, that of one process with the whole batch. The first
process alone writes, prints and judges. accelerate sets them up from what ``torchrun`` or ``accelerate launch`` tell
them; a process alone sets up nothing and communicates nothing.

Gradients are averaged here and not by ``DistributedDataParallel``, which counts one forward of one wrapped module to a
backward; a discriminator's update runs two networks, and R1 a second derivative through one of them.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from poise import noise
from poise.layers import cross_replica
from poise.training.sections import RecipeError

T = TypeVar("T")
BUCKET = 1 << 24  # numbers sent at once: 64 MiB in float32, which bounds the memory that averaging takes
PATIENCE = timedelta(hours=2)  # while the first process judges, the others wait
_SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")


@dataclass(frozen=True)
class Processes:
    """A process's place among those that train together; ``Processes()`` is alone."""

    rank: int = 0
    """which this is, counted from 0"""
    count: int = 1
    local_rank: int = 0
    """which of those on its machine"""
    device: torch.device | None = None
    """its own; None for a process alone, which chooses freely"""
    host: Any = None
    """a gloo group of them all, for words between hosts that no device is to wait for; None: the default group"""

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def part(self, first: int, size: int) -> tuple[int, int]:
        """First number and size of this process's part of the samples ``first`` to ``first + size``."""
        return first + self.rank * size // self.count, size // self.count

    def check(self, sizes: dict[str, int | None], parts: int) -> None:
        """Raise RecipeError for a batch that is not the same number of samples on every process, in every part."""
        every = self.count * parts
        for field, size in sizes.items():
            if size is not None and size % every:
                near = max(1, round(size / every)) * every
                split = f"{self.count} processes" + (f" × accumulate={parts}" if parts > 1 else "")
                raise RecipeError(f"{field} is {size}; {split} need a multiple of {every}: nearest {near}")

    def join(self, *networks: nn.Module) -> None:
        """Make batch norm cross-replica, and give every process the first one's weights."""
        if self.count == 1:
            return
        for network in networks:
            cross_replica(network)
            state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
            for tensor in state.values():
                dist.broadcast(tensor, src=0)
            network.load_state_dict(state)

    def average_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """Replace the gradients of an optimizer's weights by their means over the processes."""
        if self.count == 1:
            return
        weights = (weight for group in optimizer.param_groups for weight in group["params"])
        for bucket in _buckets([weight.grad for weight in weights if weight.grad is not None]):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            dist.all_reduce(flat)
            pieces = flat.div_(self.count).split([gradient.numel() for gradient in bucket])
            torch._foreach_copy_(bucket, [p.view(g.shape) for p, g in zip(pieces, bucket, strict=True)])

    def mean(self, signals: dict[str, Tensor]) -> dict[str, Tensor]:
        """The means of scalars over the processes."""
        if self.count == 1:
            return signals
        values = torch.stack([value.detach().float() for value in signals.values()])
        dist.all_reduce(values)
        return dict(zip(signals, values.div_(self.count).unbind(), strict=True))

    def gather(self, parts: dict[str, Tensor], most: int | None = None) -> dict[str, Tensor]:
        """The first ``most`` samples, by default all, of batches of which every process has a part of the same size."""
        if self.count == 1:
            return {name: part[:most] for name, part in parts.items()}
        whole = {}
        for name, part in parts.items():
            own = part[:most].contiguous()
            found = [torch.empty_like(own) for _ in range(self.count)]
            dist.all_gather(found, own)
            whole[name] = torch.cat(found)[:most]
        return whole

    def any(self, said: bool) -> bool:
        """Whether any process says so; no device waits."""
        if self.count == 1:
            return said
        heard = torch.tensor(int(said))
        dist.all_reduce(heard, dist.ReduceOp.MAX, group=self.host)
        return bool(heard)

    def once(self, act: Callable[[], T]) -> T:
        """What ``act`` returns when the first process does it, on all; where it fails, all fail alike."""
        if self.count == 1:
            return act()
        outcome: list[Any] = [None, None]
        failure = None
        if self.is_first:
            try:
                outcome[0] = act()
            except Exception as error:
                failure = error
                outcome[1] = _portable(error)
        dist.broadcast_object_list(outcome, src=0, group=self.host)
        if outcome[1] is not None:
            raise _of_all(failure or outcome[1])
        made: T = outcome[0]
        return made

    def in_turn(self, make: Callable[[], T]) -> T:
        """What each process makes, on every machine the first one before the others, which find what it has cached."""
        if self.count == 1:
            return make()
        made: list[T] = []
        for is_turn in (self.local_rank == 0, self.local_rank != 0):
            failure = None
            if is_turn:
                try:
                    made.append(make())
                except Exception as error:
                    failure = error
            errors: list[Any] = [None] * self.count
            dist.all_gather_object(errors, failure and _portable(failure), group=self.host)
            if any(errors):
                raise _of_all(failure or next(filter(None, errors)))
        return made[0]

    def check_alike(self, **networks: nn.Module) -> None:
        """Raise RuntimeError where a process's weights are not bit for bit the first one's; the message says which."""
        if self.count == 1:
            return
        states = {f"{key}.{name}": t for key, net in networks.items() for name, t in net.state_dict().items()}
        digests = torch.stack([noise.digest(tensor) for tensor in states.values()]).cpu()
        firsts = digests.clone()
        dist.broadcast(firsts, src=0, group=self.host)
        differing = (digests != firsts).nonzero().flatten().tolist()
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, list(states)[differing[0]] if differing else None, group=self.host)
        for rank, name in enumerate(found):
            if name is not None:
                error = RuntimeError(
                    f"process {rank} no longer has the first one's weights ({name}); run on processors of one kind: "
                    "--resume goes on from the last checkpoint"
                )
                raise _of_all(error)


def start(wanted: str) -> Processes:
    """Meet the other processes that were launched, if there are any.

    Args:
        wanted: the recipe's device: "auto" for the machine's accelerators, one to a process, else its processor.

    Raises:
        RecipeError: a device for them all to share.
    """
    if max(int(os.environ.get(name, 1)) for name in _SIZES) == 1:
        return Processes()
    if ":" in wanted:
        kind = wanted.partition(":")[0]
        raise RecipeError(f"device: given {wanted!r}; each process takes its own: allowed are auto, {kind} and cpu")
    try:
        from accelerate import PartialState
    except ImportError:
        raise RuntimeError("training in several processes needs accelerate: pip install accelerate") from None
    state = PartialState(cpu=wanted == "cpu" or not torch.accelerator.is_available(), timeout=PATIENCE)
    host = None if state.device.type == "cpu" else dist.new_group(backend="gloo", timeout=PATIENCE)
    return Processes(state.process_index, state.num_processes, state.local_process_index, state.device, host)


def finish() -> None:
    """Part, after all that was to be done together."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """This process's rank, also before ``start``; 0 for a process alone."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank()
    return int(os.environ.get("RANK", 0))


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in their order, in lists of one type that hold up to BUCKET numbers, or one tensor."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = sum(other.numel() for other in bucket) + tensor.numel() > BUCKET
        if bucket and (full or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def _of_all(error: Exception) -> Exception:
    """The error, marked as every process's: one telling is enough."""
    error.is_of_all = True  # type: ignore[attr-defined]
    return error


def _portable(error: Exception) -> Exception:
    """The error itself, or one with its words where it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
