"""Checkpoints of torch-mimicry (Lee and Town 2020, arXiv 2005.02494): its SNGAN, projection cGAN and SAGAN ResNets.

=====================  ======================================================================
poise                  torch-mimicry
=====================  ======================================================================
``blocks.i``             G: ``block{i+2}``; D: ``block{i+1}``
``conv1``, ``conv2``       ``c1``, ``c2``; ``shortcut`` is ``c_sc``
``norm1``, ``norm2``       ``b1``, ``b2``; with labels ``embed`` holds gain and bias side by side
``linear``               G: ``l1``; D: ``l5`` at 32 and 48 pixels, ``l6`` at 64, ``l7`` at 128
``norm``, ``to_rgb``       ``b5``, ``c5`` at 32 and 48 pixels, ``b6``, ``c6`` at 64, ``b7``, ``c7`` at 128
``embedding``            ``l_y``; ``attention`` is ``attn_block``
=====================  ======================================================================

Most of its layers keep u and v as ``torch.nn.utils.spectral_norm`` does. Others keep u alone, as ``sn_u``, and run a
round of power iteration at every forward, which eval mode does not store: here it runs once and is kept.

The generators of its other GANs are the same network. Discriminators without spectral normalization are refused: the
keys do not tell the WGAN-GP's, which takes the mean over the pixels, from the DCGAN's, which takes the sum.
"""

from __future__ import annotations

import re
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from poise.convert.checkpoint import Conversion, Reader, State, need
from poise.models.sngan import PLANS

GENERATORS = {(5, 4): 32, (5, 6): 48, (6, 4): 64, (7, 4): 128}
"""number in the name of the last layer, and height of the first image ↦ resolution"""

DISCRIMINATORS = {(5, 4): 32, (5, 5): 48, (6, 5): 64, (7, 6): 128}
"""number in the name of the last layer, and in that of the last block ↦ resolution"""

OPTIONS = {"upsample": "bilinear", "rectified_shortcuts": True}
"""what all its networks do otherwise than the papers'"""

CONVOLUTIONS = {"conv1": "c1", "conv2": "c2", "shortcut": "c_sc"}
_BLOCK = re.compile(r"block(\d+)\.(?:c1|c2|c_sc|b1|b2)\.")


def recognise(state: State) -> bool:
    """Whether these are the keys of one of its ResNets, or some of them."""
    return any(_BLOCK.match(key) for key in state)


def convert(state: State) -> Conversion:
    """A generator or discriminator. Raises ValueError for missing, extra or misshapen keys, or sizes we do not have."""
    state = _with_both_vectors(state)
    is_generator = any(re.match(r"l1\.|[bc]\d+\.|block\d+\.b[12]\.", key) for key in state)
    return _generator(state) if is_generator else _discriminator(state)


def _with_both_vectors(state: State) -> State:
    """The state with every spectral norm as torch keeps it: weight_orig, weight_u, weight_v."""
    hooked = dict(state)
    for layer in [key.removesuffix(".sn_sigma") for key in state if key.endswith(".sn_sigma")]:
        u, weight = need(hooked, f"{layer}.sn_u"), need(hooked, f"{layer}.weight")
        for name in ("sn_u", "sn_sigma", "weight"):
            del hooked[f"{layer}.{name}"]
        v = F.normalize(u.flatten() @ weight.flatten(1), dim=0)
        hooked[f"{layer}.weight_u"] = F.normalize(weight.flatten(1) @ v, dim=0)
        hooked[f"{layer}.weight_v"], hooked[f"{layer}.weight_orig"] = v, weight
    return hooked


def _generator(state: State) -> Conversion:
    last = _last(state, "c")
    rows, latent_dim = _weight(state, "l1").shape
    channels = _weight(state, "block2.c1").shape[1]
    base = round((rows / channels) ** 0.5)
    if (last, base) not in GENERATORS or rows != base**2 * channels:
        raise ValueError(f"l1 gives {rows} numbers, for {channels} channels, and the last layer is c{last}; {_KNOWN}")
    resolution = GENERATORS[last, base]
    plan = PLANS[resolution]
    embedding = state.get("block2.b1.embed.weight")
    options = {
        "resolution": resolution,
        "width": _width(channels, plan.generator[0], "block2.c1", resolution),
        "latent_dim": latent_dim,
        "num_classes": 0 if embedding is None else len(embedding),
        **OPTIONS,
    }
    reader = Reader(state, _architecture(state), options, "generator")
    reader.layer("linear", "l1")
    for index in range(len(plan.generator) - 1):
        _block(reader, f"blocks.{index}", f"block{index + 2}")
        for number in (1, 2):
            _batch_norm(reader, f"blocks.{index}.norm{number}", f"block{index + 2}.b{number}")
    _plain_batch_norm(reader, "norm", f"b{last}")
    reader.layer("to_rgb", f"c{last}")
    _attention(reader)
    return reader.finish()


