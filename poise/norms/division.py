"""``W ↦ factor·W`` with ``factor = scale/σ̄``, σ̄ the mean of the directions' σ: in autograd's terms, and made once.

The derivative (SN paper, eq. 11) needs the weight itself, which is kept anyway, and the vectors, which are small;
so nothing of the weight's size is saved, and the backward pass is one product and one pass over memory.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import TensorWeakRef

from poise import kernels
from poise.norms.directions import Columns, Direction, Scalar, scalar
from poise.norms.normalization import as_type, full_precision, wide
from poise.norms.updates import owner

ONE_THREAD = 2**15
"""entries up to which torch's elementwise operators keep to one thread"""

Reading = tuple[Direction, Tensor, Tensor]
"""a direction with its u and v"""


def mean_sigma(weight: Tensor, readings: list[Reading]) -> Tensor:
    """σ̄: a scalar, differentiable in the weight with u and v held constant."""
    total = sum(direction.sigma(weight, u.to(weight.dtype), v.to(weight.dtype)) for direction, u, v in readings)
    assert isinstance(total, Tensor)
    return total / len(readings)


def factor_of(sigma: Scalar, scale: float, eps: float) -> Scalar:
    """``scale/σ̄``; a weight that counts as zero is only scaled, so that it stays zero and its gradient finite."""
    if isinstance(sigma, Tensor):
        return scale / torch.where(sigma > eps, sigma, torch.ones_like(sigma))
    return scale / sigma if sigma > eps else scale


class Division:
    """One division of a weight by its σ̄: all that its value and its derivative need.

    The weight is kept as an attribute, not by autograd's own means, which would let the graph be used only once: a
    weight that two losses share is passed through by each. What those means check is checked here.
    """

    __slots__ = ("eps", "factor", "quotient", "readings", "scale", "sigma", "version", "weight")

    def __init__(
        self,
        weight: Tensor,
        readings: list[Reading],
        sigma: Scalar,
        scale: float,
        eps: float,
        quotient: Tensor | None = None,
    ) -> None:
        self.weight, self.version, self.readings = weight, weight._version, readings
        self.sigma, self.scale, self.eps = sigma, scale, eps
        self.factor = factor_of(sigma, scale, eps)
        self.quotient = quotient

    def value(self) -> Tensor:
        """The normalized weight, without a graph; the one that was there already is given away."""
        quotient, self.quotient = self.quotient, None
        if quotient is not None:
            return quotient
        return as_type(wide(self.weight.detach()) * self.factor, self.weight.dtype)

    def derivative(self, grad: Tensor) -> Tensor:
        """The gradient of the weight for one of its value; to be differentiated again where autograd is on.

        Raises:
            RuntimeError: the weight was changed in place since.
        """
        weight = self.unchanged()
        derive = self._derivative_with_graph if torch.is_grad_enabled() else self._derivative
        return as_type(full_precision(derive, weight.device)(wide(weight), wide(grad)), weight.dtype)

    def unchanged(self) -> Tensor:
        """The weight.

        Raises:
            RuntimeError: it was changed in place since.
        """
        if self.weight._version != self.version:
            raise RuntimeError(
                "a normalized weight was modified in place between a forward and its backward pass (an optimizer step, "
                f"as a rule): it is at version {self.weight._version}, expected version {self.version}; run backward "
                "first"
            )
        return self.weight

    def _derivative(self, weight: Tensor, grad: Tensor) -> Tensor:
        share = self._share(scalar(_inner(grad, weight)), self.sigma, self.factor)
        total: Tensor | None = None
        for direction, u, v in self.readings:
            if total is None:
                total = direction.combined(grad, u, v, self.factor, share)
            else:
                direction.add_derivative_(total, u, v, share)
        assert total is not None
        return total

    def _derivative_with_graph(self, weight: Tensor, grad: Tensor) -> Tensor:
        """The same as a function of weight and gradient that autograd can differentiate again."""
        sigma = mean_sigma(weight, self.readings)
        factor = factor_of(sigma, self.scale, self.eps)
        with torch.no_grad():
            derivative = torch.zeros_like(weight, memory_format=torch.contiguous_format)
            for direction, u, v in self.readings:
                direction.add_derivative_(derivative, u, v, 1.0)
        return factor * grad + self._share(torch.sum(grad * weight), sigma, factor) * derivative

    def _share(self, inner: Scalar, sigma: Scalar, factor: Scalar) -> Scalar:
        """The factor of each direction's derivative: ``−⟨gradient, factor·W⟩ / (σ̄·directions)``; 0 if W is zero."""
        if isinstance(sigma, Tensor):
            safe = torch.where(sigma > self.eps, sigma, torch.ones_like(sigma))
            return torch.where(sigma > self.eps, -inner * factor / (safe * len(self.readings)), 0)
        return -inner * factor / (sigma * len(self.readings)) if sigma > self.eps else 0.0


