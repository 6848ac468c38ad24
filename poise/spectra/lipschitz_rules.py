"""What each operation contributes to a Lipschitz bound: L2 to L2, over all inputs, one input at a time.

A rule is given the operation's result, of which the shape counts, and its arguments, with torch's names and defaults.
It returns the constant with respect to the first argument, or raises ValueError saying why there is none. A combination
returns the constant from the network's input on: with L of each branch, a sum has ``ΣL`` (Gouk et al. 2021, arXiv
1804.04368, for residual blocks) and a concatenation ``√ΣL²``; an operand that does not depend on the input has 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from poise.spectra.lipschitz_linear import matrix_norm, wide

Rule = Callable[..., float]

SLOPES = {  # of functions of one number, the steepest
    **dict.fromkeys(["relu", "relu6", "hardtanh", "clamp", "clip", "clamp_min", "clamp_max", "abs", "neg"], 1.0),
    **dict.fromkeys(["tanh", "softsign", "tanhshrink", "softshrink", "logsigmoid"], 1.0),
    **dict.fromkeys(["sin", "cos", "atan", "asinh"], 1.0),
    "sigmoid": 1 / 4,  # σ(1 − σ) at 0
    "hardsigmoid": 1 / 6,
    "hardswish": 3 / 2,  # (2x + 3)/6 just below 3
    "erf": 1.1283791670955128,  # 2/√π at 0
    "selu": 1.7580993408473773,  # its α·scale, just below 0
    # Where the second derivative is zero, found with 30 digits and rounded up:
    "silu": 1.0998393201288670,  # at 2.39936
    "mish": 1.0884981612517280,  # at 1.49057
}
GELU = {
    "none": 1.1289041451851550,  # Φ(x) + xφ(x) at √2, the zero of φ(x)(2 − x²): (1 + erf 1)/2 + 1/(e√π)
    "tanh": 1.1289930686587718,  # at 1.41850, found like silu's
}
SAME_ENTRIES = (  # each entry of the result is an entry of the input, none used twice; or the largest of some
    *("view_as", "reshape", "reshape_as", "flatten", "unflatten", "ravel", "squeeze", "unsqueeze", "contiguous"),
    *("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "flip", "roll", "rot90", "clone"),
    *("narrow", "select", "chunk", "split", "tensor_split", "unbind", "diagonal", "tril", "triu", "detach"),
    *("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle", "requires_grad"),
    *("to", "type", "type_as", "float", "double", "half", "bfloat16", "cpu", "cuda", "amax", "amin"),
)
PRODUCT = (
    "it multiplies tensors that both depend on the input, and such a product has no Lipschitz constant over all inputs "
    "(for attention: Kim, Papamakarios and Mnih 2021, arXiv 2006.04710)"
)
JUMPS = "its result jumps as the input changes, and so may all that is decided by it"
STEEP = "its slope is unbounded over all inputs"
WHY_NOT = {
    **dict.fromkeys(
        ["bmm", "baddbmm", "einsum", "bilinear", "glu", "addcmul", "scaled_dot_product_attention"], PRODUCT
    ),
    "multi_head_attention_forward": PRODUCT,
    **dict.fromkeys(["gt", "lt", "ge", "le", "eq", "ne", "sign", "round", "floor", "ceil", "argmax", "argmin"], JUMPS),
    **dict.fromkeys(["pow", "square", "exp", "log", "sqrt", "rsqrt", "reciprocal", "rdiv", "rtruediv"], STEEP),
}


def why_not(kind: str) -> str:
    """Why an operation that is in no table has no constant."""
    return WHY_NOT.get(kind.strip("_"), "there is no rule for it")


def depends(operand: Any) -> bool:
    """Whether an operand depends on the network's input."""
    return hasattr(operand, "constant")


def spread(operand: Tensor, result: Tensor) -> float:
    """√ of how often the result has each entry of the operand, which is broadcast or repeated to it."""
    return math.sqrt(result.numel() / max(operand.numel(), 1))


def branch(operand: Any, result: Tensor) -> float:
    """The constant of one operand, broadcast to the result."""
    return operand.constant * spread(operand, result) if depends(operand) else 0.0


def largest(factor: Any) -> float:
    """The largest absolute value in a constant tensor, or of a number."""
    factor = wide(factor) if isinstance(factor, Tensor) else torch.tensor(factor, dtype=torch.float64)
    return float(factor.abs().amax()) if factor.numel() else 0.0


# Combinations.


def add(result: Tensor, input: Any, other: Any, alpha: float = 1) -> float:
    return branch(input, result) + abs(alpha) * branch(other, result)


def subtract_from(result: Tensor, input: Any, other: Any, alpha: float = 1) -> float:
    return add(result, other, input, alpha)


def multiply(result: Tensor, input: Any, other: Any) -> float:
    if depends(input) and depends(other):
        raise ValueError(PRODUCT)
    signal, factor = (input, other) if depends(input) else (other, input)
    return branch(signal, result) * largest(factor)


