"""The named family of norms and how one is put on a module, read off, and baked in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from poise.norms.gain import Gain, new_gamma
from poise.norms.normalization import NORMALIZED_LAYERS, Normalization
from poise.norms.projection import clip, sigma_clamp
from poise.norms.spectral import SpectralNorm, bsn, bssn, sn, ssn
from poise.norms.torch_keys import rename_on_load
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
    },
)


def normalize(module: nn.Module, norm: str = "bssn", *, layers: Selection | None = None, **options: Any) -> nn.Module:
    """Normalize the weights of ``module``'s linear, bilinear, convolution and embedding layers, in place.

    The weights stay trainable: ``layer.weight`` becomes a function of ``layer.parametrizations.weight.original``. An
    optimizer may be built before or after, but with "wn" or a γ, which it must know, after.

    Args:
        module: any network; a discriminator, as a rule.
        norm: a name from ``poise.norms.NORMS``; "none" leaves the module as it is.
        layers: which layers: a layer type, a pattern of their names ("blocks.*.conv?"), several of either, or a
            function of (name, layer). All that have a weight to normalize by default.
        **options: the norm's options, e.g. ``scale=1.4`` (unitless) for "ssn" and "bssn"; ``gamma="per-layer"`` or
            ``"shared"`` for a learned scale on weight and bias (sn, ssn, bsn, bssn).

    Returns:
        The same module.

    Raises:
        ValueError: unknown norm or option, a module in which there is no such layer, or one normalized before.

    Source: Miyato et al. 2018 (sn); Lin et al. 2021 (ssn, bsn, bssn); Salimans & Kingma 2016 (wn); Xiang & Li 2017
    (wn-strict).
    """
    NORMS.check(norm, options)
    if norm == "none":
        return module
    chosen = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, NORMALIZED_LAYERS)]
    if not chosen:
        kinds = ", ".join(kind.__name__ for kind in NORMALIZED_LAYERS)
        raise ValueError(f"{type(module).__name__} has no layer to normalize; looked for {kinds}")
    if layers is not None:
        known = ", ".join(name for name, _ in chosen)
        chosen = [(name, layer) for name, layer in chosen if _is_selected(name, layer, layers)]
        if not chosen:
            raise ValueError(f"layers={layers!r} selects none of {type(module).__name__}'s layers: {known}")
    for name, layer in chosen:
        if parametrize.is_parametrized(layer, "weight"):
            raise ValueError(
                f"layer {name or type(layer).__name__!r} is normalized already; poise.denormalize it first"
            )
    # All are built before any is put on: an option that is refused leaves the module as it was.
    built = [(layer, NORMS.build(norm, layer, **options)) for _, layer in chosen]
    shared = new_gamma(chosen[0][1].get_parameter("weight"))
    for layer, normalization in built:
        assert normalization is not None
        _put_on(layer, normalization, shared)
    return module


def _put_on(layer: nn.Module, normalization: Normalization, shared: nn.Parameter) -> None:
    # unsafe: skips torch's trial forward, which only checks that shape and dtype stay, as they do here.
    weight = layer.get_parameter("weight")
    parametrize.register_parametrization(layer, "weight", normalization, unsafe=True)
    normalization.settle(weight)  # registering counts as a change of the weight
    if isinstance(normalization, SpectralNorm):
        layer.register_load_state_dict_pre_hook(rename_on_load)
    if normalization.gamma != "none":
        gamma = shared if normalization.gamma == "shared" else new_gamma(weight)
        parametrize.register_parametrization(layer, "weight", Gain(gamma), unsafe=True)
        if getattr(layer, "bias", None) is not None:
            parametrize.register_parametrization(layer, "bias", Gain(gamma), unsafe=True)


def _is_selected(name: str, layer: nn.Module, layers: Selection) -> bool:
    if isinstance(layers, str):
        return fnmatchcase(name, layers)
    if isinstance(layers, type):
        return isinstance(layer, layers)
    if callable(layers):
        return layers(name, layer)
    return any(_is_selected(name, layer, one) for one in layers)


def normalized_layers(module: nn.Module) -> Iterator[tuple[str, nn.Module, Normalization]]:
    """Name, layer and parametrization of every weight normalized here."""
    for name, layer in module.named_modules():
        if parametrize.is_parametrized(layer, "weight"):
            steps = layer.parametrizations.get_submodule("weight")
            for step in steps.children():
                if isinstance(step, Normalization):
                    yield name, layer, step


@torch.no_grad()
def sigmas(module: nn.Module) -> dict[str, Tensor]:
    """σ of each spectrally normalized weight before its norm, as the norm measures it: scalars by layer, not synced."""
    found = {}
    for name, layer, normalization in normalized_layers(module):
        if isinstance(normalization, SpectralNorm):
            weight = layer.get_parameter("parametrizations.weight.original")
            found[name] = normalization.sigma(weight.detach().float())
    return found


def denormalize(module: nn.Module) -> nn.Module:
    """Bake the effective weights into plain parameters, in place; outputs stay as they were. Returns the module."""
    for _, layer, _ in list(normalized_layers(module)):
        was_training = layer.training
        layer.eval()  # the weight as the last forward saw it, without another round of power iteration
        _bake(layer)
        layer.train(was_training)
    return module


def _bake(layer: nn.Module) -> None:
    """``remove_parametrizations`` of weight and γ's bias that leaves the class alone, which a deep copy shares.

    Torch deletes ``weight`` from the layer's class, and with it from every copy of the layer (seen with torch 2.14).
    """
    parametrized = layer.get_submodule("parametrizations")
    ours = {
        name
        for name, steps in parametrized.named_children()
        if name == "weight" or all(isinstance(step, Gain) for step in steps.children())
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
    for name in sorted(baked, reverse=True):  # weight before bias, as torch's layers have them
        layer.register_parameter(name, baked[name])