class Divide(torch.autograd.Function):
    """``W ↦ factor·W`` of several weights; its backward is differentiable itself, as gradient penalties need.

    One node of the graph for all of them: on small weights, going from node to node is what costs time. A weight that
    a loss does not depend on gets no gradient from it.
    """

    @staticmethod
    def forward(ctx: Any, divisions: list[Division], *_: Tensor) -> tuple[Tensor, ...]:
        ctx.divisions = divisions
        ctx.set_materialize_grads(False)
        if len(divisions) == 1 or divisions[0].quotient is not None or not divisions[0].weight.is_cpu:
            return tuple(division.value() for division in divisions)
        factors: list[Any] = [division.factor for division in divisions]
        return tuple(torch._foreach_mul([division.weight for division in divisions], factors))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        pairs = [(division, grad) for division, grad in zip(ctx.divisions, grads, strict=True) if grad is not None]
        is_plain = (
            ctx.divisions[0].weight.is_cpu and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
        )
        found: Iterable[Tensor] | None = None
        if is_plain and len(ctx.divisions) > 1:
            found = _derivatives(pairs)
        if found is None:
            found = [division.derivative(grad) for division, grad in pairs]
        each = iter(found)
        return None, *[None if grad is None else next(each) for grad in grads]


def _derivatives(pairs: list[tuple[Division, Tensor]]) -> list[Tensor] | None:
    """``Division.derivative`` of several without a graph, if they can be computed all at once."""
    jobs = []
    for division, grad in pairs:
        weight, factor, sigma = division.unchanged(), division.factor, division.sigma
        if isinstance(factor, Tensor) or isinstance(sigma, Tensor):
            return None
        vectors: list[kernels.Vectors | None] = [None, None]
        for direction, u, v in division.readings:
            vectors[isinstance(direction, Columns)] = u, v
        jobs.append((grad, weight, vectors[0], vectors[1], factor, sigma, division.eps))
    return kernels.derivatives(jobs)


_apply: Callable[..., tuple[Tensor, ...]] = super(torch.autograd.Function, Divide).apply
"""``Divide.apply`` outside of ``torch.func``'s transforms, without the search for them, which costs a tenth of it"""


def divide(divisions: list[Division]) -> tuple[Tensor, ...]:
    """The weights, each divided by its σ̄; of several, all are float32 or all float64, and on one device."""
    return _apply(divisions, *[division.weight for division in divisions])


def _inner(x: Tensor, y: Tensor) -> Tensor:
    """``Σ xy``; of large tensors without another of their size, of small ones without waking further threads."""
    if x.numel() > ONE_THREAD and x.is_contiguous() and y.is_contiguous():
        return torch.dot(x.view(-1), y.view(-1))
    return torch.sum(x * y)


class Made:
    """The normalized weight that a pending backward pass still holds, to be used by every forward until then.

    Only a weak reference is kept, once it was asked for: what is freed with the graph is made again from the weight as
    it then is.
    """

    def __init__(self) -> None:
        self._made: TensorWeakRef | None = None
        self._unasked: Tensor | None = None
        self._weight: weakref.ref[Tensor] | None = None
        self._version = self._made_version = -1

    def get(self, weight: Tensor) -> Tensor | None:
        """The one made from this weight as it is now, on its device and in its type, if there is one."""
        made = self._made() if self._made is not None and self.is_of(weight) else None
        self._unasked = None
        if made is None or made._version != self._made_version:  # it was written to
            return None
        return made if made.device == weight.device and made.dtype == weight.dtype else None

    def is_of(self, weight: Tensor) -> bool:
        """Whether what was made last, which may be freed, is of this weight as it is now."""
        root = owner(weight)
        return self._weight is not None and self._weight() is root and self._version == root._version

    def awaits(self, weight: Tensor) -> bool:
        """Whether one was made from this weight as it is now, and not asked for yet."""
        return self._unasked is not None and self.is_of(weight)

    def put(self, weight: Tensor, made: Tensor, is_asked_for: bool = True) -> None:
        """Remember what was made of this weight; what nobody asked for yet is held until then."""
        root = owner(weight)
        self._made, self._made_version = TensorWeakRef(made), made._version
        self._weight, self._version = weakref.ref(root), root._version
        self._unasked = None if is_asked_for else made

    def clear(self) -> None:
        self._made = self._unasked = None

    def __reduce__(self) -> tuple[type[Made], tuple[()]]:
        return Made, ()  # copies and pickles begin without
