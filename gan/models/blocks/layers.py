"""Convolution, linear and embedding layers with optional spectral normalisation; resampling fused into convolutions.

A state dict holds the textbook 3×3 kernels; the 4×4 kernels of the fused forms exist only inside a forward pass.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gan.models.blocks.precision import without_autocast
from gan.models.blocks.spectral_norm import SpectralNorm

Resample = Literal["none", "up", "down"]


class Conv2d(nn.Conv2d):
    """A convolution of odd kernel size with same padding, Glorot-uniform initialised, optionally resampling by two.

    `up` doubles the map by nearest neighbours before the convolution, `down` averages 2×2 cells after it. For 3×3
    kernels both equal one stride-2 4×4 (transposed) convolution with 2.25 times fewer multiplications.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        resample: Resample = "none",
        spectral_norm: bool = False,
        gain: float = 1.0,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        assert self.bias is not None
        nn.init.xavier_uniform_(self.weight, gain)
        nn.init.zeros_(self.bias)
        self.resample = resample
        self.spectral_norm = SpectralNorm(self.weight) if spectral_norm else None

    def forward(self, maps: Tensor) -> Tensor:
        weight = self.weight if self.spectral_norm is None else self.spectral_norm(self.weight)
        if self.resample == "up":
            return upsample_convolve(maps, weight, self.bias)
        if self.resample == "down":
            return convolve_pool(maps, weight, self.bias)
        return F.conv2d(maps, weight, self.bias, padding=self.padding)


def upsample_convolve(maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Nearest ×2 upsampling, then a convolution: `(B, C, H, W)` → `(B, O, 2H, 2W)`."""
    if weight.shape[-1] == 1:  # A pointwise kernel convolves the small map, which is then copied.
        maps = F.conv2d(maps, weight, bias)
        with without_autocast(maps):  # which copies float32 on GPUs
            return F.interpolate(maps, scale_factor=2.0, mode="nearest")
    kernel = _spread(weight).flip(-2, -1).transpose(0, 1)
    return F.conv_transpose2d(maps, kernel, bias, stride=2, padding=1)


def convolve_pool(maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution, then 2×2 average pooling: `(B, C, 2H, 2W)` → `(B, O, H, W)`."""
    if weight.shape[-1] == 1:  # A pointwise kernel convolves the small map, which is pooled before.
        return F.conv2d(F.avg_pool2d(maps, 2), weight, bias)
    return F.conv2d(maps, _spread(weight) / 4, bias, stride=2, padding=1)


def _spread(weight: Tensor) -> Tensor:
    """The 3×3 kernel summed over the four shifts of a 2×2 cell: `(O, C, 3, 3)` → `(O, C, 4, 4)`."""
    right = F.pad(weight, (0, 1)) + F.pad(weight, (1, 0))
    return F.pad(right, (0, 0, 0, 1)) + F.pad(right, (0, 0, 1, 0))


class Linear(nn.Linear):
    """A linear layer, Glorot-uniform initialised."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True, spectral_norm: bool = False) -> None:
        super().__init__(in_features, out_features, bias=bias)
        nn.init.xavier_uniform_(self.weight)
        if bias:
            nn.init.zeros_(self.bias)
        self.spectral_norm = SpectralNorm(self.weight) if spectral_norm else None

    def forward(self, features: Tensor) -> Tensor:
        weight = self.weight if self.spectral_norm is None else self.spectral_norm(self.weight)
        return F.linear(features, weight, self.bias)


class Embedding(nn.Embedding):
    """A table of one vector a class, Glorot-uniform initialised."""

    def __init__(self, num_classes: int, features: int, *, spectral_norm: bool = False) -> None:
        super().__init__(num_classes, features)
        nn.init.xavier_uniform_(self.weight)
        self.spectral_norm = SpectralNorm(self.weight) if spectral_norm else None

    def forward(self, labels: Tensor) -> Tensor:
        return F.embedding(labels, self.table())

    def table(self) -> Tensor:
        """The vectors in force, `(num_classes, features)`."""
        return self.weight if self.spectral_norm is None else self.spectral_norm(self.weight)


class ModulatedBatchNorm2d(nn.Module):
    """Batch normalisation, then a gain and a bias that follow a condition: g(c) · (h − μ)/σ + b(c).

    Args:
        channels: of the maps.
        affine: g and b, modules that give `(B, channels)` of the condition; None for one gain and one bias.
    """

    def __init__(self, channels: int, affine: tuple[nn.Module, nn.Module] | None) -> None:
        super().__init__()
        self.normalize = nn.BatchNorm2d(channels, affine=affine is None)
        self.gain: nn.Module | None = None
        if affine is not None:
            self.gain, self.bias = affine

    def forward(self, maps: Tensor, condition: Tensor | None = None) -> Tensor:
        maps = self.normalize(maps)
        if self.gain is None:
            return maps
        gain, bias = self.gain(condition)[..., None, None], self.bias(condition)[..., None, None]  # (B, C, 1, 1)
        return torch.addcmul(bias.to(maps.dtype), maps, gain.to(maps.dtype))


class ConditionalBatchNorm2d(ModulatedBatchNorm2d):
    """Batch normalisation with a gain and a bias per class (Dumoulin et al. 2017); one of each without classes."""

    def __init__(self, channels: int, num_classes: int | None = None) -> None:
        if num_classes is None:
            super().__init__(channels, None)
        else:
            gain, bias = nn.Embedding(num_classes, channels), nn.Embedding(num_classes, channels)
            nn.init.ones_(gain.weight)
            nn.init.zeros_(bias.weight)
            super().__init__(channels, (gain, bias))


@torch.no_grad()
def initialise_orthogonally(network: nn.Module) -> None:
    """Weights of all convolutional, linear and embedding layers become (semi-)orthogonal (Saxe et al. 2014)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding) and not module.weight.is_meta:
            nn.init.orthogonal_(module.weight)
            if getattr(module, "spectral_norm", None) is not None:
                module.spectral_norm = SpectralNorm(module.weight)


RELU_GAIN = math.sqrt(2.0)
