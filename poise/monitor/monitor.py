"""From what was observed to a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from poise.monitor.probes import SigmaProbe, gradient_norms


@dataclass(frozen=True)
class Verdict:
    """What the monitor says of a training: "healthy" or "not-finite", with evidence and advice."""

    name: str
    step: int
    evidence: str = ""
    advice: str = ""

    @property
    def is_failing(self) -> bool:
        return self.name != "healthy"

    def to_json(self) -> dict[str, Any]:
        """As kept in ``diagnosis.json``."""
        fields = asdict(self)
        return {"verdict": fields.pop("name"), **fields}


class Monitor:
    """Observes two networks in anybody's training loop.

    Args:
        generator, discriminator: the networks; layers are reported as ``G.…`` and ``D.…``.
    """

    def __init__(self, *, generator: nn.Module, discriminator: nn.Module) -> None:
        self.networks = {"G": generator, "D": discriminator}
        self._sigma = {prefix: SigmaProbe(module) for prefix, module in self.networks.items()}
        self.verdict = Verdict("healthy", 0)

    def gradient_norms(self, player: str) -> dict[str, Tensor]:
        """Gradient norm by layer of player "G" or "D", as its ``.grad`` stands; scalars not read back."""
        return {f"{player}.{name}": norm for name, norm in gradient_norms(self.networks[player]).items()}

    def observe(
        self, step: int, gradients: Mapping[str, Tensor] | None = None, **signals: Tensor | float
    ) -> dict[str, Any]:
        """Take in one step and judge it.

        Args:
            step: generator updates so far.
            gradients: gradient norms by layer, from ``gradient_norms``.
            **signals: named scalars: d_loss, g_loss, …

        Returns:
            All that was observed, as floats: the signals, ``gradient_norm`` and ``sigma`` by layer, ``verdict``.
        """
        sigma = {
            f"{prefix}.{name}": value
            for prefix, probe in self._sigma.items()
            for name, value in probe.measure(self.networks[prefix]).items()
        }
        groups = {"": signals, "gradient_norm": gradients or {}, "sigma": sigma}
        read = _read_back(groups)
        record: dict[str, Any] = {**read[""], "gradient_norm": read["gradient_norm"], "sigma": read["sigma"]}
        self.verdict = self._judge(step, read)
        record["verdict"] = self.verdict.name
        return record

    def _judge(self, step: int, read: Mapping[str, Mapping[str, float]]) -> Verdict:
        for group, values in read.items():
            for name, value in values.items():
                if not math.isfinite(value):
                    where = f"{group} of {name}" if group else name
                    return Verdict(
                        "not-finite",
                        step,
                        f"{where} is {value} at step {step}",
                        "lower the learning rates, normalize the discriminator (bssn), or compute in fp32",
                    )
        return Verdict("healthy", step)


def _read_back(groups: Mapping[str, Mapping[str, Tensor | float]]) -> dict[str, dict[str, float]]:
    """All scalars as floats with one transfer from each device, instead of one wait for each scalar."""
    flat = [(group, name, value) for group, values in groups.items() for name, value in values.items()]
    tensors = [value.detach().float().reshape(()) for _, _, value in flat if isinstance(value, Tensor)]
    numbers = iter(torch.stack(tensors).tolist() if tensors else [])
    read: dict[str, dict[str, float]] = {group: {} for group in groups}
    for group, name, value in flat:
        read[group][name] = next(numbers) if isinstance(value, Tensor) else float(value)
    return read
