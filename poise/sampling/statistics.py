"""Standing statistics: batch norm's means and variances for latents other than those of training.

A generator trained on N(0, I) keeps running averages that do not fit truncated latents, nor a single class. Brock et
al. 2019 (arXiv 1809.11096) replace them by averages over many batches, drawn as the images will be.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from poise import noise
from poise.sampling import distributions
from poise.sampling.distributions import Latent

Statistics = dict[str, tuple[Tensor, Tensor]]
"""(running mean, running variance) of each batch norm, by its name"""
_MEAN, _VARIANCE, _COUNTER = "running_mean", "running_var", "num_batches_tracked"


def batch_norms(module: nn.Module) -> dict[str, _BatchNorm]:
    """Every batch norm that keeps running statistics, by name."""
    layers = ((name, layer) for name, layer in module.named_modules() if isinstance(layer, _BatchNorm))
    return {name: layer for name, layer in layers if layer.running_mean is not None}


def statistics(module: nn.Module) -> Statistics:
    """A copy of the statistics that its batch norms hold."""
    return {
        name: (layer.get_buffer(_MEAN).clone(), layer.get_buffer(_VARIANCE).clone())
        for name, layer in batch_norms(module).items()
    }


@torch.no_grad()
def load_statistics(module: nn.Module, values: Statistics) -> None:
    """Write statistics into its batch norms, in place."""
    layers = batch_norms(module)
    for name, (mean, variance) in values.items():
        layers[name].get_buffer(_MEAN).copy_(mean)
        layers[name].get_buffer(_VARIANCE).copy_(variance)


@torch.no_grad()
def standing_statistics(
    generator: nn.Module,
    threshold: float | None = None,
    batches: int = 16,
    batch_size: int = 64,
    labels: int | Tensor | None = None,
    seed: int = 0,
    distribution: Latent = noise.normal,
) -> None:
    """Replace the running means and variances of all batch norms by averages over ``batches`` batches, in place.

    Nothing else changes: only batch norms are in training mode meanwhile, so that no norm iterates and no dropout
    drops; modes, momentum and batch counters are put back. Batch means and unbiased variances are averaged in float64.
    Where a forward fails, the former statistics are put back too.

    Args:
        generator: ``G(z, y=None)``. threshold: truncation of the latents, σ; None for none.
        batches: averaged over, at least 1. batch_size: samples in each, at least 2.
        labels: of a generator with classes: None for labels drawn uniformly, a class, or labels used in turn.
        seed: which samples; others than those drawn as images. distribution: of the latents, of ``LATENTS``.

    Raises:
        ValueError: sizes, a threshold or labels that are out of range.

    Source: Brock et al. 2019, "standing statistics".
    """
    if batches < 1 or batch_size < 2:
        raise ValueError(f"batches is {batches}, batch_size {batch_size}; give at least 1 batch of at least 2 samples")
    latent = distributions.truncated(distribution, threshold)
    device = next(generator.parameters()).device
    layers = batch_norms(generator)
    averages = {name: _Average() for name in layers}
    with _averaging(generator, layers, averages):
        for start in range(0, batches * batch_size, batch_size):
            z = distributions.latents(generator, seed, start, batch_size, "standing", latent)
            y = distributions.labels(generator, seed, start, batch_size, labels, "standing-label")
            generator(z.to(device), *(() if y is None else (y.to(device),)))
    load_statistics(generator, {name: average.value() for name, average in averages.items() if average.count})


class _Average:
    """The mean of what a batch norm with momentum 1, whose running statistics are its last batch's, has seen."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | float = 0.0
        self.variance: Tensor | float = 0.0

    def add(self, layer: nn.Module, *_: Any) -> None:
        self.count += 1
        self.mean = self.mean + _wide(layer.get_buffer(_MEAN))
        self.variance = self.variance + _wide(layer.get_buffer(_VARIANCE))

    def value(self) -> tuple[Tensor, Tensor]:
        return torch.as_tensor(self.mean / self.count), torch.as_tensor(self.variance / self.count)


def _wide(x: Tensor) -> Tensor:
    return (x.cpu() if x.device.type == "mps" else x).double()  # MPS has no float64


@contextmanager
def _averaging(generator: nn.Module, layers: dict[str, _BatchNorm], averages: dict[str, _Average]) -> Iterator[None]:
    """Only the batch norms train, each handing every batch's statistics to its average; afterwards all is as before."""
    before = statistics(generator)
    modes = {module: module.training for module in generator.modules()}
    kept = {layer: (layer.momentum, layer.get_buffer(_COUNTER).clone()) for layer in layers.values()}
    hooks = [layer.register_forward_hook(averages[name].add) for name, layer in layers.items()]
    generator.eval()
    for layer in layers.values():
        layer.reset_running_stats()  # with momentum 1 what was there counts 0-fold, which does not rid it of NaN
        layer.training, layer.momentum = True, 1.0
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
        for layer, (momentum, counter) in kept.items():
            layer.momentum = momentum
            layer.get_buffer(_COUNTER).copy_(counter)
        load_statistics(generator, before)


class StandingStatistics:
    """Standing statistics of a generator, computed once for each of its states, thresholds and labels.

    ``with standing.applied(0.5): …`` samples by those of threshold 0.5; the former ones come back afterwards.

    Args:
        generator, batches, batch_size, seed, distribution: as ``standing_statistics`` takes them.
    """

    def __init__(
        self,
        generator: nn.Module,
        batches: int = 16,
        batch_size: int = 64,
        seed: int = 0,
        distribution: Latent = noise.normal,
    ) -> None:
        self.generator = generator
        self.batches, self.batch_size, self.seed, self.distribution = batches, batch_size, seed, distribution
        self._known: dict[tuple[object, ...], Statistics] = {}

    def of(self, threshold: float | None = None, labels: int | Tensor | None = None) -> Statistics:
        """The statistics for a threshold and labels; the generator keeps its own. Raises as ``standing_statistics``."""
        asked = tuple(labels.tolist()) if isinstance(labels, Tensor) else labels
        key = (fingerprint(self.generator), threshold, asked, self.batches, self.batch_size, self.seed)
        if key not in self._known:
            before = statistics(self.generator)
            sizes = (self.batches, self.batch_size, labels, self.seed, self.distribution)
            standing_statistics(self.generator, threshold, *sizes)
            self._known[key] = statistics(self.generator)
            load_statistics(self.generator, before)
        return self._known[key]

    @contextmanager
    def applied(self, threshold: float | None = None, labels: int | Tensor | None = None) -> Iterator[nn.Module]:
        """The generator with these statistics; it has its former ones again when the block ends, also by an error."""
        values, before = self.of(threshold, labels), statistics(self.generator)
        load_statistics(self.generator, values)
        try:
            yield self.generator
        finally:
            load_statistics(self.generator, before)


def fingerprint(module: nn.Module) -> str:
    """A hash of all parameters and buffers but the running statistics of batch norms: the same weights, the same hash.

    Computed where the tensors lie; one number of each is read back.
    """
    running = {f"{name}.{key}".lstrip(".") for name in batch_norms(module) for key in (_MEAN, _VARIANCE, _COUNTER)}
    tensors = {name: x for name, x in _tensors(module) if name not in running}
    hashes = torch.stack([noise.digest(x) for x in tensors.values()]).tolist() if tensors else []
    described = [(name, str(x.dtype), tuple(x.shape)) for name, x in tensors.items()]
    return hashlib.sha256(repr((described, hashes)).encode()).hexdigest()


def _tensors(module: nn.Module) -> Iterable[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()
