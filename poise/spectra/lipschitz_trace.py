"""Following a network operation by operation, with the Lipschitz constant from its input to each place.

The network runs once on a tensor that has a shape, a type and that constant, but no entries. What is done to it, in
modules of ``torch.nn`` as in the network's own code, arrives in ``__torch_function__``. So code may decide by sizes,
weights are those that evaluation uses however they come about, and code that decides by entries is found out: there are
none. (Virmaux and Scaman 2018, arXiv 1805.10965, algorithm 1.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poise.spectra.lipschitz_rules import why_not
from poise.spectra.lipschitz_spatial import Padding, padding_of
from poise.spectra.lipschitz_table import COMBINATIONS, LIKE, LIKE_ANOTHER, MOVES, RULES

Key = type[nn.Module] | Callable[..., Any] | str


@dataclass(frozen=True)
class Part:
    """One operation of the network."""

    name: str
    """of the layer, as ``named_modules`` has it; in a layer that is not torch's, with the operation"""
    kind: str
    """the operation"""
    constant: float
    """its own: change of its output per change of its input; 1 where branches meet"""
    cumulative: float
    """from the network's input to its output"""


class Signal(Tensor):
    """What the input has become at some place: a shape, a type, and the constant up to here."""

    constant: float
    version: int
    run: Trace
    padding: Padding | None

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            signals = [one for one in tensors((args, kwargs)) if isinstance(one, Signal)]
            return signals[0].run.operation(func, args, kwargs or {}, signals)


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors(one)
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))


