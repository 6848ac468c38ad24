"""Which rule belongs to which function of torch: looked up by the function itself, in every spelling it has.

``torch.relu``, ``F.relu``, ``Tensor.relu`` and their in-place twins are different functions of one name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from poise.spectra import lipschitz_rules as rules
from poise.spectra import lipschitz_spatial as spatial
from poise.spectra.lipschitz_rules import Rule


def _spellings(*names: str) -> Iterator[Callable[..., Any]]:
    for name in names:
        for space in (torch, F, Tensor, torch.linalg, torch.special):
            for spelled in (name, f"{name}_"):
                function = getattr(space, spelled, None)
                if callable(function):
                    yield function


def _table(named: dict[tuple[str, ...], Rule]) -> dict[Any, Rule]:
    return {function: rule for names, rule in named.items() for function in _spellings(*names)}


def _slope(value: float) -> Rule:
    def slope(result: Tensor, input: Tensor, *args: Any, **kwargs: Any) -> float:
        return value * max(1.0, rules.spread(input, result))  # clamped by a larger tensor, it is broadcast

    return slope


COMBINATIONS = _table(
    {
        ("add", "__add__", "__radd__", "__iadd__", "sub", "subtract", "__sub__", "__isub__"): rules.add,
        ("rsub", "__rsub__"): rules.subtract_from,
        ("mul", "multiply", "__mul__", "__rmul__", "__imul__"): rules.multiply,
        ("div", "divide", "true_divide", "__truediv__", "__itruediv__"): rules.divide,
        ("cat", "concat", "concatenate", "stack", "hstack", "vstack"): rules.concatenate,
        ("maximum", "minimum"): rules.larger,
        ("matmul", "mm", "mv", "__matmul__", "__rmatmul__"): rules.matmul,
    }
)
"""Operations whose operands may each depend on the input or not."""

_OF_THIS_SPELLING: dict[Any, Rule] = {  # others of the name have their arguments in another order
    F.batch_norm: rules.batch_norm,
    F.instance_norm: rules.instance_norm,
    F.pad: spatial.pad,
    F.interpolate: spatial.interpolate,
    Tensor.__getitem__: rules.getitem,
    **dict.fromkeys([Tensor.T.__get__, Tensor.mT.__get__], rules.same_entries),  # type: ignore[attr-defined]
}

RULES = (
    _table(
        {
            **{(name,): _slope(value) for name, value in rules.SLOPES.items()},
            rules.SAME_ENTRIES: rules.same_entries,
            ("view",): rules.view,
            ("expand", "expand_as", "broadcast_to", "repeat", "tile"): rules.repeat,
            ("sum",): rules.total,
            ("mean",): rules.mean,
            ("logsumexp",): _slope(1.0),  # its gradient is a softmax
            ("norm", "vector_norm"): rules.norm,
            ("max", "min"): rules.extreme,
            ("softmax",): rules.softmax,
            ("leaky_relu",): rules.leaky_relu,
            ("prelu",): rules.prelu,
            ("rrelu",): rules.rrelu,
            ("elu",): rules.elu,
            ("celu",): rules.celu,
            ("softplus",): rules.softplus,
            ("gelu",): rules.gelu,
            ("dropout", "dropout1d", "dropout2d", "dropout3d"): rules.dropout,
            ("alpha_dropout", "feature_alpha_dropout"): rules.alpha_dropout,
            ("layer_norm", "group_norm"): rules.standardize,
            ("linear",): rules.linear,
            ("conv1d", "conv2d", "conv3d"): spatial.convolution,
            ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"): spatial.transposed_convolution,
            **{(f"avg_pool{d}d",): partial(spatial.average_pool, d) for d in (1, 2, 3)},
            **{(f"max_pool{d}d",): partial(spatial.max_pool, d) for d in (1, 2, 3)},
            **{(f"adaptive_avg_pool{d}d",): partial(spatial.adaptive_average_pool, d) for d in (1, 2, 3)},
            **{(f"adaptive_max_pool{d}d",): partial(spatial.adaptive_max_pool, d) for d in (1, 2, 3)},
        }
    )
    | _OF_THIS_SPELLING
)
"""Operations of one tensor, their first argument."""

LIKE = frozenset(
    _spellings(
        *("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like"),
        *("new_zeros", "new_ones", "new_full", "new_empty"),
    )
)
"""Functions that take only shape and type from their first argument."""

LIKE_ANOTHER = frozenset(_spellings("view_as", "reshape_as", "expand_as", "type_as", "to"))
"""Rules' operations that take only shape and type from their second argument."""

MOVES = frozenset(_spellings("to", "cpu", "cuda"))
"""Functions that may give a tensor on another device."""

CASTS = frozenset(_spellings("to", "type", "type_as", "float", "half", "bfloat16"))
"""Functions that may change the type of numbers."""
