"""How far a network can stretch: a certified upper and a measured lower bound of its Lipschitz constant.

``‖f(x) − f(x′)‖ ≤ L‖x − x′‖`` for all inputs, in the 2-norm. From above: the product of the layers' constants (Szegedy
et al. 2014, arXiv 1312.6199, section 4.3), those of branches added (Gouk et al. 2021, arXiv 1804.04368). From below:
the steepest pair of inputs that an ascent finds. To find the least L is NP-hard (Virmaux and Scaman 2018, arXiv
1805.10965).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from poise.spectra.lipschitz_linear import wide
from poise.spectra.lipschitz_table import CASTS
from poise.spectra.lipschitz_trace import Key, Part, Trace, replaced, tensors

ROUNDING = 1e-4  # by how much, relatively, rounding may lift a measured slope over the bound


@dataclass(frozen=True)
class LipschitzBound:
    """The Lipschitz constant of a network lies between ``lower`` and ``upper``; printed as a table of its parts."""

    upper: float
    """certified, output units per input unit"""
    lower: float
    """measured between two inputs; 0 when not searched for"""
    parts: tuple[Part, ...]
    """every operation, in the order they run"""

    def __str__(self) -> str:
        lines = [("part", "kind", "constant", "cumulative")]
        for part in self.parts:
            lines.append((part.name, part.kind, f"{part.constant:.4g}", f"{part.cumulative:.4g}"))
        widths = [max(len(line[column]) for line in lines) for column in range(4)]
        table = "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        )
        return f"{table}\nLipschitz constant: at least {self.lower:.4g}, at most {self.upper:.4g}"


def lipschitz_bound(
    module: nn.Module,
    input_size: int | tuple[int, ...],
    *,
    constants: Mapping[Key, float] | None = None,
    arguments: Mapping[str, Any] | None = None,
    inputs: Tensor | None = None,
    starts: int = 4,
    steps: int = 30,
    seed: int = 0,
) -> LipschitzBound:
    """Bounds of a network's Lipschitz constant, L2 to L2, in evaluation mode; the network is left as it was.

    The upper bound holds for all inputs, each by itself (a batch of one), up to rounding in float64: every constant it
    is made of is exact or above the true one. See ``lipschitz_linear`` for those of convolutions, which are exact up to
    1024 rows or columns and then, typically, 0.2% high at 32 pixels, 2% at 8 and 10% at 4. Weights count as evaluation
    uses them, normalized if they are; batch norm counts with its running statistics, and while training, when it
    has those of the batch, the network has no such bound.

    Args:
        module: any network that gives one tensor, made of operations of torch on its input; its own code may
            decide by sizes, not by entries. A discriminator or a generator, as a rule.
        input_size: shape of one input, without the batch: (C, H, W), pixels; an int for vectors.
        constants: Lipschitz constants that you know, for layers by type or name, or for operations by function (as
            ``torch.exp``) or by name, as printed. Each is believed, of all the inputs of its layer together.
        arguments: further arguments of the forward pass by name, held fixed, e.g. ``{"y": labels}`` for one input.
        inputs: where the ascent for the lower bound starts besides random places, shape (n, *input_size).
        starts: how many random places, normally distributed.
        steps: of the ascent, from each start; two forward and backward passes each. 0: no lower bound.
        seed: of the random places, and of a network that draws random numbers: it is bounded for these draws.

    Raises:
        ValueError: an operation that has no constant or none that is known, named with the reason; arguments out of
            range; a network that does not accept the input; a slope above the bound, which a given constant caused.

    Source: as at the top of this file; the lower bound is ascent on a pair of inputs that move together.
    """
    size = (input_size,) if isinstance(input_size, int) else tuple(input_size)
    constants = dict(constants or {})
    _check(module, size, constants, inputs, starts, steps)
    held = dict([*module.named_parameters(), *module.named_buffers()])
    device = next((tensor.device for tensor in held.values()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(seed)
    trace = Trace(device, constants)

    def measure() -> tuple[float, list[float]]:
        fixed = replaced(dict(arguments or {}), lambda tensor: _exact(tensor).to(device))

        def forward(x: Tensor) -> Any:
            _seed(device, seed)
            return module(x, **fixed)

        origin = wide(torch.zeros(1, *size, device=device))
        upper = trace.follow(module, forward, origin)
        places = [torch.randn(origin.shape, dtype=origin.dtype, generator=generator) for _ in range(starts)]
        places += [] if inputs is None else list(inputs.detach().cpu().to(origin.dtype).split(1))
        return upper, [_steepest(forward, place.to(device), steps, generator) for place in places if steps]

    with _at_rest(module, device), _uncompiled(module), torch.inference_mode(False), _InFloat64():
        state = {f"module.{name}": _exact(tensor) for name, tensor in held.items()}
        upper, slopes = torch.func.functional_call(_Holding(module, measure), state, ())
    lower = max(slopes, default=0.0)
    if lower > upper * (1 + ROUNDING):
        raise ValueError(
            f"two inputs were found with a slope of {lower:.6g}, above the bound of {upper:.6g}: a constant that was "
            f"given is too small ({constants}), or the network changes from call to call"
        )
    return LipschitzBound(upper, min(lower, upper), tuple(trace.parts))


class _Holding(nn.Module):
    """Does something while ``functional_call`` exchanges the module's parameters and buffers."""

    def __init__(self, module: nn.Module, action: Callable[[], Any]) -> None:
        super().__init__()
        self.module, self.action = module, action

    def forward(self) -> Any:
        return self.action()


