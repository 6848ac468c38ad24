"""Extractors made quick: batch norms folded into convolutions, branches of one input computed at once.

Of the network as torch-fidelity has it (InceptionV3 with TensorFlow's weights) every figure stays what it was but for
rounding: a 1×1 convolution and an average that leaves out the padding change places, since both are linear.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class FoldedConvolution(nn.Module):
    """Convolution with a bias, then ReLU in place."""

    def __init__(self, conv: nn.Conv2d, bn: nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv: nn.Conv2d = fuse_conv_bn_eval(conv, bn)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.conv(x))


def _folded(layer: nn.Module) -> FoldedConvolution:
    return FoldedConvolution(layer.conv, layer.bn)  # type: ignore[arg-type]


def _chain(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*map(_folded, layers))


class Branches(nn.Module):
    """All 1×1 convolutions of one input as one, what follows each, and a branch that only pools.

    Args:
        heads: 1×1 convolutions with batch norm; ``tails``: what each one's output goes through, None for nothing.
        averaged: index of the head whose output is averaged over 3×3 before its ReLU; None for no such branch.
        beside: another branch of the input, last in the result; None for none.
    """

    def __init__(
        self,
        heads: list[nn.Module],
        tails: Sequence[nn.Module | None],
        averaged: int | None = None,
        beside: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        folded = [_folded(head).conv for head in heads]
        self.sizes = [conv.out_channels for conv in folded]
        first = folded[0]
        self.joint = nn.Conv2d(first.in_channels, sum(self.sizes), 1)
        self.joint.weight = nn.Parameter(torch.cat([conv.weight for conv in folded]), requires_grad=False)
        self.joint.bias = nn.Parameter(
            torch.cat([conv.bias for conv in folded if conv.bias is not None]), requires_grad=False
        )
        self.tails = nn.ModuleList([tail if isinstance(tail, nn.Module) else nn.Identity() for tail in tails])
        self.averaged, self.beside = averaged, beside

    def forward(self, x: Tensor) -> Tensor:
        parts = self.joint(x).split(self.sizes, 1)
        out = []
        for index, (part, tail) in enumerate(zip(parts, self.tails, strict=True)):
            if index == self.averaged:
                part = F.avg_pool2d(part, 3, 1, 1, count_include_pad=False)
            out.append(tail(F.relu(part)))
        if self.beside is not None:
            out.append(self.beside(x))
        return torch.cat(out, 1)


class Split(nn.Module):
    """Two convolutions of one input, side by side."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(map(_folded, layers))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([layer(x) for layer in self.layers], 1)


class Parallel(nn.Module):
    """Branches of one input, side by side."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class PooledThenConvolved(nn.Module):
    """Largest of 3×3, then a 1×1 convolution: the last block's branch, as in the papers' network."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = _folded(layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(F.max_pool2d(x, 3, 1, 1))


def _block(b: nn.Module) -> nn.Module:
    """One of torch-fidelity's Inception blocks, by what it holds."""
    m = dict(b.named_children())
    if "branch5x5_1" in m:  # A
        heads = [m["branch1x1"], m["branch5x5_1"], m["branch3x3dbl_1"], m["branch_pool"]]
        tails = [None, _chain(m["branch5x5_2"]), _chain(m["branch3x3dbl_2"], m["branch3x3dbl_3"]), None]
        return Branches(heads, tails, averaged=3)
    if "branch7x7dbl_1" in m:  # C
        heads = [m["branch1x1"], m["branch7x7_1"], m["branch7x7dbl_1"], m["branch_pool"]]
        tails = [
            None,
            _chain(m["branch7x7_2"], m["branch7x7_3"]),
            _chain(*(m[f"branch7x7dbl_{index}"] for index in (2, 3, 4, 5))),
            None,
        ]
        return Branches(heads, tails, averaged=3)
    if "branch7x7x3_1" in m:  # D
        tails = [_chain(m["branch3x3_2"]), _chain(*(m[f"branch7x7x3_{index}"] for index in (2, 3, 4)))]
        return Branches([m["branch3x3_1"], m["branch7x7x3_1"]], tails, beside=nn.MaxPool2d(3, 2))
    if "branch3x3_2a" in m:  # E
        heads = [m["branch1x1"], m["branch3x3_1"], m["branch3x3dbl_1"]]
        split = Split(m["branch3x3_2a"], m["branch3x3_2b"])
        double = nn.Sequential(_folded(m["branch3x3dbl_2"]), Split(m["branch3x3dbl_3a"], m["branch3x3dbl_3b"]))
        if type(b).__name__.endswith("_2"):
            return Branches(heads, [None, split, double], beside=PooledThenConvolved(m["branch_pool"]))
        return Branches([*heads, m["branch_pool"]], [None, split, double, None], averaged=3)
    chain = _chain(*(m[f"branch3x3dbl_{index}"] for index in (1, 2, 3)))  # B
    return Parallel(_folded(m["branch3x3"]), chain, nn.MaxPool2d(3, 2))


class FoldedInception(nn.Module):
    """``images (n, 3, 299, 299) in [−1, 1) → pool3 features (n, 2048), logits without bias (n, 1008)``, in evaluation.

    Args:
        net: torch-fidelity's ``FeatureExtractorInceptionV3``.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        layers = [child for name, child in net.named_children() if name not in ("AvgPool", "fc")]
        made = [
            layer if isinstance(layer, nn.MaxPool2d) else _folded(layer) if hasattr(layer, "conv") else _block(layer)
            for layer in layers
        ]
        self.trunk = nn.Sequential(*made)
        self.fc: nn.Linear = net.fc  # type: ignore[assignment]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = F.adaptive_avg_pool2d(self.trunk(x).float(), 1).flatten(1)
        return features, features @ self.fc.weight.float().T


def fold_batch_norms(module: nn.Module) -> nn.Module:
    """Batch norms that directly follow a convolution in an ``nn.Sequential``, folded into it, in place."""
    for sequence in [layer for layer in module.modules() if isinstance(layer, nn.Sequential)]:
        for index in range(len(sequence) - 1):
            conv, bn = sequence[index], sequence[index + 1]
            if isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d):
                sequence[index], sequence[index + 1] = fuse_conv_bn_eval(conv, bn), nn.Identity()
    return module
