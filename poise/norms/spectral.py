"""Spectral normalization and its scaled and bidirectional forms, on the reshaped weight or the true convolution.

σ_out is the largest singular value of W as a matrix of c_out rows, σ_in that of c_in rows; linear weights have one σ.
The strict form takes the operator norm of the convolution itself instead, which needs the size of its input.
Gradients follow eq. 11 of the SN paper: u and v are constants, σ is not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from poise.norms.compiled import register, singular_vectors
from poise.norms.directions import Direction, Operator, Rows, Scalar, scalar
from poise.norms.division import Division, Made, Reading, divide, factor_of, mean_sigma
from poise.norms.normalization import Normalization, as_type, full_precision, wide
from poise.norms.stack import Stack
from poise.norms.updates import UpdateCounter

INITIAL_ROUNDS = 15  # as torch.nn.utils.parametrizations.spectral_norm: u and v start near the singular vectors


class SpectralNorm(Normalization):
    """Parametrization ``W ↦ scale·W/σ`` (SN: Miyato et al. 2018; BSSN: Lin et al. 2021).

    One round of power iteration runs per weight update, at the first training-mode forward that follows it; every
    forward until the next update sees the same weight. u and v are replaced, never written to, so that graphs built
    earlier stay valid. σ is computed in float32 or wider, also under autocast.

    Args:
        weight: the weight to normalize; its leading singular vectors are found from it.
        directions: by name, the readings of the weight whose σ are averaged: "out", and "in" for bidirectional forms.
        scale: the factor s, unitless.
        eps: a weight whose σ is below this counts as zero and is only scaled.

    Raises:
        ValueError: a scale out of range, or a weight of fewer than 2 dimensions.
    """

    _origin: SpectralNorm | None = None
    stack: Stack | None = None
    """small weights of the same shape, with which this one is normalized together"""

    def __init__(
        self, weight: Tensor, directions: dict[str, Direction] | None = None, *, scale: float = 1.0, eps: float = 1e-12
    ) -> None:
        super().__init__()
        if not 0 < scale < float("inf"):
            raise ValueError(f"scale is {scale}; it must be above 0 and finite (papers: 0.7 to 4)")
        if weight.ndim < 2:
            raise ValueError(f"weight has shape {tuple(weight.shape)}; a spectral norm needs at least 2 dimensions")
        self.scale = float(scale)
        self.eps = eps
        self.directions = directions or {"out": Rows()}
        self._places = [(direction, f"u_{name}", f"v_{name}") for name, direction in self.directions.items()]
        for _, u, v in self._places:
            self.register_buffer(u, None)
            self.register_buffer(v, None)
        self.updates = UpdateCounter()
        self.made = Made()
        self._handle = register(self)
        self.has_begun = False
        if self._operator is not None:
            self.register_buffer("input_size", None)
        if not self.awaits_input_size:
            self._begin(weight)
            self.settle(weight)

    @property
    def _operator(self) -> Operator | None:
        """The direction that is a convolution, whose input size may be still to be found."""
        out = self.directions["out"]
        return out if isinstance(out, Operator) else None

    @torch.inference_mode(False)  # u and v must remain tensors that autograd can save
    @torch.no_grad()
    def _begin(self, weight: Tensor) -> None:
        """Find u and v from nothing."""
        w = wide(weight.detach())
        for name, direction in self.directions.items():
            u = direction.start(w)
            for _ in range(INITIAL_ROUNDS):
                u, v, _ = direction.round(w, u, None, self.eps)
            self.keep(name, u, v)
        if self._operator is not None:
            self._buffers["input_size"] = torch.tensor(self._operator.input_size, device=w.device)
        self.has_begun = not w.is_meta

    def settle(self, weight: Tensor) -> None:
        """Take ``weight`` as the one u and v belong to: no round of power iteration is due for it."""
        super().settle(weight)
        self.updates.is_new(weight)

    def attend(self, weight: Tensor) -> None:
        self.updates.meet(weight)

    def begin_anew(self, weight: Tensor) -> None:
        if not self.awaits_input_size:
            self._begin(weight)
            self.updates.is_new(weight)

    @property
    def awaits_input_size(self) -> bool:
        return self._operator is not None and self._operator.input_size is None

    @property
    def can_stack(self) -> bool:
        """Whether every direction is a matrix."""
        return self._operator is None

    def note_input_size(self, size: tuple[int, ...], weight: Tensor) -> None:
        """Told the spatial size of the layer's input, of which the first is kept: an operator norm needs it.

        Raises:
            ValueError: the layer cannot take this size, which is then forgotten.
        """
        operator = self._operator
        if operator is None or operator.input_size is not None:
            return
        operator.input_size = size
        try:
            operator.map(weight.detach())
        except ValueError:
            operator.input_size = None
            raise

    def readings(self) -> list[Reading]:
        """The directions with their u and v as they stand."""
        buffers: Any = self._buffers
        return [(direction, buffers[u], buffers[v]) for direction, u, v in self._places]

    def sigma(self, weight: Tensor) -> Tensor:
        """The σ divided by: a scalar, differentiable in the weight, with u and v as they stand."""
        return mean_sigma(weight, self.readings())

    def forward(self, weight: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return self._traced(weight)
        is_transformed = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
        with_graph = weight.requires_grad and torch.is_grad_enabled()
        if with_graph and self.training and not is_transformed:
            made = self.made.get(weight)
            if made is not None:
                return made
        if not self.has_begun:
            if is_transformed:
                raise RuntimeError("run one batch through the module before transforming it: u and v are not known yet")
            full_precision(self._begin, weight.device)(weight)
            self.settle(weight)
        if is_transformed:
            return self._differentiable(weight, self.readings())
        is_due = self.training and not torch.is_inference_mode_enabled() and self.updates.is_new(weight)
        together = []
        if self.stack is not None and self.training and not torch.is_inference_mode_enabled():
            together = self.stack.members(self, weight)
        if self.stack is not None and together:
            if with_graph:
                return self.stack.divide(together, self, is_due)
            if is_due:
                self.stack.renew(together, self)
        measure = self.iterate if is_due and not together else self.measured
        sigma = full_precision(measure, weight.device)(wide(weight.detach()))
        division = self.division(weight, sigma)
        if not with_graph:
            return division.value()
        (made,) = divide([division])
        if self.training:
            self.made.put(weight, made)
        return made

    def division(self, weight: Tensor, sigma: Scalar, quotient: Tensor | None = None) -> Division:
        """Of the weight by a σ, with u and v as they stand; ``quotient`` is its value, where that is there already."""
        return Division(weight, self.readings(), sigma, self.scale, self.eps, quotient)

    def _differentiable(self, weight: Tensor, readings: list[Reading]) -> Tensor:
        """The same in plain tensor operations, for what transforms functions: forward mode, ``torch.func``, tracing."""
        with torch.autocast(weight.device.type, enabled=False):
            w = wide(weight)
            return (w * factor_of(mean_sigma(w, readings), self.scale, self.eps)).to(weight.dtype)

    def _traced(self, weight: Tensor) -> Tensor:
        if not self.has_begun:
            raise RuntimeError("run one batch through the module before it is compiled: u and v are not known yet")
        readings = self.readings()
        if not torch.compiler.is_exporting():
            found = singular_vectors(weight.detach(), self._handle, self.kept(), self.training)
            pairs = zip(found[::2], found[1::2], strict=True)
            readings = [(direction, u, v) for (direction, _, _), (u, v) in zip(readings, pairs, strict=True)]
        return self._differentiable(weight, readings)

    def renewed(self, weight: Tensor) -> list[Tensor]:
        """u and v after the round that may be due; ``weight``, perhaps a copy, counts if the original is not known."""
        known = self.updates.weight
        if known is None or self.updates.has_changed():
            self.iterate(wide(weight if known is None else known))
        return self.kept()

    def kept(self) -> list[Tensor]:
        """u and v of every direction, in one list, as they stand."""
        return [vector for _, u, v in self.readings() for vector in (u, v)]

    def measured(self, weight: Tensor) -> Scalar:
        """The σ divided by, of a detached weight, with u and v as they stand."""
        total: Scalar = 0.0
        for direction, u, v in self.readings():
            total = total + scalar(direction.sigma(weight, as_type(u, weight.dtype), as_type(v, weight.dtype)))
        return total / len(self.directions)

    def iterate(self, weight: Tensor) -> Scalar:
        """One round of power iteration on a detached weight, in every direction; returns the σ divided by."""
        total: Scalar = 0.0
        for name, (direction, u, v) in zip(self.directions, self.readings(), strict=True):
            u, v, sigma = direction.round(weight, as_type(u, weight.dtype), as_type(v, weight.dtype), self.eps)
            self.keep(name, u, v)
            total = total + sigma
        return total / len(self.directions)

    def keep(self, direction: str, u: Tensor, v: Tensor) -> None:
        """Replace the vectors of a direction, in the type the module was given."""
        buffers: Any = self._buffers
        old = buffers[f"u_{direction}"]
        dtype = u.dtype if old is None else old.dtype
        buffers[f"u_{direction}"], buffers[f"v_{direction}"] = as_type(u, dtype), as_type(v, dtype)
        self.made.clear()
        if self._origin is not None:
            self._origin.keep(direction, u.to(old.device), v.to(old.device))
            self._origin.updates.has_changed()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._handle = register(self)  # a copy is another norm
        if self.stack is not None:
            self.stack.join(self)

    def _replicate_for_data_parallel(self) -> SpectralNorm:
        """For ``nn.DataParallel``, whose replicas live for one forward and are handed vectors as they were before it.

        Each runs the round that may be due, from the same vectors to the same result, and leaves it here.
        """
        replica = super()._replicate_for_data_parallel()
        replica.updates, replica.made, replica.stack = UpdateCounter(known=not self.updates.is_due), Made(), None
        replica.__dict__["_origin"] = self  # no module of the replica's
        return replica

    def _apply(self, fn: Any, recurse: bool = True) -> SpectralNorm:
        was_meta = any(vector is not None and vector.is_meta for vector in self._buffers.values())
        super()._apply(fn, recurse)
        if was_meta:
            self.has_begun = False  # memory without content: begin at the next forward, or with what is loaded
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        if self._operator is not None:  # u and v of another input size, or of none yet: those loaded count
            for name in self._buffers:
                loaded = state_dict.get(f"{prefix}{name}")
                self._buffers[name] = None if loaded is None else torch.empty_like(loaded)
            self.has_begun = False
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if f"{prefix}u_out" in state_dict:
            self.updates.loaded()
            self.made.clear()
            self.has_begun = True
            if self._operator is not None and f"{prefix}input_size" in state_dict:
                self._operator.input_size = tuple(state_dict[f"{prefix}input_size"].tolist())

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        # The round due for the last update runs now instead of at the next forward, so that the vectors saved belong to
        # the weight saved, and a loaded module continues exactly as this one does.
        if self.training and self.has_begun and self.updates.has_changed():
            weight = self.updates.weight
            assert weight is not None
            with torch.inference_mode(False):  # u and v must remain tensors that autograd can save
                root = self.updates.root
                together = self.stack.members(self, root) if self.stack is not None and root is not None else []
                if self.stack is not None and together:
                    self.stack.renew(together, self)
                else:
                    full_precision(self.iterate, weight.device)(wide(weight))
        super()._save_to_state_dict(*args, **kwargs)

    def extra_repr(self) -> str:
        kind = "operator norm" if self._operator is not None else "+".join(self.directions)
        return f"scale={self.scale}, directions={kind}"
