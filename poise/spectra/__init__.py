"""Singular values, operator norms and Lipschitz bounds. Needs torch only."""

from poise.spectra.lanczos import SingularTriples, golub_kahan
from poise.spectra.lipschitz import LipschitzBound, lipschitz_bound
from poise.spectra.operator import LinearMap, conv_map, matrix_map
from poise.spectra.power import as_matrix, power_iteration, rayleigh
from poise.spectra.singular import condition_number, singular_values, stable_rank
from poise.spectra.tracking import SpectrumTracker, subspace_round

__all__ = [
    "LinearMap",
    "LipschitzBound",
    "SingularTriples",
    "SpectrumTracker",
    "as_matrix",
    "condition_number",
    "conv_map",
    "golub_kahan",
    "lipschitz_bound",
    "matrix_map",
    "power_iteration",
    "rayleigh",
    "singular_values",
    "stable_rank",
    "subspace_round",
]
