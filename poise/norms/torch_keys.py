"""Checkpoints to and from torch's own spectral norm: its parametrization, and the older hook.

==================================  ===========================================  ================
poise                               ``torch.nn.utils.parametrizations``          ``torch.nn.utils``
==================================  ===========================================  ================
``parametrizations.weight.original``  the same                                     ``weight_orig``
``parametrizations.weight.0.u_out``   ``parametrizations.weight.0._u``             ``weight_u``
``parametrizations.weight.0.v_out``   ``parametrizations.weight.0._v``             ``weight_v``
==================================  ===========================================  ================

Loading needs nothing: a network under "sn" or "ssn" takes any of the three. ``torch_state_dict`` saves for torch.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.utils import parametrize

_OURS = ("parametrizations.weight.original", "parametrizations.weight.0.u_out", "parametrizations.weight.0.v_out")
_FORMS = {
    "parametrization": (_OURS[0], "parametrizations.weight.0._u", "parametrizations.weight.0._v"),
    "hook": ("weight_orig", "weight_u", "weight_v"),
}


def rename_on_load(layer: nn.Module, state_dict: dict[str, Any], prefix: str, *more: Any) -> None:
    """A load hook of a normalized layer: torch's names become ours, in place."""
    if not parametrize.is_parametrized(layer, "weight"):
        return
    for form in _FORMS.values():
        for theirs, ours in zip(form, _OURS, strict=True):
            if theirs != ours and prefix + theirs in state_dict:
                state_dict[prefix + ours] = state_dict.pop(prefix + theirs)


def torch_state_dict(
    module: nn.Module, form: Literal["parametrization", "hook"] = "parametrization"
) -> dict[str, Tensor]:
    """The state dict of a network under "sn", as torch's own spectral norm would have saved it.

    Args:
        form: "parametrization" for ``torch.nn.utils.parametrizations.spectral_norm``, "hook" for the older
            ``torch.nn.utils.spectral_norm``.

    Raises:
        ValueError: an unknown form, or a norm that torch's does not compute (a scale, two directions, a γ).
    """
    if form not in _FORMS:
        raise ValueError(f"form is {form!r}; allowed: {', '.join(map(repr, _FORMS))}")
    state = dict(module.state_dict())
    for name in list(state):
        prefix, found, rest = name.rpartition("parametrizations.weight.")
        if not found:
            continue
        if found + rest not in _OURS:
            raise ValueError(f"{name} has no counterpart in torch's spectral norm; only plain 'sn' does")
        theirs = _FORMS[form][_OURS.index(found + rest)]
        state[prefix + theirs] = state.pop(name)
    _refuse_scaled(module)
    return state


def _refuse_scaled(module: nn.Module) -> None:
    for name, layer in module.named_modules():
        scale = getattr(layer, "scale", 1.0) if name.endswith("parametrizations.weight.0") else 1.0
        if scale != 1.0:
            raise ValueError(f"{name} has scale {scale}; torch's spectral norm has none: use 'sn', or denormalize")
