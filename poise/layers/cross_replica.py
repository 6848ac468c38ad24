"""Batch norm over a batch that is spread over processes (cross-replica batch norm; Brock et al. 2019, appendix B).

``torch.nn.SyncBatchNorm`` does the same on CUDA alone; this one works on any device with a process group, and has the
second derivatives that gradient penalties need.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from poise import replicas


class CrossReplicaBatchNorm(_BatchNorm):
    """Batch norm of any number of dimensions, whose batch is that of all processes within ``replicas.together()``.

    Elsewhere, and in evaluation, it is torch's own. Mean and variance are found one after the other, a sum over the
    processes each, which loses no digits where the mean is large; in float32 or wider. Inputs are (n, channels, …), as
    many numbers of a channel on every process. State dicts are those of torch's batch norms.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"input has shape {tuple(input.shape)}; batch norm takes (n, channels, …)")

    def forward(self, input: Tensor) -> Tensor:
        count = replicas.place()[1]
        if count == 1 or not (self.training or self.running_mean is None):
            return super().forward(input)
        self._check_input_dim(input)
        along = [0, *range(2, input.ndim)]
        with torch.autocast(input.device.type, enabled=False):
            x = input.to(torch.promote_types(input.dtype, torch.float32))
            mean = replicas.mean(x.mean(along, keepdim=True))
            centred = x - mean
            variance = replicas.mean(centred.square().mean(along, keepdim=True))
            self._follow(mean.detach().flatten(), variance.detach().flatten(), count * (x.numel() // x.shape[1]))
            gain = torch.rsqrt(variance + self.eps)
            if self.affine:
                shape = mean.shape
                found = torch.addcmul(self.bias.view(shape), centred, gain * self.weight.view(shape))
            else:
                found = centred * gain
        return found.to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, n: int) -> None:
        """Running statistics as torch has them: of the unbiased variance of n numbers."""
        if not self.training or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        for running, new in ((self.running_mean, mean), (self.running_var, variance * (n / (n - 1)))):
            running.mul_(1 - share).add_(new.to(running.dtype), alpha=share)


def cross_replica(module: nn.Module) -> nn.Module:
    """Make every batch norm within ``module`` a cross-replica one, in place, and return the module.

    The layers remain the same objects, with their parameters, buffers and hooks; classes derived from torch's batch
    norms, ``torch.nn.SyncBatchNorm`` among them, are left as they are.
    """
    for layer in module.modules():
        if type(layer) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            layer.__class__ = CrossReplicaBatchNorm
    return module
