"""Checkpoints of BigGAN-PyTorch (github.com/ajbrock/BigGAN-PyTorch): ``G.pth``, ``G_ema.pth``, ``D.pth``.

BigGAN with shared embedding and split latent or without, at 32 to 256 pixels, and BigGAN-deep (with --hier) at 128 and
256, with any of its three batch norms. Its networks keep u but no v, and run a round of power iteration at each
forward; the vectors kept here are those of that round.
"""

from __future__ import annotations

from typing import Any

from poise.convert.checkpoint import Conversion, Reader, State, count, need
from poise.models.biggan import BASE, PLANS
from poise.models.biggan_deep import PLANS as DEEP_PLANS

ATTENTION = ("theta", "phi", "g", "o")


def recognise(state: State) -> bool:
    """Whether these are a BigGAN-PyTorch network's keys, or some of them."""
    return _is_generator(state) or _is_discriminator(state)


def _is_generator(state: State) -> bool:
    return any(key.startswith(("output_layer.0.", "output_layer.2.")) for key in state)


def _is_discriminator(state: State) -> bool:
    theirs = any(key.startswith(("blocks.0.0.conv_sc.", "input_conv.")) for key in state)
    return theirs and not any(".bn1." in key for key in state)


def convert(state: State) -> Conversion:
    """A generator or discriminator. Raises ValueError for missing, extra or misshapen keys."""
    if any(".conv4." in key for key in state):
        return _deep_generator(state) if _is_generator(state) else _deep_discriminator(state)
    return _generator(state) if _is_generator(state) else _discriminator(state)


def _attention(state: State, sizes: list[int]) -> list[int]:
    return [size for index, size in enumerate(sizes) if f"blocks.{index}.1.theta.weight" in state]


def resolution_of(blocks: int, known: dict[int, int]) -> int:
    """The resolution that has so many blocks; ValueError if none has."""
    if blocks not in known:
        listed = ", ".join(f"{n} ({pixels} pixels)" for n, pixels in known.items())
        raise ValueError(f"the file has {blocks} blocks; known: {listed}")
    return known[blocks]


def _generator(state: State) -> Conversion:
    blocks = count(state, r"blocks\.(\d+)\.0\.")
    resolution = resolution_of(blocks, {len(plan.generator) - 1: pixels for pixels, plan in PLANS.items()})
    width = len(need(state, "linear.weight")) // (BASE**2 * PLANS[resolution].generator[0])
    gain, shared = need(state, "blocks.0.0.bn1.gain.weight"), state.get("shared.weight")
    chunk = need(state, "linear.weight").shape[1]
    is_split = shared is not None and gain.shape[1] > shared.shape[1]
    options: dict[str, Any] = {
        "resolution": resolution,
        "width": width,
        "latent_dim": chunk * (blocks + 1) if is_split else chunk,
        "num_classes": len(gain) if shared is None else len(shared),
        "shared_embedding": shared is not None,
        "skip_z": is_split,
        "attention": _attention(state, [BASE << (index + 1) for index in range(blocks)]),
    }
    if shared is not None:
        options["embedding_dim"] = shared.shape[1]
    reader = Reader(state, "biggan", options, "generator")
    _drop_logs(reader)
    if shared is not None:
        reader.layer("embedding.table", "shared", spectral=False)
    reader.layer("linear", "linear")
    for index in range(blocks):
        ours, theirs = f"blocks.{index}", f"blocks.{index}.0"
        for name, their_name in (("conv1", "conv1"), ("conv2", "conv2"), ("shortcut", "conv_sc")):
            reader.layer(f"{ours}.{name}", f"{theirs}.{their_name}")
        for number in (1, 2):
            norm, their_norm = f"{ours}.norm{number}", f"{theirs}.bn{number}"
            _statistics(reader, f"{norm}.norm", their_norm)
            if shared is None:
                reader.tensor(f"{norm}.gain.weight", f"{their_norm}.gain.weight", lambda gain: 1 + gain)
                reader.tensor(f"{norm}.bias.weight", f"{their_norm}.bias.weight")
            else:
                reader.layer(f"{norm}.gain", f"{their_norm}.gain")
                reader.layer(f"{norm}.bias", f"{their_norm}.bias")
        _attend(reader, index)
    _output(reader)
    return reader.finish()


def _discriminator(state: State) -> Conversion:
    blocks = count(state, r"blocks\.(\d+)\.0\.")
    resolution = resolution_of(blocks, {len(plan.discriminator): pixels for pixels, plan in PLANS.items()})
    plan = PLANS[resolution]
    options: dict[str, Any] = {
        "resolution": resolution,
        "width": len(need(state, "blocks.0.0.conv1.weight")) // plan.discriminator[0],
        "num_classes": len(need(state, "embed.weight")),
        "attention": _attention(state, [resolution >> (index + 1) for index in range(plan.halvings)]),
    }
    reader = Reader(state, "biggan", options, "discriminator")
    _drop_logs(reader)
    for index in range(blocks):
        for name, their_name in (("conv1", "conv1"), ("conv2", "conv2"), ("shortcut", "conv_sc")):
            if f"blocks.{index}.{name}.weight" in reader.wanted:  # some shortcuts are plain
                reader.layer(f"blocks.{index}.{name}", f"blocks.{index}.0.{their_name}")
        _attend(reader, index)
    reader.layer("linear", "linear")
    reader.layer("embedding", "embed")
    return reader.finish()


