"""SNGAN-ResNet (Miyato et al. 2018, arXiv:1802.05957, tables 4–6): pre-activation residual blocks.

At 32×32 all blocks have one width (256 in G, 128 in D as published); at other resolutions widths double with every
halving of the map, from `width` (64 as published) at full resolution.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gan.models.layers import RELU_GAIN, ConditionalBatchNorm2d, Conv2d, Linear, Resample

# Width multipliers: of the first map and of every block's output.
_GENERATOR_WIDTHS = {
    32: (1, 1, 1, 1),
    48: (8, 4, 2, 1),
    64: (16, 8, 4, 2, 1),
    128: (16, 16, 8, 4, 2, 1),
}
_BACKBONE_WIDTHS = {
    32: (1, 1, 1, 1),
    48: (1, 2, 4, 8, 16),
    64: (1, 2, 4, 8, 16),
    128: (1, 2, 4, 8, 16, 16),
}
_BACKBONE_HALVINGS = {32: 2, 48: 4, 64: 5, 128: 5}  # how many of the blocks, from the first, halve the map


class GeneratorBlock(nn.Module):
    """BN, ReLU, ×2, 3×3, BN, ReLU, 3×3, plus a ×2 pointwise shortcut: `(B, C, H, W)` → `(B, O, 2H, 2W)`."""

    def __init__(self, in_channels: int, out_channels: int, num_classes: int | None) -> None:
        super().__init__()
        self.norm1 = ConditionalBatchNorm2d(in_channels, num_classes)
        self.conv1 = Conv2d(in_channels, out_channels, resample="up", gain=RELU_GAIN)
        self.norm2 = ConditionalBatchNorm2d(out_channels, num_classes)
        self.conv2 = Conv2d(out_channels, out_channels, gain=RELU_GAIN)
        self.shortcut = Conv2d(in_channels, out_channels, 1, resample="up")

    def forward(self, maps: Tensor, labels: Tensor | None) -> Tensor:
        residual = self.conv1(F.relu(self.norm1(maps, labels)))
        residual = self.conv2(F.relu(self.norm2(residual, labels)))
        return residual + self.shortcut(maps)


class SNGANGenerator(nn.Module):
    """Latents `(B, latent_dim)` and labels `(B,)` or None → images `(B, channels, resolution, resolution)` in [−1, 1].

    Args:
        resolution: 32, 48, 64 or 128.
        channels: of the images.
        width: channels of the last block (of all blocks at 32).
        latent_dim: Z.
        num_classes: for class-conditional batch normalisation, or None.
    """

    resolutions = tuple(_GENERATOR_WIDTHS)

    def __init__(
        self,
        resolution: int = 32,
        channels: int = 3,
        width: int = 256,
        latent_dim: int = 128,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        widths = [width * multiplier for multiplier in _GENERATOR_WIDTHS[resolution]]
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        self.bottom = resolution >> (len(widths) - 1)  # side of the first map
        self.project = Linear(latent_dim, widths[0] * self.bottom**2)
        self.blocks = nn.ModuleList(GeneratorBlock(i, o, num_classes) for i, o in pairwise(widths))
        self.norm = nn.BatchNorm2d(widths[-1])
        self.to_image = Conv2d(widths[-1], channels)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        maps = self.project(latents).unflatten(1, (-1, self.bottom, self.bottom))
        for block in self.blocks:
            maps = block(maps, labels)
        return F.tanh(self.to_image(F.relu(self.norm(maps))))


class FirstBackboneBlock(nn.Module):
    """The block that sees the image: no activation before its first convolution, none in the shortcut."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = Conv2d(in_channels, out_channels, spectral_norm=True, gain=RELU_GAIN)
        self.conv2 = Conv2d(out_channels, out_channels, resample="down", spectral_norm=True, gain=RELU_GAIN)
        self.shortcut = Conv2d(in_channels, out_channels, 1, resample="down", spectral_norm=True)

    def forward(self, maps: Tensor) -> Tensor:
        return self.conv2(F.relu(self.conv1(maps))) + self.shortcut(maps)


class BackboneBlock(nn.Module):
    """ReLU, 3×3, ReLU, 3×3, halving the map or not, plus a shortcut (pointwise where a shape changes)."""

    def __init__(self, in_channels: int, out_channels: int, *, halve: bool) -> None:
        super().__init__()
        resample: Resample = "down" if halve else "none"
        self.conv1 = Conv2d(in_channels, out_channels, spectral_norm=True, gain=RELU_GAIN)
        self.conv2 = Conv2d(out_channels, out_channels, resample=resample, spectral_norm=True, gain=RELU_GAIN)
        self.shortcut: Callable[[Tensor], Tensor] = nn.Identity()
        if halve or in_channels != out_channels:
            self.shortcut = Conv2d(in_channels, out_channels, 1, resample=resample, spectral_norm=True)

    def forward(self, maps: Tensor) -> Tensor:
        return self.conv2(F.relu(self.conv1(F.relu(maps)))) + self.shortcut(maps)


class SNGANBackbone(nn.Module):
    """Images `(B, channels, resolution, resolution)` → features `(B, out_features)` by global sum pooling.

    Args:
        resolution: 32, 48, 64 or 128.
        channels: of the images.
        width: channels of the first block (of all blocks at 32).
    """

    resolutions = tuple(_BACKBONE_WIDTHS)

    def __init__(self, resolution: int = 32, channels: int = 3, width: int = 128) -> None:
        super().__init__()
        widths = [width * multiplier for multiplier in _BACKBONE_WIDTHS[resolution]]
        halvings = _BACKBONE_HALVINGS[resolution]
        self.out_features = widths[-1]
        self.blocks = nn.Sequential(FirstBackboneBlock(channels, widths[0]))
        for index, (i, o) in enumerate(pairwise(widths), start=1):
            self.blocks.append(BackboneBlock(i, o, halve=index < halvings))

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.blocks(images))
        return maps.sum(dim=(2, 3), dtype=torch.promote_types(maps.dtype, torch.float32))
