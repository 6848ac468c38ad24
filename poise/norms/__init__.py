"""Weight normalizations for any PyTorch module. Needs torch only."""

from poise.norms.family import NORMS, denormalize, normalize, normalized_layers, out_dim, sigmas
from poise.norms.spectral import SpectralNorm

__all__ = ["NORMS", "SpectralNorm", "denormalize", "normalize", "normalized_layers", "out_dim", "sigmas"]
