"""Pickling of normalized layers, which torch refuses: ``torch.nn.utils.parametrize`` gives each a class of its own.

A pickle holds the layer's true class, its state, and for each parametrized tensor the original with its
parametrizations, which are registered again when it is read.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize


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
            parametrize.register_parametrization(layer, name, step, unsafe=True)
        original.copy_(value)  # a parametrization with an inverse was handed the value for a normalized one
        if isinstance(original, nn.Parameter):
            assert layer.get_parameter(f"parametrizations.{name}.original") is original
    type(layer).__reduce_ex__ = reduce  # type: ignore[method-assign, assignment]
