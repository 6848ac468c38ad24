"""Singular values, operator norms and Lipschitz bounds. Needs torch only."""

from poise.spectra.lanczos import SingularTriples, golub_kahan
from poise.spectra.operator import LinearMap, conv_map, matrix_map
from poise.spectra.power import as_matrix, power_iteration, rayleigh
from poise.spectra.singular import condition_number, singular_values, stable_rank

__all__ = [
    "LinearMap",
    "SingularTriples",
    "as_matrix",
    "condition_number",
    "conv_map",
    "golub_kahan",
    "matrix_map",
    "power_iteration",
    "rayleigh",
    "singular_values",
    "stable_rank",
]