def _deep_generator(state: State) -> Conversion:
    blocks = count(state, r"blocks\.(\d+)\.0\.")
    resolution = resolution_of(blocks, {2 * len(plan[0]) - 2: pixels for pixels, plan in DEEP_PLANS.items()})
    num_classes, embedding_dim = need(state, "shared.weight").shape
    rows, condition_dim = need(state, "linear.weight").shape
    options: dict[str, Any] = {
        "resolution": resolution,
        "width": rows // (BASE**2 * DEEP_PLANS[resolution][0][0]),
        "latent_dim": condition_dim - embedding_dim,
        "num_classes": num_classes,
        "embedding_dim": embedding_dim,
        "attention": _attention(state, [BASE << (index + 1) // 2 for index in range(blocks)]),
    }
    reader = Reader(state, "biggan-deep", options, "generator")
    _drop_logs(reader)
    reader.layer("embedding.table", "shared", spectral=False)
    reader.layer("linear", "linear")
    for index in range(blocks):
        for number in range(1, 5):
            reader.layer(f"blocks.{index}.conv{number}", f"blocks.{index}.0.conv{number}")
            norm, their_norm = f"blocks.{index}.norm{number}", f"blocks.{index}.0.bn{number}"
            _statistics(reader, f"{norm}.norm", their_norm)
            reader.layer(f"{norm}.gain", f"{their_norm}.gain")
            reader.layer(f"{norm}.bias", f"{their_norm}.bias")
        _attend(reader, index)
    _output(reader)
    return reader.finish()


def _deep_discriminator(state: State) -> Conversion:
    stages = count(state, r"blocks\.(\d+)\.0\.")
    resolution = resolution_of(stages, {len(plan[1]) - 1: pixels for pixels, plan in DEEP_PLANS.items()})
    attention = {stage: f"blocks.{stage}.2" for stage in range(stages) if f"blocks.{stage}.2.theta.weight" in state}
    options: dict[str, Any] = {
        "resolution": resolution,
        "width": len(need(state, "input_conv.weight")) // DEEP_PLANS[resolution][1][0],
        "num_classes": len(need(state, "embed.weight")),
        "attention": [resolution >> (stage + 1) for stage in attention],
    }
    reader = Reader(state, "biggan-deep", options, "discriminator")
    _drop_logs(reader)
    reader.layer("from_rgb", "input_conv")
    for index in range(2 * stages):
        ours, theirs = f"blocks.{index}", f"blocks.{index // 2}.{index % 2}"
        for number in range(1, 5):
            reader.layer(f"{ours}.conv{number}", f"{theirs}.conv{number}")
        if f"{ours}.appended.weight" in reader.wanted:
            reader.layer(f"{ours}.appended", f"{theirs}.conv_sc")
    for stage, place in attention.items():
        _attend(reader, 2 * stage + 1, place)
    reader.layer("linear", "linear")
    reader.layer("embedding", "embed")
    return reader.finish()


def _drop_logs(reader: Reader) -> None:
    """What says nothing of the weights: σ as logged, singular vectors beyond the first, counters."""
    reader.drop(r".*\.(sv\d+|u[1-9]\d*|accumulation_counter)")


def _output(reader: Reader) -> None:
    _statistics(reader, "norm", "output_layer.0")
    reader.tensor("norm.weight", "output_layer.0.gain")
    reader.tensor("norm.bias", "output_layer.0.bias")
    reader.layer("to_rgb", "output_layer.2")


def _attend(reader: Reader, index: int, place: str | None = None) -> None:
    """The self-attention after our block of that index, if there is one; theirs stands there or in the place given."""
    theirs = place or f"blocks.{index}.1"
    if f"attention.{index}.gamma" in reader.wanted:
        for name in ATTENTION:
            reader.layer(f"attention.{index}.{name}", f"{theirs}.{name}")
        reader.tensor(f"attention.{index}.gamma", f"{theirs}.gamma")


def _statistics(reader: Reader, ours: str, theirs: str) -> None:
    """Of its own batch norm, or that of one of the two it may hold."""
    for inner, word in (("", "stored"), (".bn", "stored"), (".bn", "running")):
        mean, var = f"{theirs}{inner}.{word}_mean", f"{theirs}{inner}.{word}_var"
        if mean in reader.left or var in reader.left:
            break
    else:
        mean, var = f"{theirs}.stored_mean", f"{theirs}.stored_var"
    reader.statistics(ours, mean, var)
