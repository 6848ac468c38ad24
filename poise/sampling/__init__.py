"""Drawing from a trained generator: latents, labels, images, standing statistics, interpolations. Needs torch only."""

from poise.sampling.distributions import LATENTS, Latent, labels, latents, truncated
from poise.sampling.images import to_float, to_uint8
from poise.sampling.interpolation import class_path, linear, spherical
from poise.sampling.sampler import Sampler
from poise.sampling.statistics import StandingStatistics, fingerprint, standing_statistics

__all__ = [
    "LATENTS",
    "Latent",
    "Sampler",
    "StandingStatistics",
    "class_path",
    "fingerprint",
    "labels",
    "latents",
    "linear",
    "spherical",
    "standing_statistics",
    "to_float",
    "to_uint8",
    "truncated",
]