def replaced(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """The same nesting with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
        items = [replaced(one, change) for one in value]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, dict):
        return {key: replaced(one, change) for key, one in value.items()}
    return value


@dataclass
class Trace:
    """One run of a network on a signal.

    Args:
        device: where its weights are.
        constants: known to the user, of layers by type or name, of operations by function or name.
    """

    device: torch.device
    constants: Mapping[Key, float]
    parts: list[Part] = field(default_factory=list)
    _path: list[tuple[str, nn.Module]] = field(default_factory=list)
    _skipped: list[tuple[list[Signal], float] | None] = field(default_factory=list)
    _used: list[Key] = field(default_factory=list)

    def follow(self, module: nn.Module, forward: Callable[[Tensor], Any], input: Tensor) -> float:
        """The constant from input to output of ``forward``, which calls ``module``, in evaluation mode.

        Raises:
            ValueError: there is none, or none that is known; the operation and the reason are named.
        """
        self._path.append(("", module))
        try:
            with ExitStack() as hooks, torch.no_grad():
                for name, part in module.named_modules():
                    enter, leave = self._hooks(name)
                    hooks.callback(part.register_forward_pre_hook(enter, prepend=True, with_kwargs=True).remove)
                    hooks.callback(part.register_forward_hook(leave, with_kwargs=True).remove)
                with torch._C.DisableTorchFunctionSubclass():
                    signal = self._signal(torch.empty_like(input, device="meta"), 1.0)
                output = forward(signal)
        except (RuntimeError, TypeError) as error:
            shape = tuple(input.shape[1:])
            raise ValueError(
                f"{self._name('forward')} cannot be followed on an input of shape {shape}: {error}"
            ) from error
        if not isinstance(output, Signal):
            raise ValueError(
                f"{type(module).__name__} returns {type(output).__name__}, not one tensor made of its input by torch "
                "operations; wrap it in a module that returns the output to bound"
            )
        with torch._C.DisableTorchFunctionSubclass():
            if output.version != output._version:
                self._refuse("the output", "it was written to through another view of it")
        unused = [getattr(key, "__name__", key) for key in self.constants if key not in self._used]
        if unused:
            met = ", ".join(dict.fromkeys(part.name for part in self.parts)) or "none"
            raise ValueError(f"constants has {unused}, which the network does not use; it uses {met}")
        return output.constant

    def operation(self, func: Any, args: Any, kwargs: Any, signals: list[Signal]) -> Any:
        """One function of torch, applied to shapes."""
        kind = getattr(func, "__name__", str(func)).strip("_")
        attribute = kind == "get"
        if attribute:
            kind = func.__self__.__name__
            if kind == "device":
                return self.device  # so that the network's own tensors have entries
        if func in LIKE and len(signals) == 1 and args and args[0] is signals[0]:
            return func(self._zeros(args[0]), *args[1:], **kwargs)
        for one in tensors((args, kwargs)):
            if isinstance(one, Signal) and one.version != one._version:
                self._refuse(kind, "what it is given was since written to through another view of it")
            if one.is_meta and not isinstance(one, Signal):
                self._refuse(kind, "what it is given was taken from the network's input by other means than torch's")
        shapes = replaced((args, kwargs), self._zeros if func in MOVES else _shape)
        versions = [(one, one._version) for one in tensors(shapes) if not isinstance(one, Signal)]
        try:
            result = func(*shapes[0], **shapes[1])
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            if "meta" in str(error).lower():
                self._refuse(kind, "it decides by the entries of the input, where it may jump", error, whole=True)
            if func in RULES or func in COMBINATIONS:
                raise ValueError(f"{self._name(kind)} ({kind}) cannot take what it is given: {error}") from error
            self._refuse(kind, why_not(kind), error)
        result = replaced(result, _shape)
        written = any(one._version != version for one, version in versions)
        if written or kwargs.get("out") is not None or (result is None and not attribute):
            self._refuse(kind, "it writes into a tensor; make a new one, by torch.cat, torch.stack or F.pad")
        found = list(tensors(result))
        if not found:
            return result  # a size or a type: the same for all inputs
        if not all(one.is_floating_point() for one in found):
            self._refuse(kind, "its result, of integers or truth values, jumps as the input changes", whole=True)
        try:
            cumulative = self._cumulative(func, kind, found[0], args, kwargs, signals)
        except (TypeError, ValueError) as error:
            self._refuse(kind, str(error), error)
        if not math.isfinite(cumulative):
            self._refuse(kind, f"its constant is {cumulative}")
        before = math.hypot(*(one.constant for one in signals))
        alone = len(signals) == 1 and before > 0
        self.parts.append(Part(self._name(kind), kind, cumulative / before if alone else 1.0, cumulative))
        made = replaced(result, lambda one: self._signal(one, cumulative))
        if func is F.pad:
            made.padding = padding_of(*args, **kwargs)
        return made

    def _cumulative(self, func: Any, kind: str, result: Tensor, args: Any, kwargs: Any, signals: list[Signal]) -> float:
        name = self._name(kind)
        given = self._given(lambda key: key == name or getattr(key, "__name__", "").strip("_") == kind)
        if given is not None:
            return given * math.hypot(*(one.constant for one in signals))
        if func in COMBINATIONS:
            return COMBINATIONS[func](result, *args, **kwargs)
        first = args[0] if args else kwargs.get("input")
        alone = len(signals) == 1 or func in LIKE_ANOTHER
        if func not in RULES or not alone or first is not signals[0]:
            raise ValueError(why_not(kind))
        return signals[0].constant * RULES[func](result, *args, **kwargs)

    def _signal(self, shape: Tensor, constant: float) -> Signal:
        """A signal of this shape; the same one when an operation wrote to it in place."""
        written = isinstance(shape, Signal) and shape.version != shape._version
        signal: Any = shape if written else shape.detach().as_subclass(Signal)
        signal.constant, signal.version, signal.run, signal.padding = constant, signal._version, self, None
        return signal

    def _zeros(self, one: Tensor) -> Tensor:
        return torch.zeros(one.shape, dtype=one.dtype, device=self.device) if isinstance(one, Signal) else one

    def _hooks(self, name: str) -> tuple[Any, Any]:
        """What happens before and after each call of the layer of this name.

        A layer with a constant of its own runs on zeros, unwatched, and its output is given that constant.
        """

        def enter(layer: nn.Module, args: Any, kwargs: Any) -> Any:
            self._path.append((name, layer))
            signals = [one for one in tensors((args, kwargs)) if isinstance(one, Signal)]
            with torch._C.DisableTorchFunctionSubclass():
                own = self._given(lambda key: key == name or _is_of(layer, key)) if signals else None
                self._skipped.append(None if own is None else (signals, own))
                return (args, kwargs) if own is None else replaced((args, kwargs), self._zeros)

        def leave(layer: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            skipped = self._skipped.pop()
            with torch._C.DisableTorchFunctionSubclass():
                if skipped is not None:
                    signals, own = skipped
                    cumulative = own * math.hypot(*(one.constant for one in signals))
                    kind = type(layer).__name__.removeprefix("Parametrized")
                    self.parts.append(Part(self._name(kind), kind, own, cumulative))
                    output = replaced(output, lambda one: self._signal(one.to("meta"), cumulative))
            self._path.pop()
            return output

        return enter, leave

    def _given(self, fits: Callable[[Key], bool]) -> float | None:
        """The user's constant whose key fits, names before types."""
        keys = sorted(filter(fits, self.constants), key=lambda key: not isinstance(key, str))
        self._used += keys
        return float(self.constants[keys[0]]) if keys else None

    def _name(self, kind: str) -> str:
        """A name of its own for the operation at hand, after the layer it is in."""
        name, layer = self._path[-1]
        if not _is_torchs(layer):
            name = f"{name}.{kind}"
        name = name.lstrip(".") or kind
        taken = {part.name for part in self.parts}
        return next(one for one in (name, *(f"{name}_{n}" for n in range(1, len(taken) + 2))) if one not in taken)

    def _refuse(self, kind: str, why: str, error: Exception | None = None, whole: bool = False) -> NoReturn:
        """Raise; ``whole`` when only the layer that the operation is in can have a constant, not the operation."""
        path, layer = self._path[-1]
        name = path if path and _is_torchs(layer) else self._name(kind)
        key = path if whole else name
        do = f"give constants={{{key!r}: ...}}" if key else "put what needs it into a layer, and give that one's"
        raise ValueError(f"{name} ({kind}) has no known Lipschitz constant: {why}. If you know one, {do}") from error


def _shape(one: Tensor) -> Tensor:
    return one if one.is_meta else one.to("meta")


def _is_of(layer: nn.Module, key: Key) -> bool:
    return isinstance(key, type) and isinstance(layer, key)


def _is_torchs(layer: nn.Module) -> bool:
    """Whether a layer is one of torch's, and its operations are known by its name."""
    return type(layer).__module__.startswith("torch.nn.")
