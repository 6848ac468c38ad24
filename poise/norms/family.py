"""The named family of norms and how one is put on a module, read off, and baked in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from poise.norms.attaching import attach
from poise.norms.compensation import spectral_compensation
from poise.norms.finite import CheckFinite
from poise.norms.gain import Gain, new_gamma
from poise.norms.normalization import (
    NORMALIZED_LAYERS,
    WEIGHT_NAMES,
    LayerWeight,
    Normalization,
    Packed,
    layer_weights,
    weight_name,
)
from poise.norms.orthogonal import orthogonal
from poise.norms.projection import clip, sigma_clamp
from poise.norms.regularization import sigma_reg
from poise.norms.spectral import SpectralNorm
from poise.norms.torch_keys import rename_on_load
from poise.norms.variants import bsn, bssn, note_input_size, put_in_stacks, sn, ssn
from poise.norms.weight import frobenius, wn, wn_strict
from poise.registry import Builders

Selection = type[nn.Module] | str | Callable[[str, nn.Module], bool] | Iterable["type[nn.Module] | str"]


def none(layer: nn.Module) -> None:
    """``W`` as it is: the baseline of every paper."""


NORMS: Builders[Normalization | None] = Builders(
    "norm",
    {
        "none": none,
        "sn": sn,
        "ssn": ssn,
        "bsn": bsn,
        "bssn": bssn,
        "wn": wn,
        "wn-strict": wn_strict,
        "frobenius": frobenius,
        "clip": clip,
        "sigma-clamp": sigma_clamp,
        "sigma-reg": sigma_reg,
        "spectral-compensation": spectral_compensation,
        "orthogonal": orthogonal,
    },
)


def normalize(
    module: nn.Module,
    norm: str = "bssn",
    *,
    layers: Selection | None = None,
    check_finite: bool = False,
    **options: Any,
) -> nn.Module:
    """Normalize the weights of ``module``'s linear, bilinear, convolution, embedding and attention layers, in place.

    The weights stay trainable: ``layer.weight`` becomes a function of ``layer.parametrizations.weight.original``. An
    optimizer may be built before or after, but with "wn" or a γ, which it must know, after.

    Args:
        module: any network; a discriminator, as a rule.
        norm: a name from ``poise.norms.NORMS``; "none" leaves the module as it is.
        layers: which layers: a layer type, a pattern of their names ("blocks.*.conv?"), several of either, or a
            function of (name, layer). By default all that have a weight to normalize, but for those within a module
            whose attribute ``unnormalized`` is true, such as the gains by class of ``poise.layers.ClassBatchNorm``.
        check_finite: raise FloatingPointError, naming the layer, at the first forward with NaN or infinity in a
            weight; reads every weight and waits for the device at each forward, so for the search of a fault.
        **options: the norm's options, e.g. ``scale=1.4`` (unitless) for "ssn" and "bssn"; ``gamma="per-layer"`` or
            ``"shared"`` for a learned scale on weight and bias (sn, ssn, bsn, bssn); ``operator="conv"`` for the true
            operator norm of convolutions (the same four), on inputs of ``input_size`` pixels, an int or a size for
            each dimension; by default that of the first input each layer sees.

    Returns:
        The same module.

    Raises:
        ValueError: unknown norm or option, a module in which there is no such layer or one that is still lazy, a
            weight normalized before, or a call in inference mode.

    Source: Miyato et al. 2018 (sn); Lin et al. 2021 (ssn, bsn, bssn); Salimans & Kingma 2016 (wn); Xiang & Li 2017
    (wn-strict).
    """
    NORMS.check(norm, options)
    if norm == "none":
        return module
    if torch.is_inference_mode_enabled():
        raise ValueError(
            "poise.normalize was called in inference mode, where weights cannot be trained; call it outside"
        )
    chosen = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, NORMALIZED_LAYERS)]
    if layers is None:
        apart = [name for name, part in module.named_modules() if getattr(part, "unnormalized", False)]
        within = tuple(f"{name}." if name else "" for name in apart)
        chosen = [(name, layer) for name, layer in chosen if not name.startswith(within)]
    if not chosen:
        kinds = ", ".join(kind.__name__ for kind in NORMALIZED_LAYERS)
        raise ValueError(f"{type(module).__name__} has no layer to normalize; looked for {kinds}")
    if layers is not None:
        known = ", ".join(name for name, _ in chosen)
        chosen = [(name, layer) for name, layer in chosen if _is_selected(name, layer, layers)]
        if not chosen:
            raise ValueError(f"layers={layers!r} selects none of {type(module).__name__}'s layers: {known}")
    for name, layer in chosen:
        if any(parametrize.is_parametrized(layer, parameter) for parameter in WEIGHT_NAMES):
            raise ValueError(
                f"layer {name or type(layer).__name__!r} is normalized already; poise.denormalize it first"
            )
    # All are built before any is put on: an option that is refused leaves the module as it was.
    weights = [(name, weight) for name, layer in chosen for weight in layer_weights(layer)]
    built = [(name, weight, _build(norm, weight, options)) for name, weight in weights]
    put_in_stacks((normalization, weight) for _, weight, normalization in built)
    groups: dict[object, list[Gain]] = {}
    for name, weight, normalization in built:
        _put_on(weight, normalization)
        if normalization.gamma != "none":
            key = weight.layer if normalization.gamma == "per-layer" else "shared"
            _put_gain_on(weight, groups.setdefault(key, []))
        if check_finite:
            check = CheckFinite(weight_name(name, weight.parameter))
            attach(weight.layer, weight.parameter, check)
    return module


def _build(norm: str, weight: LayerWeight, options: dict[str, Any]) -> Normalization:
    parts = [part for piece in weight.pieces() if (part := NORMS.build(norm, piece, **options)) is not None]
    return parts[0] if len(parts) == 1 else Packed(parts)


def _put_on(weight: LayerWeight, normalization: Normalization) -> None:
    layer = weight.layer
    tensor = layer.get_parameter(weight.parameter)
    attach(layer, weight.parameter, normalization)
    normalization.settle(tensor)  # registering counts as a change of the weight
    if isinstance(normalization, SpectralNorm):
        layer.register_load_state_dict_pre_hook(rename_on_load)
    if normalization.awaits_input_size:
        layer.register_forward_pre_hook(note_input_size, with_kwargs=True)


def _put_gain_on(weight: LayerWeight, group: list[Gain]) -> None:
    layer = weight.layer
    gamma = group[0].gamma if group else new_gamma(weight.tensor)
    for name in (weight.parameter, weight.bias):
        has_gain = parametrize.is_parametrized(layer, name) and any(
            isinstance(step, Gain) for step in layer.get_submodule(f"parametrizations.{name}").children()
        )
        if (parametrize.is_parametrized(layer, name) or layer._parameters.get(name) is not None) and not has_gain:
            attach(layer, name, Gain(gamma, group))


def _is_selected(name: str, layer: nn.Module, layers: Selection) -> bool:
    if isinstance(layers, str):
        return fnmatchcase(name, layers)
    if isinstance(layers, type):
        return isinstance(layer, layers)
    if callable(layers):
        return layers(name, layer)
    return any(_is_selected(name, layer, one) for one in layers)


@dataclass(frozen=True)
class NormalizedWeight:
    """A weight that ``poise.normalize`` was put on.

    Attributes:
        name: the layer's name in the module; of attention's weights, with their own: "attention.in_proj_weight".
        layer: what it belongs to.
        parameter: its name in the layer, "weight" as a rule.
        original: the trained tensor, before normalization.
        normalization: what makes the effective weight of it.
    """

    name: str
    layer: nn.Module
    parameter: str
    original: Tensor
    normalization: Normalization


def normalized_weights(module: nn.Module) -> Iterator[NormalizedWeight]:
    """Every weight normalized here, in the order of the module's layers."""
    for name, layer in module.named_modules():
        if not parametrize.is_parametrized(layer):
            continue
        for parameter, steps in layer.get_submodule("parametrizations").named_children():
            for step in steps.children():
                if isinstance(step, Normalization):
                    yield NormalizedWeight(weight_name(name, parameter), layer, parameter, steps.original, step)


