"""Weight normalizations for any PyTorch module. Needs torch only."""

from poise.norms.compensation import SpectralCompensation
from poise.norms.description import Description, describe
from poise.norms.family import NORMS, NormalizedWeight, denormalize, normalize, normalized_weights, sigmas
from poise.norms.normalization import NORMALIZED_LAYERS, Normalization, out_dim
from poise.norms.orthogonal import Orthogonal
from poise.norms.penalties import weight_penalty
from poise.norms.projection import Clip, Projection, SigmaClamp
from poise.norms.regularization import SigmaReg
from poise.norms.spectral import SpectralNorm
from poise.norms.torch_keys import torch_state_dict
from poise.norms.weight import FrobeniusNorm, WeightNorm

__all__ = [
    "NORMALIZED_LAYERS",
    "NORMS",
    "Clip",
    "Description",
    "FrobeniusNorm",
    "Normalization",
    "NormalizedWeight",
    "Orthogonal",
    "Projection",
    "SigmaClamp",
    "SigmaReg",
    "SpectralCompensation",
    "SpectralNorm",
    "WeightNorm",
    "denormalize",
    "describe",
    "normalize",
    "normalized_weights",
    "out_dim",
    "sigmas",
    "torch_state_dict",
    "weight_penalty",
]
