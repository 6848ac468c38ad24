"""What the norms of a module add to its loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from poise.norms.family import normalized_weights
from poise.norms.normalization import Packed
from poise.norms.regularization import SigmaReg


def weight_penalty(module: nn.Module) -> Tensor:
    """The sum of the penalties of all weights under a norm that has one ("sigma-reg"), to be added to the loss.

    Returns:
        A scalar, coefficients included, differentiable in the weights; 0 for a module without such norms. Called
        twice between two updates it gives the same.
    """
    penalties = []
    for weight in normalized_weights(module):
        parts = weight.normalization.parts if isinstance(weight.normalization, Packed) else [weight.normalization]
        pieces = weight.original.chunk(len(parts))
        penalties += [
            part.penalty(piece) for part, piece in zip(parts, pieces, strict=True) if isinstance(part, SigmaReg)
        ]
    if not penalties:
        like = next(module.parameters(), None)
        return torch.zeros((), device=None if like is None else like.device)
    return torch.stack(penalties).sum()
