"""Knowing when a weight has changed, and acting after an optimizer's step.

The rule of one power iteration per weight update needs the first, weight clipping and its like the second.

A tensor counts its in-place changes (``_version``), which tells a new weight from one that was only used again. Fused
optimizers write weights without counting (seen with torch 2.14: ``_version`` stays put through ``Adam(fused=True)``),
so a hook after every ``torch.optim`` step counts for them: for the weights that are normalized here and for no others.
"""

from __future__ import annotations

import weakref
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook
from torch.utils.weak import WeakTensorKeyDictionary


class Observer(Protocol):
    """What may ask to be told of a weight's updates."""

    def after_step(self, weight: Tensor) -> None: ...


NEVER = -1
"""the version of a weight that was never looked at"""

_watched = WeakTensorKeyDictionary()  # leaf tensor → WeakSet of observers
_hook: Any = None


def watch(weight: Tensor, observer: Observer | None = None) -> None:
    """Have optimizer steps on this tensor counted in its ``_version``, and ``observer`` told after each.

    Of a view, the tensor it is a view of is watched. Optimizers that are no ``torch.optim.Optimizer`` are not noticed.
    """
    global _hook
    leaf = owner(weight)
    observers = _watched.get(leaf)
    if observers is None:
        observers = _watched[leaf] = weakref.WeakSet()
    if observer is not None:
        observers.add(observer)
    if _hook is None:
        _hook = register_optimizer_step_post_hook(_after_step)


def is_watched(weight: Tensor, observer: Observer) -> bool:
    """Whether ``observer`` is told of steps on this tensor."""
    return observer in _watched.get(weight, ())


def owner(weight: Tensor) -> Tensor:
    """The tensor itself, or that of which it is a view: where changes are counted."""
    return weight if weight._base is None or isinstance(weight, torch.nn.Parameter) else weight._base


@torch.no_grad()
def _after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if weight.grad is not None and weight in _watched:
                torch.autograd.graph.increment_version(weight)
                for observer in list(_watched[weight]):
                    observer.after_step(weight)


class UpdateCounter:
    """Says whether a weight has changed since it was last looked at.

    Edits through ``weight.data`` are hidden by PyTorch and not seen until the next change that is counted.
    """

    def __init__(self, known: bool = False) -> None:
        self._root: weakref.ref[Tensor] | None = None
        self._place: tuple[torch.Size, tuple[int, ...], int] | None = None  # of a view in its root
        self._version = NEVER
        self._known = known  # whether the next weight, though never seen, is not new

    @property
    def root(self) -> Tensor | None:
        """The tensor whose changes are counted, if it is still there."""
        return self._root() if self._root else None

    @property
    def weight(self) -> Tensor | None:
        """The weight last looked at, detached, if it is still there."""
        root = self.root
        if root is None or self._place is None:
            return None if root is None else root.detach()
        return root.detach().as_strided(*self._place)

    def is_new(self, weight: Tensor) -> bool:
        """Whether ``weight`` was updated, edited or exchanged since the last call; the call marks it as seen."""
        self.meet(weight)
        self._known = False
        return self.has_changed()

    def meet(self, weight: Tensor) -> None:
        """Take ``weight`` for the one to look at; if it is another than before, and not said to be known, it is new."""
        root = owner(weight)
        if self.root is not root:
            self._root = weakref.ref(root)
            self._place = None if root is weight else (weight.shape, weight.stride(), int(weight.storage_offset()))
            self._version = root._version if self._known else NEVER
            self._known = False
            watch(root)

    @property
    def is_due(self) -> bool:
        """Whether the weight last looked at has changed since; nothing is marked."""
        root = self.root
        return root is not None and self._version != root._version

    def has_changed(self) -> bool:
        """Whether the weight last looked at has changed since; the call marks it as seen."""
        root = self.root
        if root is None:
            return False
        changed = self._version != root._version
        self._version = root._version
        return changed

    def has_seen(self, root: Tensor) -> bool:
        """Whether this is what was last looked at, and unchanged since."""
        return self.root is root and self._version == root._version

    def loaded(self) -> None:
        """The weight was just loaded with its singular vectors: in place, or as a tensor yet to be seen."""
        self.has_changed()
        self._known = True

    def __deepcopy__(self, memo: dict[int, Any]) -> UpdateCounter:
        """The copy of an up-to-date counter is up to date for the copied weight; parameters are copied first."""
        twin = UpdateCounter(known=self._known)
        root, copied = self.root, memo.get(id(self.root))
        if root is not None and copied is not None:
            twin._known = root._version == self._version  # else the change is still to be noticed, by both
            twin.meet(copied)
            twin._place = self._place
        return twin

    def __getstate__(self) -> dict[str, Any]:
        # The weight travels beside, as a parameter; what counts is whether its vectors are up to date.
        root = self.root
        return {"up_to_date": self._known or (root is not None and self._version == root._version)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(known=state["up_to_date"])  # type: ignore[misc]
