"""Batch normalisation on several ranks: over the batch of all, or each over its own with one running mean for all."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gan import distributed

Network = TypeVar("Network", bound=nn.Module)


class SyncBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose statistics in training are those of all ranks' maps `(B, C, H, W)` together.

    PyTorch's own `nn.SyncBatchNorm` refuses CPU tensors as soon as there are several ranks (up to torch 2.14: its
    kernels exist for GPUs only), and has no second derivative; this one runs anywhere and has all. Every rank must hold
    as many maps. State dicts are those of `nn.BatchNorm2d`.
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


def synchronise_batch_norms(network: Network, device: torch.device, *, twice: bool) -> Network:
    """`network`, whose batch norms are replaced by ones over all ranks with the same parameters and statistics.

    On GPUs they are torch's own, which are faster but wait for the device in every pass and have no second derivative,
    unless gradients are differentiated `twice`, as those of penalties are.
    """
    if device.type == "cuda" and not twice:
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                twin = SyncBatchNorm2d(child.num_features, child.eps, child.momentum, child.affine)
                twin.load_state_dict(child.state_dict())
                setattr(parent, name, twin.train(child.training))
    return network


class RankStatistics:
    """Running statistics of batch norms that every rank moves on its own, joined at the end of a step.

    A pass moves a statistic s to (1 − m)s + m x; the p passes of rank r of R take it to a s + e_r, a = (1 − m)^p. One
    rank that makes all passes in the order of ranks ends at a^R s + Σ_r a^(R − 1 − r) e_r, and so do all ranks here.
    Norms over the batch of all ranks need no joining.

    Args:
        networks: whose norms; made before the first pass of a step.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        modules = [module for network in networks for module in network.modules()]
        synchronised = SyncBatchNorm2d | nn.SyncBatchNorm
        self._norms = [one for one in modules if isinstance(one, _BatchNorm) and not isinstance(one, synchronised)]
        self._starts = [{name: value.clone() for name, value in one.named_buffers()} for one in self._norms]

    def shares(self) -> list[Tensor]:
        """What this rank adds to the sum above, times R: the mean over ranks is the sum."""
        size, after = distributed.world_size(), distributed.world_size() - 1 - distributed.rank()
        shares = []
        for norm, start in zip(self._norms, self._starts, strict=True):
            kept = self._kept(norm, start)
            for name in ("running_mean", "running_var"):
                shares.append(size * kept**after * (norm.get_buffer(name) - kept * start[name]))
        return shares

    def join(self, sums: Sequence[Tensor]) -> None:
        """Set all statistics by the sums over ranks of their shares, in the order of `shares`."""
        size, pending = distributed.world_size(), iter(sums)
        for norm, start in zip(self._norms, self._starts, strict=True):
            kept = self._kept(norm, start)
            for name in ("running_mean", "running_var"):
                # Past autograd, for a pass may wait for its backward pass: it saved the buffer and does not read it.
                norm.get_buffer(name).data.copy_(kept**size * start[name] + next(pending))
            passes = norm.get_buffer("num_batches_tracked") - start["num_batches_tracked"]
            norm.get_buffer("num_batches_tracked").copy_(start["num_batches_tracked"] + size * passes)

    def _kept(self, norm: _BatchNorm, start: dict[str, Tensor]) -> Tensor:
        """The share a of the start that is left after this rank's passes."""
        assert norm.momentum is not None
        passes = norm.get_buffer("num_batches_tracked") - start["num_batches_tracked"]
        return (1 - norm.momentum) ** passes.to(start["running_mean"].dtype)


def _global_moments(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance `(C,)` over all ranks, from each rank's own: no digits are lost to E x² − (E x)²."""
    own = torch.stack([maps.mean(dim=(0, 2, 3)), maps.var(dim=(0, 2, 3), correction=0)])  # (2, C)
    ranks = [own if rank == distributed.rank() else torch.zeros_like(own) for rank in range(distributed.world_size())]
    means, variances = _Sum.apply(torch.stack(ranks)).unbind(1)  # (R, C) each
    return means.mean(0), variances.mean(0) + means.var(dim=0, correction=0)


class _Sum(torch.autograd.Function):
    """The sum over all ranks; its gradient is the sum of all ranks' gradients.

    `torch.distributed.nn.functional.all_reduce` computes the same, but forwards and backwards this one names a lost
    rank in one line, as all communication of `gan.distributed` does.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.add(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.apply(gradient.contiguous())