def _discriminator(state: State) -> Conversion:
    last = _last(state, "l")
    if not any(key.endswith(".weight_orig") for key in state):
        raise ValueError(
            "no weight is spectrally normalized: a WGAN-GP's or a DCGAN's discriminator, which have the same keys and "
            "compute different things; known: SNGAN, cGAN-PD and SAGAN"
        )
    channels = len(_weight(state, "block1.c1"))
    blocks = max(int(found[1]) for key in state if (found := _BLOCK.match(key)))
    if (last, blocks) not in DISCRIMINATORS:
        raise ValueError(f"the last block is block{blocks} and the last layer l{last}; {_KNOWN}")
    resolution = DISCRIMINATORS[last, blocks]
    has_classes = any(key.startswith("l_y.") for key in state)
    options = {
        "resolution": resolution,
        "width": _width(channels, PLANS[resolution].discriminator[0], "block1.c1", resolution),
        "num_classes": len(_weight(state, "l_y")) if has_classes else 0,
        **OPTIONS,
    }
    reader = Reader(state, _architecture(state), options, "discriminator")
    for index in range(blocks):
        _block(reader, f"blocks.{index}", f"block{index + 1}")
    reader.layer("linear", f"l{last}")
    if has_classes:
        reader.layer("embedding", "l_y")
    _attention(reader)
    return reader.finish()


_KNOWN = f"no resolution of {', '.join(map(str, PLANS))} pixels has that"


def _last(state: State, kind: str) -> int:
    """The number in the name of the last layer."""
    numbers = {int(found[1]) for key in state if (found := re.match(rf"{kind}([2-9])\.", key))}
    if len(numbers) != 1:
        raise ValueError(f"{len(numbers)} of the layers {kind}5, {kind}6 and {kind}7 are there; it must be one")
    return numbers.pop()


def _weight(state: State, layer: str) -> Tensor:
    """A layer's weight, normalized or not, for its shape."""
    return state[f"{layer}.weight_orig"] if f"{layer}.weight_orig" in state else need(state, f"{layer}.weight")


def _width(channels: int, multiple: int, layer: str, resolution: int) -> int:
    if channels % multiple:
        raise ValueError(f"{layer} has {channels} channels; at {resolution} pixels it must be a multiple of {multiple}")
    return channels // multiple


def _architecture(state: State) -> str:
    return "sagan" if any(key.startswith("attn_block.") for key in state) else "sngan"


def _block(reader: Reader, ours: str, theirs: str) -> None:
    for name, other in CONVOLUTIONS.items():
        if f"{ours}.{name}.weight" in reader.wanted:
            reader.layer(f"{ours}.{name}", f"{theirs}.{other}")


def _batch_norm(reader: Reader, ours: str, theirs: str) -> None:
    """A block's batch norm; with labels, the embedding holds gains, then biases."""
    if not reader.options["num_classes"]:
        _plain_batch_norm(reader, f"{ours}.norm", theirs)
        return
    reader.statistics(f"{ours}.norm", f"{theirs}.bn.running_mean", f"{theirs}.bn.running_var")
    parts = [key for part in ("gain", "bias") for key in reader.wanted if key.startswith(f"{ours}.{part}")]
    classes, channels = reader.wanted[parts[0]]
    halves: Any = reader.take(f"{theirs}.embed.weight", (classes, 2 * channels)).chunk(2, 1)
    for key, half in zip(parts, halves, strict=True):
        reader.state[key] = half.clone()


def _plain_batch_norm(reader: Reader, ours: str, theirs: str) -> None:
    reader.statistics(ours, f"{theirs}.running_mean", f"{theirs}.running_var")
    for name in ("weight", "bias"):
        reader.tensor(f"{ours}.{name}", f"{theirs}.{name}")


def _attention(reader: Reader) -> None:
    if reader.architecture == "sagan":
        for name in ("theta", "phi", "g", "o"):
            reader.layer(f"attention.{name}", f"attn_block.{name}")
        reader.tensor("attention.gamma", "attn_block.gamma")
