"""A round of following the largest singular values of several matrices at once, in batched operators of any device."""

from __future__ import annotations

import torch
from torch import Tensor

from poise.spectra.operator import widest


def block_round(stacks: list[Tensor], basis: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """One round of following for l matrices of the same m, from orthonormal left vectors, shape (l, b, m).

    Block Lanczos for ``WWᵀ`` from the basis: the space of ``basis, WWᵀ basis, (WWᵀ)² basis …``, in which a direction
    that training has just brought up appears soonest, then Rayleigh and Ritz's best b in it.

    Args:
        stacks: the matrices, in order, in stacks (several, parts, m, columns of a part).
        steps: of Lanczos; 0: the next basis is that of orthogonal iteration, ``WWᵀ`` times the best in this one.

    Returns:
        values, shape (l, b), and the next basis.
    """
    count, space, new = basis.shape[1], basis, basis
    sizes = [len(stack) for stack in stacks]
    images: list[list[Tensor]] = [[] for _ in stacks]
    for step in range(steps + 1):
        back = []
        for own, stack, vectors in zip(images, stacks, new.split(sizes), strict=True):
            own.append(vectors[:, None].expand(-1, stack.shape[1], -1, -1) @ stack)
            if step < max(steps, 1):  # at once, while the matrix is in the processor's cache
                back.append((own[-1] @ stack.mT).sum(1))
        if step < steps:
            new = torch.linalg.qr(torch.cat([space, torch.cat(back)], dim=1).mT).Q.mT[:, space.shape[1] :]
            space = torch.cat([space, new], dim=1)
    stretched = [torch.cat(own, dim=2) for own in images]
    gram, unknown = _finite(torch.cat([(own @ own.mT).sum(1) for own in stretched]))
    squares, turn = torch.linalg.eigh(gram)
    values = squares[:, -count:].flip(1).clamp_min(0).sqrt() + unknown
    turned = turn[..., -count:].flip(2).mT.to(space.dtype) @ (space if steps else torch.cat(back))
    known = (values[:, :1] > 0)[..., None]
    return values.to(space.dtype), torch.linalg.qr(turned.where(known, basis).mT).Q.mT


def _finite(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Gram matrices, shape (l, c, c), zero where not finite, in the widest type; and 0, or NaN where any entry is not.

    Rows differ in length as the values do, so that their products, even if taken in float32, keep the digits of small
    values beside large ones, if only the decomposition does.
    """
    unknown = (gram * 0).sum((1, 2))[:, None]
    return gram.nan_to_num(0, 0, 0).to(widest(gram.device)), unknown
