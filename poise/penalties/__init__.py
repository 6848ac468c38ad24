"""Penalties on a network's gradient in its input and on its weights, to be added to its loss. Needs torch only."""

from poise.penalties.family import OF_WEIGHTS, PENALTIES, Lazy, Penalty
from poise.penalties.gradient import (
    dragan_penalty,
    input_gradient,
    interpolates,
    r1_penalty,
    r2_penalty,
    wgan_gp_penalty,
    zero_centred_penalty,
)
from poise.penalties.orthogonality import (
    off_diagonal,
    off_diagonal_penalty,
    orthonormal,
    orthonormal_penalty,
    weight_matrices,
)

__all__ = [
    "OF_WEIGHTS",
    "PENALTIES",
    "Lazy",
    "Penalty",
    "dragan_penalty",
    "input_gradient",
    "interpolates",
    "off_diagonal",
    "off_diagonal_penalty",
    "orthonormal",
    "orthonormal_penalty",
    "r1_penalty",
    "r2_penalty",
    "weight_matrices",
    "wgan_gp_penalty",
    "zero_centred_penalty",
]
