"""Checkpoints of pytorch-pretrained-biggan: the published BigGAN-deep generators of 128, 256 and 512 pixels.

==============================  ===========================================================================
poise                           pytorch-pretrained-biggan
==============================  ===========================================================================
``embedding``                     ``embeddings``, a linear layer of a one-hot label
``linear``                        ``generator.gen_z``, of z before the embedding, its pixels before its channels
``blocks.i``                      ``generator.layers.i``, the self-attention counted among them
``norm``, ``to_rgb``                ``generator.bn``, ``generator.conv_to_rgb``, of which three channels are looked at
==============================  ===========================================================================

Its batch norms hold means and variances for 51 truncation thresholds, 0 to 1; of these one is taken, that of threshold
1, no truncation: for another, compute standing statistics, or call ``convert`` here with ``truncation``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from poise.convert.checkpoint import EPS, Conversion, Reader, State, count, need
from poise.models.biggan import BASE
from poise.models.biggan_deep import PLANS, REDUCTION

THEIR_EPS = 1e-4
"""ε of its batch norms"""
ATTENTION = {"theta": "theta", "phi": "phi", "g": "g", "o": "o_conv"}


def recognise(state: State) -> bool:
    """Whether these are its keys, or some of them."""
    return any(key.startswith("generator.layers.") for key in state)


def convert(state: State, truncation: float = 1.0) -> Conversion:
    """A generator.

    Args:
        truncation: the threshold whose batch statistics are taken, from 0 to 1; the nearest that the file has.

    Raises:
        ValueError: a threshold outside 0 to 1; missing, extra or misshapen keys.
    """
    if not 0 <= truncation <= 1:
        raise ValueError(f"truncation is {truncation}; the file has statistics for thresholds from 0 to 1")
    layers = count(state, r"generator\.layers\.(\d+)\.")
    attention = [i for i in range(layers) if f"generator.layers.{i}.gamma" in state]
    resolution = {2 * len(plan[0]) - 2: pixels for pixels, plan in PLANS.items()}.get(layers - len(attention))
    if resolution is None:
        known = ", ".join(f"{2 * len(plan[0]) - 2} ({pixels} pixels)" for pixels, plan in PLANS.items())
        raise ValueError(f"the file has {layers - len(attention)} blocks; known: {known}")
    embedding = need(state, "embeddings.weight")
    embedding_dim, num_classes = embedding.shape
    latent_dim = need(state, "generator.gen_z.weight_orig").shape[1] - embedding_dim
    middle, _ = need(state, "generator.layers.0.conv_0.weight_orig").shape[:2]
    options = {
        "resolution": resolution,
        "width": middle * REDUCTION // PLANS[resolution][0][0],
        "latent_dim": latent_dim,
        "num_classes": num_classes,
        "embedding_dim": embedding_dim,
        "attention": [BASE << (i // 2) for i in attention],
    }
    reader = Reader(state, "biggan-deep", options, "generator")
    statistics = _Statistics(reader, truncation)

    def condition_first(weight: Tensor) -> Tensor:
        return weight.roll(embedding_dim, 1)

    def channels_first(weight: Tensor) -> Tensor:
        return condition_first(weight).unflatten(0, (BASE, BASE, -1)).permute(2, 0, 1, 3).flatten(0, 2)

    reader.state["embedding.table.weight"] = reader.take("embeddings.weight", tuple(embedding.shape)).t().contiguous()
    reader.layer("linear", "generator.gen_z", change=channels_first)
    bias = reader.state["linear.bias"]
    reader.state["linear.bias"] = bias.view(BASE, BASE, -1).permute(2, 0, 1).flatten()
    blocks = [i for i in range(layers) if i not in attention]
    for ours, theirs in ((f"blocks.{i}", f"generator.layers.{layer}") for i, layer in enumerate(blocks)):
        for number in range(4):
            reader.layer(f"{ours}.conv{number + 1}", f"{theirs}.conv_{number}")
            norm, their_norm = f"{ours}.norm{number + 1}", f"{theirs}.bn_{number}"
            reader.layer(f"{norm}.gain", f"{their_norm}.scale", change=condition_first)
            reader.layer(f"{norm}.bias", f"{their_norm}.offset", change=condition_first)
            statistics.take(f"{norm}.norm", their_norm)
    for layer in attention:
        ours, theirs = f"attention.{layer - 1}", f"generator.layers.{layer}"
        for name, their_name in ATTENTION.items():
            reader.layer(f"{ours}.{name}", f"{theirs}.snconv1x1_{their_name}")
        reader.tensor(f"{ours}.gamma", f"{theirs}.gamma")
    statistics.take("norm", "generator.bn")
    for kind in ("weight", "bias"):
        reader.tensor(f"norm.{kind}", f"generator.bn.{kind}")
    _take_three_channels(reader)
    return reader.finish()


class _Statistics:
    """Takes a batch norm's mean and variance at one of its thresholds."""

    def __init__(self, reader: Reader, truncation: float) -> None:
        self.reader, self.truncation = reader, truncation

    def take(self, ours: str, theirs: str) -> None:
        for kind, shift in (("mean", 0.0), ("var", THEIR_EPS - EPS)):
            key = f"{theirs}.running_{kind}s"
            channels = self.reader.wanted[f"{ours}.running_{kind}"]
            thresholds = len(self.reader.left[key]) if key in self.reader.left else 1
            found = self.reader.take(key, (thresholds, *channels))
            self.reader.state[f"{ours}.running_{kind}"] = found[round(self.truncation * (thresholds - 1))] + shift


def _take_three_channels(reader: Reader) -> None:
    """Its last layer has as many channels as the one before, and is normalized with all of them.

    So that the three have their part of that σ, their u is longer than 1 by as much as their own σ is smaller. The
    first training step makes it a unit vector again.
    """
    width = reader.wanted["to_rgb.weight"][1]
    outputs = reader.left.get("generator.conv_to_rgb.bias", torch.empty(width)).shape[0]
    shape = (outputs, *reader.wanted["to_rgb.weight"][1:])
    weight = reader.take("generator.conv_to_rgb.weight_orig", shape)
    u = reader.take("generator.conv_to_rgb.weight_u", (outputs,))
    v = reader.take("generator.conv_to_rgb.weight_v", (weight[0].numel(),))
    sigma = u @ weight.flatten(1) @ v
    image = weight[:3].flatten(1) @ v
    reader.state["to_rgb.weight"] = weight[:3].contiguous()
    reader.state["to_rgb.bias"] = reader.take("generator.conv_to_rgb.bias", (outputs,))[:3].contiguous()
    reader.vectors["to_rgb"] = (image * (sigma / (image @ image)), v)
