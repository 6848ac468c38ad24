"""The matrix of a weight, output units × all else: back into its shape, and whether what is found of it may be kept."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad


def as_weight(matrix: Tensor, like: Tensor, row_dim: int) -> Tensor:
    """What ``as_matrix`` flattened, in the shape, type and memory format of the weight ``like``."""
    weight = matrix.unflatten(1, like.movedim(row_dim, 0).shape[1:]).movedim(0, row_dim).to(like.dtype)
    inward = sorted(range(like.ndim), key=like.stride, reverse=True)  # dimensions as they lie in memory
    return weight.permute(inward).contiguous().permute(sorted(range(like.ndim), key=inward.__getitem__))


def is_transformed() -> bool:
    """Whether ``torch.func``, forward mode or an export is at work, whose tensors must not outlive it."""
    is_function = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    return is_function or torch.compiler.is_exporting()