def divide(result: Tensor, input: Any, other: Any, rounding_mode: str | None = None) -> float:
    if depends(other):
        raise ValueError(STEEP)
    if rounding_mode is not None:
        raise ValueError(JUMPS)
    return branch(input, result) * largest(1 / wide(torch.as_tensor(other, dtype=torch.float64)))


def concatenate(result: Tensor, tensors: Iterable[Tensor], dim: int = 0) -> float:
    return math.hypot(*(one.constant for one in tensors if depends(one)))  # type: ignore[attr-defined]


def larger(result: Tensor, input: Any, other: Any) -> float:
    return math.hypot(branch(input, result), branch(other, result))  # it moves by the larger of two moves at most


def matmul(result: Tensor, input: Any, other: Any) -> float:
    if depends(input) and depends(other):
        raise ValueError(PRODUCT)
    signal, factor = (input, other) if depends(input) else (other, input)
    if factor.ndim > 2:
        raise ValueError(f"the matrix has shape {tuple(factor.shape)}; there is a rule for 1 and 2 dimensions")
    return signal.constant * matrix_norm(wide(factor if factor.ndim == 2 else factor[None]))


# Rules.


def same_entries(result: Tensor, input: Tensor, *args: Any, **kwargs: Any) -> float:
    return 1.0


def view(result: Tensor, input: Tensor, *args: Any, **kwargs: Any) -> float:
    if result.dtype != input.dtype:
        raise ValueError("it reads the entries' bits as another type")
    return 1.0


def getitem(result: Tensor, input: Tensor, index: Any) -> float:
    if not all(one is None or one is ... or isinstance(one, int | slice) for one in _tuple(index)):
        raise ValueError("indexed by lists or tensors it may use entries twice; index by integers and slices")
    return 1.0


def _tuple(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


def repeat(result: Tensor, input: Tensor, *args: Any, **kwargs: Any) -> float:
    return spread(input, result)


def total(result: Tensor, input: Tensor, *args: Any, **kwargs: Any) -> float:
    return math.sqrt(input.numel() / max(result.numel(), 1))  # the norm of a row of ones


def mean(result: Tensor, input: Tensor, *args: Any, **kwargs: Any) -> float:
    return math.sqrt(result.numel() / max(input.numel(), 1))


def norm(result: Tensor, input: Tensor, p: Any = 2, *args: Any, ord: Any = 2, **kwargs: Any) -> float:
    if not {p, ord} <= {2, "fro"}:
        raise ValueError("there is a rule for the 2-norm only")
    return 1.0


def extreme(result: Tensor, input: Tensor) -> float:
    return 1.0


def softmax(result: Tensor, input: Tensor, *args: Any, **kwargs: Any) -> float:
    return 0.5  # rows of diag(p) − ppᵀ have the absolute sum 2p(1 − p) ≤ ½ (Gershgorin)


def leaky_relu(result: Tensor, input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> float:
    return max(1.0, abs(negative_slope))


def prelu(result: Tensor, input: Tensor, weight: Tensor) -> float:
    return max(1.0, largest(weight))


def rrelu(
    result: Tensor, input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, *args: Any, **kwargs: Any
) -> float:
    return max(1.0, abs(lower), abs(upper))


def elu(result: Tensor, input: Tensor, alpha: float = 1.0, inplace: bool = False) -> float:
    return max(1.0, abs(alpha))


def celu(result: Tensor, input: Tensor, alpha: float = 1.0, inplace: bool = False) -> float:
    if alpha < 0:
        raise ValueError(f"with alpha {alpha} {STEEP}")
    return 1.0


def softplus(result: Tensor, input: Tensor, beta: float = 1, threshold: float = 20) -> float:
    if threshold < 15:
        raise ValueError(f"with threshold {threshold} it jumps there, to the identity; from 15 on that is rounding")
    return 1.0


def gelu(result: Tensor, input: Tensor, *, approximate: str = "none") -> float:
    return GELU[approximate]


def dropout(result: Tensor, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> float:
    return 1 / (1 - p) if training and p < 1 else 1.0


def alpha_dropout(
    result: Tensor, input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> float:
    if training:
        raise ValueError("it drops entries in evaluation too")
    return 1.0


def batch_norm(
    result: Tensor,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> float:
    if training or running_var is None:
        return standardize(result, input, 0, weight, bias, eps)
    scale = (wide(running_var) + eps).rsqrt()
    return largest(scale if weight is None else scale * wide(weight))


def instance_norm(
    result: Tensor,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> float:
    return batch_norm(result, input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)


def standardize(
    result: Tensor,
    input: Tensor,
    over: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> float:
    steepest = (1.0 if weight is None else largest(weight)) / math.sqrt(eps)
    raise ValueError(
        "it divides by the standard deviation of its own input, so that there is no useful constant: over all inputs "
        f"it is max|γ|/√eps = {steepest:.4g}, reached where the input hardly varies"
    )


def linear(result: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> float:
    return matrix_norm(wide(weight if weight.ndim == 2 else weight[None]))
