"""What was measured, scalars on a device, as the record of a step: floats by name, and by layer in groups."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Values = dict[str, dict[str, Any]]
"""by group, "" for what belongs to no layer, then by name"""


def as_record(values: Values) -> dict[str, Any]:
    """All scalars as floats with one transfer from each device, instead of one wait for each scalar."""
    listed = [(group, name, value) for group, found in values.items() for name, value in found.items()]
    by_device: dict[torch.device, list[Tensor]] = {}
    for _, _, value in listed:
        if isinstance(value, Tensor):
            by_device.setdefault(value.device, []).append(value.detach().reshape(-1).float())
    numbers = {device: iter(torch.cat(own).tolist()) for device, own in by_device.items()}
    read: dict[str, dict[str, Any]] = {group: {} for group in values}
    for group, name, value in listed:
        if isinstance(value, Tensor):
            several = [next(numbers[value.device]) for _ in range(value.numel())]
            read[group][name] = several if group == "singular_values" else several[0]
        else:
            read[group][name] = float(value)
    return {**read.pop(""), **read}


def flat(prefix: str, value: Any) -> list[tuple[str, float]]:
    """All numbers of a record by name, of groups as ``group/layer``."""
    if isinstance(value, dict):
        return [pair for key, inner in value.items() for pair in flat(f"{prefix}/{key}".lstrip("/"), inner)]
    return [(prefix, value)] if isinstance(value, int | float) else []
