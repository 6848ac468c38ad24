"""How a normalization is attached to a layer by ``torch.nn.utils.parametrize``; it is quick, pickles, and can be reset.

Torch gives each parametrized layer a class of its own and refuses to pickle it. Here a pickle holds the layer's true
class, its state, and for each parametrized tensor the original with its parametrizations, which are attached again
when it is read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from poise.norms.gain import Gain
from poise.norms.normalization import Normalization


class DirectList(parametrize.ParametrizationList):
    """A list of parametrizations that calls a single one directly: in small layers, calls are what costs time."""

    def __call__(self) -> Tensor:
        return super().__call__() if torch.compiler.is_compiling() else self.directly()

    def directly(self) -> Tensor:
        """The same, outside of compiled code."""
        steps, original = self._modules, self._parameters.get("original")
        step = steps.get("0")
        if step is None or original is None or len(steps) > 1 or _has_hooks(step, self):
            return super().__call__()
        return step.forward(original)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "original":
            self.attend()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.attend()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.attend()

    def attend(self) -> None:
        """Tell the norms of a weight that may be another one now: compiled code, which cannot look, relies on it."""
        original = self._parameters.get("original")
        for step in self._modules.values():
            if original is not None and isinstance(step, Normalization):
                step.attend(original)


def _has_hooks(one: nn.Module, other: nn.Module) -> bool:
    return bool(
        one._forward_hooks
        or one._forward_pre_hooks
        or one._backward_hooks
        or other._forward_hooks
        or other._forward_pre_hooks
        or other._backward_hooks
    )


def _reader(parameter: str, slow: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
    """The getter of a parametrized tensor: torch's own, less its searches for attributes, which take longer than it."""

    def read(layer: Any) -> Tensor:
        if parametrize._cache_enabled or torch.compiler.is_compiling():
            return slow(layer)
        tensor: Tensor = layer._modules["parametrizations"]._modules[parameter].directly()
        return tensor

    return read


def attach(layer: nn.Module, parameter: str, step: nn.Module) -> None:
    """Register a parametrization of one of the layer's parameters."""
    # unsafe: skips torch's trial forward, which only checks that shape and dtype stay, as they do here.
    parametrize.register_parametrization(layer, parameter, step, unsafe=True)
    steps = layer.get_submodule(f"parametrizations.{parameter}")
    if type(steps) is parametrize.ParametrizationList and hasattr(steps, "original"):
        steps.__class__ = DirectList
        slow = getattr(type(layer), parameter)
        setattr(type(layer), parameter, property(_reader(parameter, slow.fget), slow.fset))
    type(layer).__reduce_ex__ = reduce  # type: ignore[method-assign, assignment]
    if hasattr(layer, "reset_parameters"):
        kind: Any = type(layer)
        kind.reset_parameters = reset_parameters


def reduce(layer: nn.Module, protocol: int) -> tuple[Any, ...]:
    """``__reduce_ex__`` of a normalized layer.

    Raises:
        RuntimeError: a parametrization of another library that splits its tensor in several.
    """
    state = dict(layer.__dict__)
    state["_modules"] = {name: part for name, part in layer._modules.items() if name != "parametrizations"}
    originals = {}
    for name, steps in layer.get_submodule("parametrizations").named_children():
        if not hasattr(steps, "original"):
            raise RuntimeError(f"{name} of {layer} has a parametrization of several tensors; save its state_dict()")
        originals[name] = (steps.original, list(steps.children()))
    return _blank, (type(layer).__bases__[0],), (state, originals)


def reset_parameters(layer: nn.Module) -> None:
    """The layer's own ``reset_parameters``, of the tensors that are trained; what normalizes them begins anew.

    Torch's fills the normalized weight, a temporary, so that nothing comes of it (torch 2.14).
    """
    kind: Any = type(layer).__bases__[0]
    parametrized = dict(layer.get_submodule("parametrizations").named_children())
    originals: dict[str, Any] = {name: getattr(steps, "original", None) for name, steps in parametrized.items()}
    plain = kind.__new__(kind)
    plain.__dict__ |= layer.__dict__
    plain.__dict__["_parameters"] = layer._parameters | originals
    plain.__dict__["_modules"] = {name: part for name, part in layer._modules.items() if name != "parametrizations"}
    kind.reset_parameters(plain)
    with torch.no_grad():
        for name, steps in parametrized.items():
            for step in steps.children():
                if isinstance(step, Normalization | Gain):
                    step.begin_anew(originals[name])


def _blank(kind: type[nn.Module]) -> nn.Module:
    """A layer whose state is still to come: of a class that takes it in, and then becomes ``kind``."""
    reading: Any = type(kind.__name__, (kind,), {"__setstate__": _restore})
    return reading.__new__(reading)


@torch.no_grad()
def _restore(layer: nn.Module, pickled: tuple[dict[str, Any], dict[str, tuple[Any, list[nn.Module]]]]) -> None:
    state, originals = pickled
    layer.__class__ = type(layer).__bases__[0]
    nn.Module.__setstate__(layer, state)
    for name, (original, steps) in originals.items():
        value = original.clone()
        if isinstance(original, nn.Parameter):
            layer.register_parameter(name, original)
        else:
            layer.register_buffer(name, original)
        for step in steps:
            attach(layer, name, step)
        original.copy_(value)  # a parametrization with an inverse was handed the value for a normalized one
        if isinstance(original, nn.Parameter):
            assert layer.get_parameter(f"parametrizations.{name}.original") is original
        attached = layer.get_submodule(f"parametrizations.{name}")
        if isinstance(attached, DirectList):
            attached.attend()
