"""Penalties on how far a network's weights are from orthogonal filters.

Each takes a module, of which every weight counts before its norm, and returns a scalar to add to its loss.
σ-regularization, a penalty on each weight's σ₀, is a norm: ``poise.normalize(d, "sigma-reg")``, whose penalty is
``poise.weight_penalty(d)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from poise.norms.normalization import NORMALIZED_LAYERS, PACKED, WEIGHT_NAMES, full_precision, out_dim, wide


def weight_matrices(module: nn.Module) -> Iterator[Tensor]:
    """Every linear, bilinear and convolution weight as (output units, all else), before its norm if it has one.

    Embeddings are left out: BigGAN's authors exempt the shared class embedding (Brock et al. 2019, their code), whose
    rows are classes and not filters. Attention's packed weight counts as the three maps that it is.
    """
    for layer in module.modules():
        if not isinstance(layer, NORMALIZED_LAYERS) or isinstance(layer, nn.Embedding):
            continue
        for name in WEIGHT_NAMES:
            if parametrize.is_parametrized(layer, name):
                weight = getattr(layer.get_submodule(f"parametrizations.{name}"), "original", None)
            else:
                weight = layer._parameters.get(name)
            if weight is not None:
                for piece in weight.chunk(PACKED.get(name, 1)):
                    yield piece.movedim(out_dim(layer), 0).flatten(1)


def orthonormal(matrix: Tensor) -> Tensor:
    """``‖WᵀW − I‖²_F`` of a matrix W, a scalar (Brock et al. 2017; Miyato et al. 2018, section 4).

    Computed from the smaller of WᵀW and WWᵀ, between which it differs by the constant |rows − columns|.
    """
    rows, columns = matrix.shape
    gram = matrix @ matrix.mT if rows <= columns else matrix.mT @ matrix
    eye = torch.eye(len(gram), device=gram.device, dtype=gram.dtype)
    return (gram - eye).square().sum() + max(columns - rows, 0)


def off_diagonal(matrix: Tensor) -> Tensor:
    """``‖WᵀW ⊙ (1 − I)‖²_F``, a scalar: squared inner products of all pairs of filters (Brock et al. 2019, eq. 3).

    Args:
        matrix: a filter in each row, so it is the paper's Wᵀ.
    """
    gram = matrix @ matrix.mT
    return (gram - torch.diag(gram.diagonal())).square().sum()


def orthonormal_penalty(module: nn.Module, *_: object, weight: float = 1e-4) -> Tensor:
    """``β·Σ‖WᵀW − I‖²_F`` over ``weight_matrices`` (Brock et al. 2017; Brock et al. 2019, eq. 2); for D or for G."""
    return weight * _total(orthonormal, module)


def off_diagonal_penalty(module: nn.Module, *_: object, weight: float = 1e-4) -> Tensor:
    """``β·Σ‖WᵀW ⊙ (1 − I)‖²_F`` over ``weight_matrices`` (Brock et al. 2019, eq. 3, β = 1e-4); for G, as a rule."""
    return weight * _total(off_diagonal, module)


def _total(form: Callable[[Tensor], Tensor], module: nn.Module) -> Tensor:
    terms = [full_precision(form, matrix.device)(wide(matrix)) for matrix in weight_matrices(module)]
    if not terms:
        raise ValueError(f"{type(module).__name__} has no linear or convolution weight to penalize")
    return torch.stack(terms).sum()
