"""The named family of norms and how one is put on a module, read off, and baked in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from poise.norms.spectral import SpectralNorm, bsn, bssn, sn, ssn
from poise.registry import Builders

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMALIZED_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED, nn.Embedding)


def out_dim(layer: nn.Module) -> int:
    """The dimension of a layer's weight that counts its output units."""
    return 1 if isinstance(layer, _TRANSPOSED) else 0


def none(weight: Tensor, out_dim: int) -> None:
    """``W`` as it is: the baseline of every paper."""


NORMS: Builders[nn.Module | None] = Builders("norm", {"none": none, "sn": sn, "ssn": ssn, "bsn": bsn, "bssn": bssn})


def normalize(module: nn.Module, norm: str = "bssn", **options: Any) -> nn.Module:
    """Normalize every linear, convolution and embedding weight of ``module``, in place.

    The weights stay trainable: ``layer.weight`` becomes a function of ``layer.parametrizations.weight.original``. Hand
    ``module.parameters()`` to the optimizer after this call or before it, both work.

    Args:
        module: any network; a discriminator, as a rule.
        norm: a name from ``poise.norms.NORMS``; "none" leaves the module as it is.
        **options: the norm's options, e.g. ``scale=1.4`` (unitless) for "ssn" and "bssn".

    Returns:
        The same module.

    Raises:
        ValueError: unknown norm or option, a module without such layers, or one normalized before.

    Source: Miyato et al. 2018 (sn); Lin et al. 2021 (ssn, bsn, bssn).
    """
    NORMS.check(norm, options)
    if norm == "none":
        return module
    layers = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, NORMALIZED_LAYERS)]
    if not layers:
        kinds = ", ".join(kind.__name__ for kind in NORMALIZED_LAYERS)
        raise ValueError(f"{type(module).__name__} has no layer to normalize; looked for {kinds}")
    for name, layer in layers:
        if parametrize.is_parametrized(layer, "weight"):
            raise ValueError(
                f"layer {name or type(layer).__name__!r} is normalized already; poise.denormalize it first"
            )
    for _, layer in layers:
        parametrization = NORMS.build(norm, layer.weight, out_dim(layer), **options)
        assert isinstance(parametrization, SpectralNorm)
        weight = layer.weight
        # unsafe: skips torch's trial forward, which only checks that shape and dtype stay, as they do here.
        parametrize.register_parametrization(layer, "weight", parametrization, unsafe=True)
        parametrization.settle(weight)  # registering counts as a change of the weight
    return module


def normalized_layers(module: nn.Module) -> Iterator[tuple[str, nn.Module, SpectralNorm]]:
    """Name, layer and parametrization of every weight normalized here."""
    for name, layer in module.named_modules():
        if parametrize.is_parametrized(layer, "weight"):
            steps = layer.parametrizations.get_submodule("weight")
            for step in steps.children():
                if isinstance(step, SpectralNorm):
                    yield name, layer, step


@torch.no_grad()
def sigmas(module: nn.Module) -> dict[str, Tensor]:
    """σ of each normalized weight before normalization, as its norm measures it: scalars by layer name, not synced."""
    found = {}
    for name, layer, parametrization in normalized_layers(module):
        weight = layer.get_parameter("parametrizations.weight.original")
        found[name] = parametrization.sigma(weight.detach().float())
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
    """``remove_parametrizations(layer, "weight")`` that leaves the class alone, which a deep copy shares.

    Torch deletes ``weight`` from the layer's class, and with it from every copy of the layer (seen with torch 2.14).
    """
    if set(layer.parametrizations) != {"weight"}:  # type: ignore[arg-type]
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
        return
    original = layer.get_parameter("parametrizations.weight.original")
    effective = layer.get_submodule("parametrizations.weight")()
    with torch.no_grad():
        original.copy_(effective)  # the same parameter: optimizers keep hold of it
    del layer.parametrizations
    layer.__class__ = type(layer).__bases__[0]
    layer.register_parameter("weight", original)
