"""What a training step of BigGAN-128 at batch 2048 costs on 1, 8 and 128 GPUs: computed, not measured.

Counted are the real networks in the real step, ``poise.training.step``, on the "meta" device, where nothing is
computed: floating-point operations, bytes that a backward pass keeps, gradients sent, sums of batch norm. Turned into
seconds by the assumptions in ``Cluster``, which are no measurements. ``docs/scale.md`` shows the result.

    python benchmarks/scale_model.py
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, log2
from typing import Any

import torch
from timing import write_csv
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from poise.losses import LOSSES
from poise.models import create
from poise.training.step import Players, discriminator_gradients, generator_gradients

BATCH, N_DIS, RESOLUTION = 2048, 2, 128


@dataclass(frozen=True)
class Cluster:
    """Assumptions. Of one GPU: an H100 SXM's data sheet; of links: what such machines are commonly said to reach."""

    gpus: int
    peak: float = 989e12
    """bf16 operations a second, dense"""
    used: float = 0.35
    """part of the peak that convolutions of these sizes reach"""
    memory: float = 80e9
    """bytes"""
    inside: float = 350e9
    """bytes a second that an all-reduce moves between the GPUs of a machine"""
    between: float = 45e9
    """the same between machines of 8 GPUs with a 400 Gbit/s adapter each"""
    wait: float = 20e-6
    """seconds a small all-reduce takes for each doubling of the processes"""

    @property
    def bandwidth(self) -> float:
        return self.inside if self.gpus <= 8 else self.between


@dataclass(frozen=True)
class Count:
    """Of one image of the batch, one update: operations, and bytes kept for the backward pass in float32."""

    operations: int
    kept: int


def counted(update: Callable[[], object], weights: set[int]) -> Count:
    """Run an update and count."""
    kept: dict[int, Tensor] = {}

    def pack(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()._cdata
        if storage not in weights:
            kept[storage] = saved
        return saved

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        update()
    return Count(counter.get_total_flops(), sum(tensor.untyped_storage().nbytes() for tensor in kept.values()))


def biggan() -> tuple[Players, Count, Count]:
    """The players, and what an update of D (a real image and a fake) and of G (a fake) cost."""
    with torch.device("meta"):
        networks: tuple[Any, Any] = create("biggan", resolution=RESOLUTION)
        generator, discriminator = networks
        g_sgd, d_sgd = (torch.optim.SGD(network.parameters(), 1.0) for network in (generator, discriminator))
        players = Players(generator, discriminator, g_sgd, d_sgd, LOSSES["hinge"], torch.device("cpu"), "fp32")
        tensors = [t for network in (generator, discriminator) for t in [*network.parameters(), *network.buffers()]]
        weights = {tensor.untyped_storage()._cdata for tensor in tensors}
        n = 2  # batch norm needs two
        z, y = torch.zeros(n, generator.latent_dim), torch.zeros(n, dtype=torch.int64)
        real = torch.zeros(n, 3, RESOLUTION, RESOLUTION, dtype=torch.uint8)
        of_d = counted(lambda: discriminator_gradients(players, real, z, y, y), weights)
        of_g = counted(lambda: generator_gradients(players, z, y), weights)
    of_one = [Count(found.operations // n, found.kept // n) for found in (of_d, of_g)]
    return players, of_one[0], of_one[1]


def step_cost(cluster: Cluster, players: Players, of_d: Count, of_g: Count) -> dict[str, Any]:
    """One step, N_DIS updates of D and one of G, on every GPU."""
    g, d = (sum(p.numel() for p in network.parameters()) for network in (players.generator, players.discriminator))
    norms = sum(isinstance(layer, _BatchNorm) for layer in players.generator.modules())
    share = BATCH // cluster.gpus
    operations = share * (N_DIS * of_d.operations + of_g.operations)
    fixed = 4 * (4 * (g + d) + g)  # weights, gradients and two moments of Adam; the average of G
    activations = max(of_d.kept, of_g.kept) // 2  # bf16
    parts = next(n for n in (2**i for i in range(20)) if fixed + share / n * activations < 0.8 * cluster.memory)
    sent = 4 * (N_DIS * d + g)
    sums = parts * norms * (2 * N_DIS + 4)  # two a forward, two more a backward
    alone = cluster.gpus == 1
    gradients = 0.0 if alone else 2 * (cluster.gpus - 1) / cluster.gpus * sent / cluster.bandwidth
    waiting = 0.0 if alone else sums * cluster.wait * ceil(log2(cluster.gpus))
    computing = operations / (cluster.peak * cluster.used)
    return {
        "gpus": cluster.gpus,
        "images_per_gpu": share,
        "accumulate": parts,
        "tflop_per_gpu": round(operations / 1e12, 1),
        "fixed_gb": round(fixed / 1e9, 2),
        "activations_gb": round(share / parts * activations / 1e9, 1),
        "gradients_mb": 0 if alone else round(sent / 1e6),
        "batch_norm_sums": 0 if alone else sums,
        "computing_ms": round(1e3 * computing, 1),
        "gradients_ms": round(1e3 * gradients, 1),
        "batch_norm_ms": round(1e3 * waiting, 1),
        "step_ms": round(1e3 * (computing + gradients + waiting), 1),
    }


def main() -> None:
    players, of_d, of_g = biggan()
    print(f"D's update {of_d.operations / 1e9:.1f}, G's {of_g.operations / 1e9:.1f} billion operations an image;")
    print(f"kept for the backward pass {of_d.kept / 1e6:.0f} and {of_g.kept / 1e6:.0f} MB an image in float32")
    rows = [step_cost(Cluster(gpus), players, of_d, of_g) for gpus in (1, 8, 128)]
    for row in rows:
        row["efficiency"] = round(rows[0]["computing_ms"] / (row["gpus"] * row["step_ms"]), 2)
        print(row)
    write_csv(rows, "scale_model.csv")


if __name__ == "__main__":
    main()
