"""Singular values, operator norms and Lipschitz bounds. Needs torch only."""

from poise.spectra.power import as_matrix, power_iteration, rayleigh

__all__ = ["as_matrix", "power_iteration", "rayleigh"]