def _check(
    module: nn.Module,
    size: tuple[int, ...],
    constants: Mapping[Key, float],
    inputs: Tensor | None,
    starts: int,
    steps: int,
) -> None:
    if not size or min(size) < 1:
        raise ValueError(f"input_size is {size}; it is the shape of one input without the batch, e.g. (3, 32, 32)")
    for key, constant in constants.items():
        if not 0 <= constant < math.inf:
            raise ValueError(f"constants has {constant} for {key!r}; a Lipschitz constant is at least 0 and finite")
    if inputs is not None and tuple(inputs.shape[1:]) != size:
        raise ValueError(f"inputs has shape {tuple(inputs.shape)}; needed: (n, {', '.join(map(str, size))})")
    if starts < 0 or steps < 0:
        raise ValueError(f"starts is {starts} and steps {steps}; neither may be below 0")
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        raise ValueError(
            f"{type(module).__name__} is scripted and cannot be looked into; give the module it was made of"
        )
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if torch.nn.parameter.is_lazy(tensor) or tensor.is_meta:
            raise ValueError(f"{name} has no entries yet; run the network once, or load its weights, before")


def _exact(tensor: Tensor) -> Tensor:
    """A copy, in float64 if it has fractions."""
    return (wide(tensor) if tensor.is_floating_point() else tensor.detach()).clone()


class _InFloat64(TorchFunctionMode):
    """All in float64: the network's casts to fewer bits do nothing, and its own narrower numbers follow its input's."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        sizes = {one.dtype.itemsize for one in tensors((args, kwargs)) if one.is_floating_point()}
        widest = max(sizes, default=0)
        if len(sizes) > 1:
            args, kwargs = replaced((args, kwargs), lambda one: wide(one) if _is_narrow(one, widest) else one)
        result = func(*args, **(kwargs or {}))
        if func in CASTS and isinstance(result, Tensor) and _is_narrow(result, widest):
            return args[0] if args[0].device == result.device else args[0].to(result.device)
        return result


def _is_narrow(tensor: Tensor, widest: int) -> bool:
    return tensor.is_floating_point() and tensor.dtype.itemsize < widest


def _uncompiled(module: nn.Module) -> AbstractContextManager[Any]:
    """Compiled code runs as it was written; what is not compiled is spared the compiler's import."""
    compiled = any(hasattr(part, "_orig_mod") or part._compiled_call_impl is not None for part in module.modules())
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def _seed(device: torch.device, seed: int) -> None:
    """Of the two generators that ``_at_rest`` puts back, and of no other, as ``torch.manual_seed`` would."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def _at_rest(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode; afterwards every attribute of the module's parts and the random state are put back."""
    before = [(part, dict(vars(part)), dict(part._buffers)) for part in module.modules()]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            module.eval()
            yield
        finally:
            for part, attributes, buffers in before:
                vars(part).clear()
                vars(part).update(attributes)
                part._buffers.clear()
                part._buffers.update(buffers)


def _steepest(forward: Callable[[Tensor], Any], place: Tensor, steps: int, generator: torch.Generator) -> float:
    """The largest slope between two inputs met on an ascent from one place.

    With u the direction in which the output changes, the slope's gradient turns the pair towards ``J(a)ᵀu + J(b)ᵀu``,
    a round of power iteration where f is linear, and moves it along ``J(b)ᵀu − J(a)ᵀu``, while the two draw closer.
    """
    best, direction = 0.0, None
    reach = 1 + float(place.norm())
    for step in range(steps):
        if direction is None:
            direction = torch.randn(place.shape, dtype=place.dtype, generator=generator).to(place.device)
        half = direction * (reach * 10 ** (-1 - 3 * step / steps) / 2 / direction.norm())
        pair = [(place - half).requires_grad_(), (place + half).requires_grad_()]
        try:
            slope, gradients = _slope(forward, pair)
        except RuntimeError as error:
            raise ValueError(f"no slope was found, as the network fails; steps=0 does without: {error}") from error
        best, direction = max(best, slope), None
        along = gradients[1] - gradients[0]
        if float(along.norm()) > 0:
            place = place + along * (half.norm() / along.norm())
        if float((gradients[1] + gradients[0]).norm()) > 0:
            direction = gradients[1] + gradients[0]
    return best


@torch.enable_grad()
def _slope(forward: Callable[[Tensor], Any], pair: list[Tensor]) -> tuple[float, list[Tensor]]:
    """The slope between two inputs, and ``Jᵀu`` at each."""
    first, second = (forward(x.clone()) for x in pair)  # it may write to its input
    change = (second - first).detach()
    length, distance = float(change.norm()), float((pair[1] - pair[0]).detach().norm())
    gradients: tuple[Tensor | None, ...] = (None, None)
    if second.requires_grad and 0 < length < math.inf:
        gradients = torch.autograd.grad((first, second), pair, (change / length,) * 2, allow_unused=True)
    return length / distance, [
        torch.zeros_like(x) if one is None else one for x, one in zip(pair, gradients, strict=True)
    ]