@torch.no_grad()
def sigmas(module: nn.Module) -> dict[str, Tensor]:
    """σ of each spectrally normalized weight before its norm, as the norm measures it: scalars by layer, not synced.

    Of attention's packed weight, which is three maps, it is the largest. A convolution whose operator norm awaits its
    first input is left out.
    """
    found = {}
    for weight in normalized_weights(module):
        parts = weight.normalization.parts if isinstance(weight.normalization, Packed) else [weight.normalization]
        pieces = weight.original.detach().float().chunk(len(parts))
        measured = [
            part.sigma(piece)
            for part, piece in zip(parts, pieces, strict=True)
            if isinstance(part, SpectralNorm) and part.has_begun
        ]
        if measured:
            found[weight.name] = torch.stack(measured).amax()
    return found


def denormalize(module: nn.Module) -> nn.Module:
    """Bake the effective weights into plain parameters, in place; outputs stay as they were. Returns the module."""
    for layer in {weight.layer: None for weight in normalized_weights(module)}:
        was_training = layer.training
        layer.eval()  # the weight as the last forward saw it, without another round of power iteration
        _bake(layer)
        layer.train(was_training)
    return module


def _bake(layer: nn.Module) -> None:
    """``remove_parametrizations`` of what is ours that leaves the class alone, which a deep copy shares.

    Torch deletes ``weight`` from the layer's class, and with it from every copy of the layer (seen with torch 2.14).
    """
    parametrized = layer.get_submodule("parametrizations")
    ours = {
        name
        for name, steps in parametrized.named_children()
        if any(isinstance(step, Normalization | Gain) for step in steps.children())
    }
    if ours != {name for name, _ in parametrized.named_children()}:
        for name in ours:
            parametrize.remove_parametrizations(layer, name, leave_parametrized=True)
        return
    baked = {}
    for name in ours:
        original = layer.get_parameter(f"parametrizations.{name}.original")
        effective = layer.get_submodule(f"parametrizations.{name}")()
        with torch.no_grad():
            original.copy_(effective)  # the same parameter: optimizers keep hold of it
        baked[name] = original
    del layer.parametrizations
    layer.__class__ = type(layer).__bases__[0]
    _forget_hooks(layer)
    others = dict(layer._parameters)
    layer._parameters.clear()
    for name in sorted(baked, reverse=True):  # weight before bias, as torch's layers have them
        layer.register_parameter(name, baked[name])
    layer._parameters.update(others)


def _forget_hooks(layer: nn.Module) -> None:
    for hooks in (layer._forward_pre_hooks, layer._load_state_dict_pre_hooks):
        for key, hook in list(hooks.items()):
            if getattr(hook, "hook", hook) in (note_input_size, rename_on_load):
                del hooks[key]
                layer._forward_pre_hooks_with_kwargs.pop(key, None)
