"""Batch normalisation over the batch of all ranks."""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from gan import distributed

Network = TypeVar("Network", bound=nn.Module)


class SyncBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose statistics in training are those of all ranks' maps `(B, C, H, W)` together.

    PyTorch's own `nn.SyncBatchNorm` runs on GPUs only; this one runs anywhere and can be differentiated twice. Every
    rank must hold as many maps. State dicts are those of `nn.BatchNorm2d`.
    """

    def forward(self, maps: Tensor) -> Tensor:
        if not self.training:
            return super().forward(maps)
        dtype, maps = maps.dtype, maps.to(torch.promote_types(maps.dtype, torch.float32))
        mean, variance = _global_moments(maps)
        self._follow(mean.detach(), variance.detach(), distributed.world_size() * maps.numel() // maps.shape[1])
        unit = (maps - mean[:, None, None]) * (variance + self.eps).rsqrt()[:, None, None]
        return (unit * self.weight[:, None, None] + self.bias[:, None, None] if self.affine else unit).to(dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics; their variance is the unbiased one."""
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        self.num_batches_tracked += 1


def has_batch_norms(network: nn.Module) -> bool:
    """Whether there is anything to synchronise."""
    return any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def synchronise_batch_norms(network: Network, device: torch.device) -> Network:
    """`network`, whose batch norms are replaced by ones over all ranks with the same parameters and statistics."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)  # faster, where it runs
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                twin = SyncBatchNorm2d(child.num_features, child.eps, child.momentum, child.affine)
                twin.load_state_dict(child.state_dict())
                setattr(parent, name, twin.train(child.training))
    return network


def _global_moments(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance `(C,)` over all ranks, from each rank's own: no digits are lost to E x² − (E x)²."""
    own = torch.stack([maps.mean(dim=(0, 2, 3)), maps.var(dim=(0, 2, 3), correction=0)])  # (2, C)
    ranks = [own if rank == distributed.rank() else torch.zeros_like(own) for rank in range(distributed.world_size())]
    means, variances = _Sum.apply(torch.stack(ranks)).unbind(1)  # (R, C) each
    return means.mean(0), variances.mean(0) + means.var(dim=0, correction=0)


class _Sum(torch.autograd.Function):
    """The sum over all ranks; its gradient is the sum of all ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.add(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.apply(gradient.contiguous())
