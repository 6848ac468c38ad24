"""Two processes that each see half the batch train as one that sees it all; and ``DataParallel``'s replicas."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import poise
from poise.norms import normalized_weights

Norm = tuple[str, dict[str, Any]]
NORMS: dict[str, Norm] = {
    **{name: (name, {}) for name in ("sn", "bssn", "wn", "frobenius", "sigma-clamp")},
    "γ shared": ("sn", {"gamma": "shared"}),
    "operator, known size": ("sn", {"operator": "conv", "input_size": 4}),
}
MODES = ["plain", "a layer unused", "accumulated"]
STEPS = 5


class Network(nn.Module):
    """Some equal layers, others not; one that a forward may leave out."""

    def __init__(self, skip: bool) -> None:
        super().__init__()
        self.skip = skip
        self.body = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 3, 3, padding=1), nn.Flatten())
        self.head = nn.Sequential(nn.Linear(48, 6), nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, 6))
        self.extra = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.body(x))
        return x if self.skip else self.extra(x)


def batches() -> Tensor:
    return torch.randn(STEPS, 2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def network(norm: Norm, mode: str) -> Network:
    net = Network(skip=mode == "a layer unused").double()
    poise.normalize(net, norm[0], **norm[1])
    return net


def step(module: nn.Module, parts: list[Tensor], optimizer: torch.optim.Optimizer, accumulate: bool = False) -> None:
    """Of a discriminator: two forwards; the gradient of the first parts is kept back until the last."""
    optimizer.zero_grad()
    for index, part in enumerate(parts):
        synced = not accumulate or index == len(parts) - 1
        module.require_backward_grad_sync = synced  # type: ignore[assignment]  # what DDP's no_sync() sets
        (module(part).sigmoid().mean() / len(parts)).backward()
    optimizer.step()


def _train(rank: int, folder: str, norms: dict[str, Norm]) -> None:
    torch.set_num_threads(1)
    where = {"init_method": f"file://{folder}/meet", "rank": rank, "world_size": 2}
    torch.distributed.init_process_group("gloo", **where)  # type: ignore[arg-type]
    for number, norm in enumerate(norms.values()):
        for mode in MODES:
            torch.manual_seed(rank)  # each begins elsewhere; DDP sends what rank 0 has
            net = network(norm, mode)
            module = DistributedDataParallel(net, find_unused_parameters=mode == "a layer unused")
            start = {name: tensor.clone() for name, tensor in net.state_dict().items()}
            optimizer = torch.optim.Adam(module.parameters(), 0.02, weight_decay=0.1)
            for batch in batches():
                accumulated = mode == "accumulated"
                parts = list(batch[rank].split(2)) if accumulated else [batch[rank]]
                step(module, parts, optimizer, accumulated)
            net(batches()[0, 0])
            without = [name for name, p in net.named_parameters() if p.grad is None]
            torch.save((start, dict(net.state_dict()), without), f"{folder}/{number}-{mode}-{rank}")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    torch.multiprocessing.spawn(_train, (str(folder), NORMS), nprocs=2)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("mode", MODES)
def test_two_processes_train_as_one(two_processes, name, mode):
    number = list(NORMS).index(name)
    (start, found, without), (other_start, other, other_without) = [
        torch.load(two_processes / f"{number}-{mode}-{rank}") for rank in (0, 1)
    ]
    torch.testing.assert_close(other_start, start, rtol=0, atol=0)
    torch.testing.assert_close(other, found, rtol=0, atol=0)
    assert without == other_without
    net = network(NORMS[name], mode)
    net.load_state_dict(start)
    optimizer = torch.optim.Adam(net.parameters(), 0.02, weight_decay=0.1)
    for batch in batches():
        step(net, [batch.flatten(0, 1)], optimizer)
    net(batches()[0, 0])
    torch.testing.assert_close(dict(net.state_dict()), found, rtol=1e-6, atol=1e-8)
    assert without == [name for name, p in net.named_parameters() if p.grad is None]


def replicas(module: nn.Module, count: int) -> list[Any]:
    """What ``torch.nn.parallel.replicate`` makes of a module, with copies on one device."""
    memo: dict[int, list[Any]] = {}
    part: Any
    for part in module.modules():
        memo[id(part)] = [part._replicate_for_data_parallel() for _ in range(count)]
    tensors: dict[int, list[Tensor]] = {}
    for part in module.modules():
        for index, copied in enumerate(memo[id(part)]):
            copied._former_parameters = {}
            for name, child in part._modules.items():
                if child is not None:
                    setattr(copied, name, memo[id(child)][index])
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    copies = tensors.setdefault(id(parameter), [parameter.clone() for _ in range(count)])
                    setattr(copied, name, copies[index])
                    copied._former_parameters[name] = copies[index]
                else:
                    copied._parameters[name] = None
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    setattr(copied, name, buffer if index == 0 else buffer.clone())
    return memo[id(module)]


DATA_PARALLEL: dict[str, Norm] = {name: (name, {}) for name in ("wn", "wn-strict", "frobenius", "clip", "sn", "bssn")}


@pytest.mark.parametrize("norm", DATA_PARALLEL.values(), ids=list(DATA_PARALLEL))
def test_replicas_train_as_the_whole(norm):
    whole = network(norm, "plain")
    parallel = copy.deepcopy(whole)
    for batch in batches():
        for module in (whole, parallel):
            with torch.no_grad():
                for weight in normalized_weights(module):
                    weight.original.transpose(0, -1).mul_(torch.linspace(1, 2, len(weight.original)))
            module.zero_grad()
        whole(batch.flatten(0, 1)).square().sum().backward()
        outputs = [copied(part) for copied, part in zip(replicas(parallel, 2), batch, strict=True)]
        torch.cat(outputs).square().sum().backward()
        torch.testing.assert_close(dict(parallel.named_buffers()), dict(whole.named_buffers()))
        for name, parameter in whole.named_parameters():
            torch.testing.assert_close(parallel.get_parameter(name).grad, parameter.grad)
