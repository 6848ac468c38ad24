"""Inception score (Salimans et al. 2016), streamed: ``exp E KL(p(y|x) ‖ p(y))`` of each split of the images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

SPLITS = 10
SHUFFLE_SEED = 2020


class SplitScores:
    """The score of each of ``splits`` equal parts of n shuffled images, as torch-fidelity shuffles and cuts them.

    ``E KL = H(E p) − E H(p)``: of each split only the mean prediction and the mean entropy are kept.

    Args:
        n: images that will be added in all. classes: of the classifier.
        splits: parts, at most n.
        shuffle: which images belong together; None: neighbours do.
    """

    def __init__(self, n: int, classes: int, splits: int = SPLITS, shuffle: int | None = SHUFFLE_SEED) -> None:
        if not 1 <= splits <= n:
            raise ValueError(f"splits is {splits}; allowed: 1 to the number of images, {n}")
        order = np.arange(n) if shuffle is None else np.random.RandomState(shuffle).permutation(n)
        edges = [split * n // splits for split in range(splits + 1)]
        self._split = torch.empty(n, dtype=torch.int64)
        for split in range(splits):
            self._split[torch.from_numpy(order[edges[split] : edges[split + 1]])] = split
        self.n = 0
        self._count = torch.bincount(self._split, minlength=splits).double()
        self._sum = torch.zeros(splits, classes, dtype=torch.float64)
        self._entropy = torch.zeros(splits, dtype=torch.float64)

    def add(self, logits: Tensor) -> None:
        """Take in the next images' logits, (size, classes)."""
        log_p = logits.detach().cpu().double().log_softmax(1)
        p = log_p.exp()
        split = self._split[self.n : self.n + len(p)]
        self.n += len(p)
        self._sum.index_add_(0, split, p)
        self._entropy.index_add_(0, split, -(p * log_p).sum(1))

    def values(self) -> Tensor:
        """The score of each split, (splits,), between 1 and the number of classes. ValueError before all were added."""
        if self.n != len(self._split):
            raise ValueError(f"{self.n} of {len(self._split)} images were added; add the rest")
        marginal = torch.special.entr(self._sum / self._count[:, None]).sum(1)
        return (marginal - self._entropy / self._count).exp()
