"""Weights and inputs that follow from their names alone, so that a fixture needs to hold shapes and outputs only."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

FIXTURES = Path(__file__).with_name("fixtures")
SHOWN = 24
"""numbers kept of an output"""
LOGITS = 8
"""images shown to a discriminator"""


def numbers(name: str, shape: list[int]) -> Tensor:
    """Normal numbers that are the same for the same name."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))


def filled(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """A state dict with these shapes: weights about as large as trained ones, positive variances, singular vectors."""
    state = {}
    for key, shape in shapes.items():
        x, last = numbers(key, shape), key.rpartition(".")[2]
        if last.endswith(("_var", "_vars")):
            x = x.abs() + 0.5
        elif last in ("num_batches_tracked", "accumulation_counter"):
            x = torch.zeros(shape, dtype=torch.int64 if last == "num_batches_tracked" else None)
        elif len(shape) > 1 and not last.endswith("_means"):
            x = x / math.sqrt(math.prod(shape[1:]))
        else:
            x = 0.3 * x + (last in ("weight", "gain"))  # a batch norm's
        state[key] = x
    for key in shapes:
        if key.endswith(".weight_orig"):
            layer, matrix = key.removesuffix(".weight_orig"), state[key].flatten(1)
            v = F.normalize(matrix.t() @ numbers(key, shapes[key][:1]), dim=0)
            state[f"{layer}.weight_u"], state[f"{layer}.weight_v"] = F.normalize(matrix @ v, dim=0), v
    return state


def images(n: int, resolution: int) -> Tensor:
    """Inputs of a discriminator: smooth, so that every layer has something to see."""
    return F.interpolate(numbers("images", [n, 3, 8, 8]), resolution, mode="bilinear").tanh()


def excerpt(output: Tensor) -> list[float]:
    """Some of an output's numbers, spread over it."""
    flat = output.detach().flatten()
    return flat[:: max(1, len(flat) // SHOWN)].tolist()


@pytest.fixture(scope="session")
def original() -> Callable[[str, str], tuple[dict[str, Tensor], dict[str, Any]]]:
    """(file, case) ↦ the state dict of the original network, and what was recorded of it."""

    def read(file: str, case: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        recorded = json.loads((FIXTURES / f"{file}.json").read_text(encoding="utf-8"))[case]
        return filled(recorded["shapes"]), recorded

    return read


@pytest.fixture(scope="session")
def answer() -> Callable[[Any], list[float]]:
    """What a network gives on the inputs with which the original was recorded, excerpted."""

    def give(network: Any) -> list[float]:
        is_generator = hasattr(network, "latent_dim")
        n = 2 if is_generator else LOGITS
        labels = [torch.arange(n) % network.num_classes] if network.num_classes else []
        inputs = numbers("latents", [n, network.latent_dim]) if is_generator else images(n, network.resolution)
        with torch.no_grad():
            return excerpt(network(inputs, *labels))

    return give
