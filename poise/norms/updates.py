"""Knowing when a weight has changed, and acting after an optimizer's step.

The rule of one power iteration per weight update needs the first, weight clipping and its like the second.

A tensor counts its in-place changes (``_version``), which tells a new weight from one that was only used again. Fused
optimizers write weights without counting (seen with torch 2.14: ``_version`` stays put through ``Adam(fused=True)``),
so a hook after every ``torch.optim`` step counts for them: for the weights that are normalized here and for no others.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook
from torch.utils.weak import WeakTensorKeyDictionary

_watched = WeakTensorKeyDictionary()
_hook: Any = None


def watch(weight: Tensor, after_step: Callable[[Tensor], None] | None = None) -> None:
    """Have optimizer steps on this leaf tensor counted in its ``_version``, each followed by ``after_step(weight)``.

    Optimizers that are no ``torch.optim.Optimizer`` are not noticed.
    """
    global _hook
    _watched[weight] = after_step
    if _hook is None:
        _hook = register_optimizer_step_post_hook(_after_step)


@torch.no_grad()
def _after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if weight.grad is not None and weight in _watched:
                torch.autograd.graph.increment_version(weight)
                after_step = _watched[weight]
                if after_step is not None:
                    after_step(weight)


class UpdateCounter:
    """Says whether a weight has changed since it was last looked at.

    Edits through ``weight.data`` are hidden by PyTorch and not seen until the next change that is counted.
    """

    def __init__(self) -> None:
        self._weight: weakref.ref[Tensor] | None = None
        self._version = -1
        self._known = False

    @property
    def weight(self) -> Tensor | None:
        """The weight last looked at, if it is still there."""
        return self._weight() if self._weight else None

    def is_new(self, weight: Tensor) -> bool:
        """Whether ``weight`` was updated, edited or exchanged since the last call; the call marks it as seen."""
        known, self._known = self._known, False
        if self.weight is weight:
            changed = self._version != weight._version
        else:
            changed = not known
            self._weight = weakref.ref(weight)
            watch(weight)
        self._version = weight._version
        return changed

    def loaded(self) -> None:
        """The weight was just loaded with its singular vectors: in place, or as a tensor yet to be seen."""
        if self.weight is not None:
            self.is_new(self.weight)
        self._known = True

    def __deepcopy__(self, memo: dict[int, Any]) -> UpdateCounter:
        """The copy of an up-to-date counter is up to date for the copied weight; parameters are copied first."""
        twin = UpdateCounter()
        weight, copied = self.weight, memo.get(id(self.weight))
        if weight is not None and copied is not None:
            twin.is_new(copied)
            if weight._version != self._version:  # the original's change is still to be noticed, by both
                twin._version = -1
        return twin

    def __reduce__(self) -> tuple[type[UpdateCounter], tuple[()]]:
        return UpdateCounter, ()
