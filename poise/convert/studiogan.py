"""Checkpoints of PyTorch-StudioGAN: its "resnet" (SNGAN) and "big_resnet" (BigGAN) networks, at 32 to 512 pixels.

Both become our "biggan": its SNGAN has the same channels and blocks, with gains per class or none in place of the
shared embedding. At 64 pixels its generators are narrower than BigGAN's, at 32 its discriminators. The ReLU in its
discriminators' blocks works in place, so that their shortcuts see rectified features too; ours then do as well.
Conditioning other than by projection (classifiers, contrastive embeddings) is not taken.
"""

from __future__ import annotations

import re
from typing import Any

from poise.convert.biggan_pytorch import resolution_of
from poise.convert.checkpoint import Conversion, Reader, State, count, need
from poise.models.biggan import BASE, PLANS

THEIR_EPS = 1e-4
"""ε of its batch norms"""
ATTENTION = {"theta": "theta", "phi": "phi", "g": "g", "o": "attn"}
CONVOLUTIONS = {"shortcut": "conv2d0", "conv1": "conv2d1", "conv2": "conv2d2"}


def recognise(state: State) -> bool:
    """Whether these are its keys, or some of them."""
    return any(re.match(r"blocks\.\d+\.0\.conv2d[012]\.", key) for key in state)


def convert(state: State) -> Conversion:
    """A generator or discriminator. Raises ValueError for missing, extra or misshapen keys."""
    is_generator = any(
        re.match(r"linear0\.|bn4\.|conv2d5\.|blocks\.\d+\.0\.bn1\.(bn|gain|bias)\.", key) for key in state
    )
    places = _places(state)
    return _generator(state, *places) if is_generator else _discriminator(state, *places)


def _places(state: State) -> tuple[list[int], dict[int, int]]:
    """Where the blocks stand in its list, and, by block, where the self-attention after it does."""
    blocks: list[int] = []
    attention = {}
    for place in range(count(state, r"blocks\.(\d+)\.")):
        if any(key.startswith(f"blocks.{place}.0.conv1x1_") for key in state):
            attention[len(blocks) - 1] = place
        else:
            blocks.append(place)
    return blocks, attention


def _weight(state: State, layer: str) -> Any:
    """A weight, normalized or not."""
    return state[f"{layer}.weight_orig"] if f"{layer}.weight_orig" in state else need(state, f"{layer}.weight")


def _generator(state: State, blocks: list[int], attention: dict[int, int]) -> Conversion:
    resolution = resolution_of(len(blocks), {len(plan.generator) - 1: pixels for pixels, plan in PLANS.items()})
    plan = PLANS[resolution].generator
    outputs = [len(_weight(state, f"blocks.{place}.0.conv2d1")) for place in blocks]
    channels = [_weight(state, "blocks.0.0.conv2d1").shape[1], *outputs]
    # At 64 pixels it counts from the last block's channels.
    width = channels[0] // max(plan)
    multiples = tuple(channel // width for channel in channels)
    chunk = _weight(state, "linear0").shape[1]
    shared = state.get("shared.weight")
    is_plain = not any(".bn1.gain." in key for key in state)
    condition = 0 if is_plain else _weight(state, "blocks.0.0.bn1.gain").shape[1]
    is_normalized = any(key.endswith(".weight_orig") for key in state)
    if shared is None and condition == chunk and not is_normalized:  # its BigGAN's generator is normalized
        raise ValueError(f"its gains depend on {chunk} numbers: on as many classes or on a part of the latent?")
    per_class = not is_plain and shared is None and condition != chunk
    skip_z = not is_plain and not per_class
    options: dict[str, Any] = {
        "resolution": resolution,
        "width": width,
        "latent_dim": chunk * (len(blocks) + 1) if skip_z else chunk,
        "num_classes": len(shared) if shared is not None else condition if per_class else 0,
        "shared_embedding": not per_class,
        "skip_z": skip_z,
        "attention": [BASE << (index + 1) for index in attention],
    }
    if multiples != plan:
        options["multiples"] = list(multiples)
    if shared is not None:
        options["embedding_dim"] = shared.shape[1]
    reader = Reader(state, "biggan", options, "generator")
    if per_class and reader.spectral:
        raise ValueError("its gains per class are spectrally normalized, which ours cannot be")
    if shared is not None:
        reader.layer("embedding.table", "shared", spectral=False)
    reader.layer("linear", "linear0")
    for index, place in enumerate(blocks):
        _convolutions(reader, index, place)
        for number in (1, 2):
            norm, theirs = f"blocks.{index}.norm{number}", f"blocks.{place}.0.bn{number}"
            if is_plain:
                _batch_norm(reader, f"{norm}.norm", theirs)
                continue
            reader.statistics(f"{norm}.norm", f"{theirs}.bn.running_mean", f"{theirs}.bn.running_var", THEIR_EPS)
            if not per_class:
                reader.layer(f"{norm}.gain", f"{theirs}.gain")
                reader.layer(f"{norm}.bias", f"{theirs}.bias")
                continue
            classes, width_here = reader.wanted[f"{norm}.gain.weight"]  # linear layers of a one-hot label there
            for name, first in (("gain", 1.0), ("bias", 0.0)):
                weight = reader.take(f"{theirs}.{name}.weight", (width_here, classes))
                reader.state[f"{norm}.{name}.weight"] = first + weight.t().contiguous()
    _attend(reader, attention)
    _batch_norm(reader, "norm", "bn4")
    reader.layer("to_rgb", "conv2d5")
    return reader.finish()


def _discriminator(state: State, blocks: list[int], attention: dict[int, int]) -> Conversion:
    resolution = resolution_of(len(blocks), {len(plan.discriminator): pixels for pixels, plan in PLANS.items()})
    plan = PLANS[resolution]
    embedding = [key for key in state if key in ("embedding.weight", "embedding.weight_orig")]
    options = {
        "resolution": resolution,
        "width": len(_weight(state, "blocks.0.0.conv2d1")) // plan.discriminator[0],
        "num_classes": len(state[embedding[0]]) if embedding else 0,
        "attention": [resolution >> min(index + 1, plan.halvings) for index in attention],
        "rectified_shortcuts": True,
    }
    reader = Reader(state, "biggan", options, "discriminator")
    for index, place in enumerate(blocks):
        _convolutions(reader, index, place)
    _attend(reader, attention)
    reader.layer("linear", "linear1")
    if embedding:
        reader.layer("embedding", "embedding")
    return reader.finish()


def _convolutions(reader: Reader, index: int, place: int) -> None:
    for ours, theirs in CONVOLUTIONS.items():
        if f"blocks.{index}.{ours}.weight" in reader.wanted:  # some shortcuts are plain
            reader.layer(f"blocks.{index}.{ours}", f"blocks.{place}.0.{theirs}")


def _attend(reader: Reader, attention: dict[int, int]) -> None:
    for index, place in attention.items():
        if f"attention.{index}.gamma" in reader.wanted:
            for ours, theirs in ATTENTION.items():
                reader.layer(f"attention.{index}.{ours}", f"blocks.{place}.0.conv1x1_{theirs}")
            reader.tensor(f"attention.{index}.gamma", f"blocks.{place}.0.sigma")


def _batch_norm(reader: Reader, ours: str, theirs: str) -> None:
    reader.statistics(ours, f"{theirs}.running_mean", f"{theirs}.running_var", THEIR_EPS)
    for kind in ("weight", "bias"):
        reader.tensor(f"{ours}.{kind}", f"{theirs}.{kind}")
