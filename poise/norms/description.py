"""What is normalized how, as a table."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan

import torch
from torch import Tensor, nn

from poise.norms.family import normalized_weights
from poise.norms.normalization import NORMALIZED_LAYERS, PACKED, WEIGHT_NAMES, out_dim, weight_name
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
    """of the weight the layer uses; NaN where an operator norm awaits its first input"""


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
    normalized = {weight.name: weight for weight in normalized_weights(module)}
    rows = []
    for name, layer in module.named_modules():
        row_dim = out_dim(layer)
        for parameter in WEIGHT_NAMES if isinstance(layer, NORMALIZED_LAYERS) else ():
            full_name = weight_name(name, parameter)
            found = normalized.get(full_name)
            if found is None and getattr(layer, parameter, None) is None:
                continue
            blocks = PACKED.get(parameter, 1)
            if found is None:
                weight, said = effective_weight(layer, parameter), "none"
            else:
                weight, norm = found.original, found.normalization
                said = f"{type(norm).__name__}({norm.extra_repr()})"
            sigma = effective_sigma = _sigma(weight, row_dim, blocks)
            if found is not None:
                unknown = found.normalization.awaits_input_size
                effective_sigma = nan if unknown else _sigma(effective_weight(layer, parameter), row_dim, blocks)
            rows.append(Row(full_name, tuple(weight.shape), said, sigma, effective_sigma))
    return Description(tuple(rows))


def _sigma(weight: Tensor, row_dim: int, blocks: int) -> float:
    matrices = [as_matrix(piece, row_dim) for piece in weight.detach().float().chunk(blocks)]
    return max(torch.linalg.matrix_norm(matrix, 2).item() if matrix.numel() else 0.0 for matrix in matrices)
