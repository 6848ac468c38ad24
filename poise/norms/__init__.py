"""Weight normalizations for any PyTorch module. Needs torch only."""

from poise.norms.family import NORMS, denormalize, normalize, normalized_layers, sigmas
from poise.norms.spectral import SpectralNorm

__all__ = ["NORMS", "SpectralNorm", "denormalize", "normalize", "normalized_layers", "sigmas"]
