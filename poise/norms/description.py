"""What is normalized how, as a table."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from poise.norms.family import normalized_layers
from poise.norms.normalization import NORMALIZED_LAYERS, out_dim
from poise.spectra.operator import effective_weight
from poise.spectra.power import as_matrix


@dataclass(frozen=True)
class Row:
    """One layer: its name, weight shape, norm, and largest singular values of the reshaped weight."""

    layer: str
    shape: tuple[int, ...]
    norm: str
    sigma: float
    """before normalization"""
    effective_sigma: float
    """of the weight the layer uses"""


@dataclass(frozen=True)
class Description:
    """The rows of ``describe``; printed as a table."""

    rows: tuple[Row, ...]

    def __str__(self) -> str:
        lines = [("layer", "shape", "norm", "σ", "effective σ")]
        for row in self.rows:
            shape = "×".join(map(str, row.shape))
            lines.append((row.layer, shape, row.norm, f"{row.sigma:.4g}", f"{row.effective_sigma:.4g}"))
        widths = [max(len(line[column]) for line in lines) for column in range(5)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        )


@torch.no_grad()
def describe(module: nn.Module) -> Description:
    """Every layer with a weight to normalize: shape, norm, exact σ now and after normalization. Changes nothing.

    σ is of the weight reshaped to output units × all else, by a full SVD: seconds for very large layers.
    """
    norms = {name: normalization for name, _, normalization in normalized_layers(module)}
    rows = []
    for name, layer in module.named_modules():
        if not isinstance(layer, NORMALIZED_LAYERS):
            continue
        effective = effective_weight(layer)
        weight = effective
        if parametrize.is_parametrized(layer, "weight"):
            weight = dict(layer.named_parameters()).get("parametrizations.weight.original", effective)
        said = f"{type(norms[name]).__name__}({norms[name].extra_repr()})" if name in norms else "none"
        row_dim = out_dim(layer)
        rows.append(Row(name, tuple(weight.shape), said, _sigma(weight, row_dim), _sigma(effective, row_dim)))
    return Description(tuple(rows))


def _sigma(weight: Tensor, row_dim: int) -> float:
    matrix = as_matrix(weight.detach().float(), row_dim)
    return torch.linalg.matrix_norm(matrix, 2).item() if matrix.numel() else 0.0
