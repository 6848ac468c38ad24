"""What a checkpoint of another library is turned into, and how its tensors are taken out one by one.

Batch norms here have ε = 1e-5; where the other library's is larger, the difference goes into the running variance, so
that evaluation is the same to the last digit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poise.models import create
from poise.norms import normalize

State = dict[str, Tensor]
EPS = 1e-5
"""ε of torch's batch norm, which the networks here have"""
SHOWN = 5
"""keys named in an error"""


@dataclass(frozen=True)
class Conversion:
    """One network of another library, as ours.

    Attributes:
        architecture: key of ``poise.models.MODELS``.
        options: options of ``poise.models.create`` with which this network of the pair is the right one.
        network: "generator" or "discriminator".
        norm: "sn" if the weights were spectrally normalized, to be put on the layers named in ``singular_vectors``
            (on all, if none is) by ``poise.normalize``; None for plain weights.
        state: state dict of the plain network.
        singular_vectors: layer name ↦ (u, v), flat: of length c_out, and of all other dimensions together.
    """

    architecture: str
    options: dict[str, Any]
    network: str
    norm: str | None
    state: State
    singular_vectors: dict[str, tuple[Tensor, Tensor]]

    def build(self) -> nn.Module:
        """The network with these weights, in eval mode."""
        network = blank(self.architecture, self.options, self.network)
        counters = {
            key: torch.zeros_like(value, device="cpu")
            for key, value in network.state_dict().items()
            if key.endswith("num_batches_tracked")
        }
        # Cloned: memory of the network's own, where a file's may be shared and is not aligned.
        own = {key: value.clone() for key, value in self.state.items()}
        network.load_state_dict(counters | own, assign=True)
        if self.norm is not None:
            put_norm_on(network, self.norm, self.singular_vectors)
            vectors: State = {}
            for layer, (u, v) in self.singular_vectors.items():
                vectors |= {f"{layer}.{STEP}.u_out": u, f"{layer}.{STEP}.v_out": v}
            unexpected = network.load_state_dict(vectors, strict=False).unexpected_keys
            if unexpected:
                raise ValueError(f"{self.norm} keeps no vectors of the names {shown(unexpected)}")
        return network.eval()


STEP = "parametrizations.weight.0"


def blank(architecture: str, options: dict[str, Any], network: str) -> nn.Module:
    """The network without memory for its weights."""
    with torch.device("meta"):
        generator, discriminator = create(architecture, **options)
    return generator if network == "generator" else discriminator


def put_norm_on(network: nn.Module, norm: str, layers: Iterable[str]) -> None:
    """Normalize the layers of these names; all, if there are none."""
    chosen = set(layers)
    normalize(network, norm, layers=(lambda name, _: name in chosen) if chosen else None)


def shown(keys: Iterable[str]) -> str:
    """The first keys, and how many more there are."""
    listed = list(keys)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more


