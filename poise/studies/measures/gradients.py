"""The discriminator's gradient in its weights against the bound that spectral normalization promises.

For a network of L layers without biases and with 1-Lipschitz homogeneous activations,
``‖∇_{W_t} D(x)‖_F ≤ ‖x‖ · Π_{i≠t} ‖W_i‖_op``, so that with every operator norm at most 1 each layer's gradient is at
most ‖x‖, and the whole one √L·‖x‖ (Lin et al. 2021, theorem on exploding gradients).
"""

from __future__ import annotations

import math
from statistics import median

import torch
from torch import Tensor, nn

from poise.studies.measures.networks import baked, kept, layers, networks_at, real_images
from poise.studies.trial import Measured
from poise.training import Run

IMAGES = 16


def gradient_bound(run: Run, device: torch.device) -> Measured:
    """How much of the bound D's gradient takes up, at each kept step, over real images.

    Figures: "whole", the largest ``‖∇D(x)‖ / (√L·‖x‖)`` of all steps and images, "end" that of the last step, and
    "layer", the largest ``‖∇_{W_t} D(x)‖ / ‖x‖`` of one layer: of D without its biases, of which the theorem speaks;
    "with_biases" is "whole" of D as it is. Curve "gradient-bound": "whole" by step.
    """
    whole, layer, biased = [], [], []
    points = kept(run)
    for step in points:
        network = baked(networks_at(run, step, device)[1])
        images, labels = real_images(run, IMAGES, device)
        biased.append(_ratios(network, images, labels)[0])
        with torch.no_grad():
            for one in layers(network).values():
                if isinstance(one.bias, Tensor):
                    one.bias.zero_()
        found = _ratios(network, images, labels)
        whole.append(found[0])
        layer.append(found[1])
    figures = {"whole": max(whole), "end": whole[-1], "layer": max(layer), "with_biases": max(biased)}
    return Measured(figures, {"gradient-bound": list(zip(points, whole, strict=True))})


def _ratios(network: nn.Module, images: Tensor, labels: Tensor | None) -> tuple[float, float]:
    """Over images, the largest share of √L·‖x‖ that the whole gradient has, and of ‖x‖ that a layer's has."""
    weights = [layer.get_parameter("weight") for layer in layers(network).values()]
    whole, single = [], []
    for index in range(len(images)):
        x = images[index : index + 1]
        y = () if labels is None else (labels[index : index + 1],)
        gradients = torch.autograd.grad(network(x, *y).sum(), weights, allow_unused=True)
        norms = torch.stack([gradient.norm() for gradient in gradients if gradient is not None])
        length = x.norm()
        whole.append(norms.norm() / (math.sqrt(len(norms)) * length))
        single.append(norms.max() / length)
    return torch.stack(whole).max().item(), torch.stack(single).max().item()


def gradient_history(run: Run, device: torch.device) -> Measured:
    """Norm of the gradient of D's loss in all its trained weights, as it was logged.

    Figures: "largest", "median" and "last" over the run; a norm that is not finite is left out. Curve
    "gradient-history".
    """
    found = []
    for record in run.records():
        norms = [value for name, value in record.get("gradient_norm", {}).items() if name.startswith("D.")]
        if norms and all(value is not None for value in norms):
            found.append((int(record["step"]), math.hypot(*norms)))
    if not found:
        return Measured()
    values = [value for _, value in found]
    return Measured({"largest": max(values), "median": median(values), "last": values[-1]}, {"gradient-history": found})
