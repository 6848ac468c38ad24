"""The discriminator's weights and hidden outputs through training, and their spectra at its end."""

from __future__ import annotations

import math

import torch
from torch import nn

from poise.monitor.samples import hidden_variances
from poise.spectra import singular_values
from poise.studies.measures.networks import baked, kept, layers, networks_at, real_images
from poise.studies.trial import Curve, Measured
from poise.training import Run

IMAGES = 64


def weight_variance(run: Run, device: torch.device) -> Measured:
    """Variance of the entries of D's effective weights against what initializations prescribe, at each kept step.

    LeCun's variance is 1/fan_in, Xavier's 2/(fan_in + fan_out). Figures, means over layers: "drift", ``|ln|`` of the
    variance at the end over that at the start; "lecun" and "xavier", ``|ln|`` of the variance over the prescribed one,
    mean over steps too; "lecun_low" and "lecun_high", the least and largest over steps of the geometric mean over
    layers of variance·fan_in; "hidden_drift", as "drift" of the variances of layers' outputs for real images.
    Curves: "weight-variance/LAYER", variance·fan_in, and "hidden-variance/LAYER".
    """
    points = kept(run)
    relative: list[dict[str, float]] = []
    xavier: list[list[float]] = []
    hidden: list[dict[str, float]] = []
    for step in points:
        network = baked(networks_at(run, step, device)[1])
        images, labels = real_images(run, IMAGES, device)
        made, _ = hidden_variances(network, images, *(() if labels is None else (labels,)))
        hidden.append({name: float(value) for name, value in made.items()})
        now, other = {}, []
        for name, layer in layers(network).items():
            fan_in, fan_out = _fans(layer)
            variance = layer.weight.detach().float().var(correction=0).item()  # type: ignore[operator]
            now[name] = variance * fan_in
            other.append(variance * (fan_in + fan_out) / 2)
        relative.append(now)
        xavier.append(other)
    means = [_mean([_log(value) for value in now.values()]) for now in relative]
    figures = {
        "drift": _drift(relative[0], relative[-1]),
        "lecun": _mean([abs(_log(value)) for now in relative for value in now.values()]),
        "xavier": _mean([abs(_log(value)) for now in xavier for value in now]),
        "lecun_low": math.exp(min(means)),
        "lecun_high": math.exp(max(means)),
        "hidden_drift": _drift(hidden[0], hidden[-1]),
    }
    curves: dict[str, Curve] = {}
    for kind, found in (("weight-variance", relative), ("hidden-variance", hidden)):
        for name in found[0]:
            curves[f"{kind}/{name}"] = [(step, now[name]) for step, now in zip(points, found, strict=True)]
    return Measured(figures, curves)


def spectra(run: Run, device: torch.device) -> Measured:
    """Squared singular values of D's effective weights, reshaped to one row per output unit, at the end of a run.

    Figures, by layer and as the mean over the hidden ones ("hidden", all but the first and the last): "spread/…", the
    share of directions that carry the weight, ``(Σσ²)² / (Σσ⁴ · min(rows, columns))``, 1 where all σ are equal; and
    "first/…", ``σ₁² / Σσ²``, 1 for rank one. Curves "spectrum/LAYER": σᵢ²/σ₁² by i, from 1.
    """
    network = baked(networks_at(run, kept(run)[-1], device)[1])
    spread, first, curves = {}, {}, {}
    for name, layer in layers(network).items():
        squared = singular_values(layer, None).double().square()
        if len(squared) < 2:
            continue
        total = squared.sum()
        spread[name] = (total.square() / (squared.square().sum() * len(squared))).item()
        first[name] = (squared[0] / total).item()
        shares = (squared / squared[0]).tolist()
        curves[f"spectrum/{name}"] = [(place, share) for place, share in enumerate(shares, start=1)]
    names = list(spread)
    hidden = names[1:] if len(names) > 1 else names  # the last has one row, and is left out already
    figures = {f"spread/{name}": value for name, value in spread.items()}
    figures |= {f"first/{name}": value for name, value in first.items()}
    figures |= {"spread/hidden": _mean([spread[name] for name in hidden])}
    figures |= {"first/hidden": _mean([first[name] for name in hidden])}
    return Measured(figures, curves)


def _fans(layer: nn.Module) -> tuple[int, int]:
    """Inputs of an output unit and outputs of an input unit, as initializations count them."""
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    rows, columns, field = weight.shape[0], weight.shape[1], math.prod(weight.shape[2:])
    return (rows * field, columns * field) if isinstance(layer, nn.ConvTranspose2d) else (columns * field, rows * field)


def _drift(start: dict[str, float], end: dict[str, float]) -> float:
    return _mean([abs(_log(end[name]) - _log(start[name])) for name in start if name in end])


def _log(value: float) -> float:
    return math.log(max(value, 1e-30))  # a weight or output that is constant


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