class Reader:
    """Takes another library's tensors by their names and keeps book of what is missing, misshapen and left over.

    Args:
        state: the other library's state dict.
        architecture, options, network: what it becomes.

    Attributes:
        spectral: whether the weights are spectrally normalized: by torch's ``spectral_norm`` (keys weight_orig,
            weight_u, weight_v) or as in BigGAN-PyTorch (weight, u0, sv0).
        wanted: shapes of the tensors of our network.
    """

    def __init__(self, state: State, architecture: str, options: dict[str, Any], network: str) -> None:
        self.left = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
        self.architecture, self.options, self.network = architecture, options, network
        plain = blank(architecture, options, network)
        self.wanted = {key: tuple(value.shape) for key, value in plain.state_dict().items()}
        self.hooked = any(key.endswith(".weight_orig") for key in state)
        self.spectral = self.hooked or any(key.endswith(".u0") for key in state)
        self.state: State = {}
        self.vectors: dict[str, tuple[Tensor, Tensor]] = {}
        self.missing: list[str] = []
        self.misshapen: list[str] = []

    def take(self, key: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor of that name, as float32; zeros in its place, and a note, if there is none of that shape."""
        tensor = self.left.pop(key, None)
        if tensor is None:
            self.missing.append(key)
        elif tensor.shape != shape and not tensor.numel() == math.prod(shape) == 1:
            self.misshapen.append(f"{key} has shape {tuple(tensor.shape)}, not {shape}")
        else:
            return tensor.detach().float().reshape(shape)
        return torch.zeros(shape)

    def drop(self, pattern: str) -> None:
        """Leave out keys that say nothing of the weights: logged σ, counters."""
        for key in [key for key in self.left if re.fullmatch(pattern, key)]:
            del self.left[key]

    def tensor(self, ours: str, theirs: str, change: Callable[[Tensor], Tensor] | None = None) -> None:
        """A tensor that has another name, perhaps changed by a function that keeps its shape."""
        found = self.take(theirs, self.wanted[ours])
        self.state[ours] = found if change is None else change(found)

    def layer(
        self,
        ours: str,
        theirs: str,
        spectral: bool = True,
        shape: tuple[int, ...] | None = None,
        change: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """A convolution, linear layer or embedding: weight, bias where ours has one, singular vectors.

        Args:
            spectral: whether it is normalized where the file's layers are.
            shape: of their weight, where it is another one than ours.
            change: from their weight to ours; it may only reorder, and acts on ``uvᵀ`` as well.
        """
        weight = self._weight(ours, theirs, spectral, shape or self.wanted[f"{ours}.weight"], change)
        self.state[f"{ours}.weight"] = weight
        if f"{ours}.bias" in self.wanted:
            self.tensor(f"{ours}.bias", f"{theirs}.bias")

    def _weight(
        self, ours: str, theirs: str, spectral: bool, shape: tuple[int, ...], change: Callable[[Tensor], Tensor] | None
    ) -> Tensor:
        if not (spectral and self.spectral):
            weight = self.take(f"{theirs}.weight", shape)
            return weight if change is None else change(weight)
        weight = self.take(f"{theirs}.weight_orig" if self.hooked else f"{theirs}.weight", shape)
        matrix = weight.flatten(1)
        if self.hooked:
            u = self.take(f"{theirs}.weight_u", matrix.shape[:1])
            v = self.take(f"{theirs}.weight_v", matrix.shape[1:])
        else:  # it runs one round of power iteration at every forward, and in evaluation forgets it
            u0 = self.take(f"{theirs}.u0", (1, len(matrix))).flatten()
            v = F.normalize(matrix.t().mv(u0), dim=0)
            u = F.normalize(matrix.mv(v), dim=0)
        if change is not None:
            weight = change(weight)
            u, v = _reordered(u, v, shape, change)
        self.vectors[ours] = (u, v)
        return weight

    def statistics(self, ours: str, mean: str, var: str, eps: float = EPS) -> None:
        """A batch norm's running mean and variance, of an ε not below 1e-5."""
        self.tensor(f"{ours}.running_mean", mean)
        self.tensor(f"{ours}.running_var", var, lambda value: value + (eps - EPS))

    def finish(self) -> Conversion:
        """What was taken.

        Raises:
            ValueError: a key was missing, too many, or of another shape.
        """
        found = {"missing": self.missing, "extra": list(self.left), "misshapen": self.misshapen}
        complaints = [f"{len(keys)} {what}: {shown(keys)}" for what, keys in found.items() if keys]
        unfilled = [key for key in self.wanted if key not in self.state and not key.endswith("num_batches_tracked")]
        if unfilled and not complaints:
            complaints = [f"{len(unfilled)} without a counterpart: {shown(unfilled)}"]
        if complaints:
            raise ValueError(f"keys do not fit a {self.architecture} {self.network}: " + "; ".join(complaints))
        norm = "sn" if self.spectral else None
        return Conversion(self.architecture, self.options, self.network, norm, self.state, self.vectors)


def _reordered(
    u: Tensor, v: Tensor, shape: tuple[int, ...], change: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """u and v of a weight whose rows and columns were reordered, read off where each row and column went."""
    rows, columns = len(u), len(v)
    index = change(torch.arange(rows * columns).view(shape)).flatten(1)
    return u[index[:, 0] // columns], v[index[0] % columns]


def need(state: State, key: str) -> Tensor:
    """The tensor from whose shape a network's sizes are read; ValueError if it is not there."""
    if key not in state:
        raise ValueError(f"1 missing: {key}, of {len(state)} keys")
    return state[key]


def count(state: State, pattern: str) -> int:
    """How many consecutive blocks, from 0 on, have a key that the pattern with the number in its group matches."""
    numbers = {int(found[1]) for key in state if (found := re.match(pattern, key))}
    return max(numbers, default=-1) + 1
