"""Perceptrons for points in the plane, about as large as Metz et al. 2017 (arXiv 1611.02163) train on a ring.

``G(z) → points (n, 2)``, unbounded; ``D(points) → logits (n,)``. They make no images: ``resolution`` is 0. What they
are to learn is in ``poise.data.toys``.
"""

from __future__ import annotations

import itertools

from torch import Tensor, nn

from poise.models.network import Discriminator, Generator, known_choice, positive

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "leaky": nn.LeakyReLU, "tanh": nn.Tanh}


def _perceptron(inputs: int, width: int, depth: int, outputs: int, activation: str) -> nn.Sequential:
    positive(width=width, depth=depth)
    known_choice(activation, ACTIVATIONS, "activation")
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise([inputs, *[width] * depth]):
        layers += [nn.Linear(before, after), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


class MlpGenerator(Generator):
    """``G(z) → points``: latents (n, latent_dim) to points (n, 2); takes what ``mlp`` does."""

    def __init__(self, width: int = 128, depth: int = 2, latent_dim: int = 16, activation: str = "relu") -> None:
        super().__init__(0, latent_dim)
        self.layers = _perceptron(latent_dim, width, depth, 2, activation)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        self.check(z, y)
        return self.layers(z)


class MlpDiscriminator(Discriminator):
    """``D(points) → logits``: points (n, 2) to logits (n,); takes what ``mlp`` does, but latent_dim."""

    def __init__(self, width: int = 128, depth: int = 2, activation: str = "relu") -> None:
        super().__init__(0)
        self.layers = _perceptron(2, width, depth, 1, activation)

    def check(self, x: Tensor, y: Tensor | None) -> None:
        """Raise ValueError for points or labels that do not fit."""
        if x.ndim != 2 or x.shape[1] != 2:
            raise ValueError(f"points have shape {tuple(x.shape)}; this discriminator takes (n, 2)")
        self.check_labels(y, len(x))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        self.check(x, y)
        return self.layers(x).squeeze(1)


def mlp(
    width: int = 128, depth: int = 2, latent_dim: int = 16, activation: str = "relu"
) -> tuple[MlpGenerator, MlpDiscriminator]:
    """Perceptrons for points in the plane, rings and grids of Gaussians, as in Metz et al. 2017.

    Args:
        width: units of each hidden layer. depth: hidden layers. latent_dim: length of z.
        activation: of the hidden layers of both: "relu", "leaky" (slope 0.01) or "tanh".

    Raises:
        ValueError: a size below 1, or an unknown activation.
    """
    return MlpGenerator(width, depth, latent_dim, activation), MlpDiscriminator(width, depth, activation)
