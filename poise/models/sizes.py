"""How large a network is and what one image through it costs, found without making its weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Sizes:
    """Attributes: parameters, learned numbers; macs, multiplications with an addition in one forward of one image."""

    parameters: int
    macs: int


def sizes(network: nn.Module) -> Sizes:
    """Parameters and cost of a generator or discriminator; made on the "meta" device, it costs no memory.

    Counted are convolutions, matrix products and attention, at batch size 1, as the papers count them.
    """
    device = next(network.parameters()).device
    y = torch.zeros(1, dtype=torch.int64, device=device) if network.num_classes else None
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(_input(network, device), *([] if y is None else [y]))
    finally:
        network.train(was_training)
    return Sizes(sum(parameter.numel() for parameter in network.parameters()), counter.get_total_flops() // 2)


def _input(network: nn.Module, device: torch.device) -> Tensor:
    if hasattr(network, "latent_dim"):
        return torch.zeros(1, int(network.latent_dim), device=device)  # type: ignore[arg-type]
    rows, columns = map(int, getattr(network, "size", (network.resolution,) * 2))  # pictures need not be square
    return torch.zeros((1, 3, rows, columns) if rows else (1, 2), device=device)
