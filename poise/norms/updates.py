"""Knowing when a weight has changed: the rule of one power iteration per weight update.

A tensor counts its in-place changes (``_version``), which tells a new weight from one that was only used again. Fused
optimizers write weights without counting (seen with torch 2.14: ``_version`` stays put through ``Adam(fused=True)``),
so a hook after every ``torch.optim`` step counts for them: for the weights that are normalized here and for no others.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook
from torch.utils.weak import WeakTensorKeyDictionary

_watched = WeakTensorKeyDictionary()
_hook: Any = None


def watch(weight: Tensor) -> None:
    """Have optimizer steps on this leaf tensor counted in its ``_version``."""
    global _hook
    _watched[weight] = True
    if _hook is None:
        _hook = register_optimizer_step_post_hook(_count_step)


def _count_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if weight.grad is not None and weight in _watched:
                torch.autograd.graph.increment_version(weight)


class UpdateCounter:
    """Says whether a weight has changed since it was last looked at; copies start afresh."""

    def __init__(self) -> None:
        self._seen: tuple[int, int] | None = None
        self._loaded = False

    def is_new(self, weight: Tensor) -> bool:
        """Whether ``weight`` was updated, edited or exchanged since the last call; the call marks it as seen."""
        seen = (id(weight), weight._version)
        if seen == self._seen:
            return False
        if self._seen is None or self._seen[0] != seen[0]:
            watch(weight)
        self._seen = seen
        loaded, self._loaded = self._loaded, False
        return not loaded

    def expect_load(self) -> None:
        """The next change is a checkpoint's, which brings singular vectors that belong to its weight."""
        self._loaded = True

    def __deepcopy__(self, memo: dict[int, Any]) -> UpdateCounter:
        return UpdateCounter()

    def __getstate__(self) -> dict[str, Any]:
        return {"_seen": None, "_loaded": False}
