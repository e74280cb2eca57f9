"""The pre-activation residual blocks of SNGAN, SAGAN and BigGAN (arXiv:1802.05957, 1805.08318, 1809.11096)."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gan.models.blocks.layers import RELU_GAIN, Conv2d, Resample, initialise_orthogonally
from gan.models.interface import AttentionPlacement, Backbone, attention_after


class GeneratorBlock(nn.Module):
    """BN, ReLU, ×2, 3×3, BN, ReLU, 3×3, plus a ×2 pointwise shortcut: `(B, C, H, W)` → `(B, O, 2H, 2W)`.

    Args:
        in_channels, out_channels: C and O.
        norm: channels → a batch normalisation of maps and what they are conditioned on.
        spectral_norm: of the convolutions.
    """

    def __init__(
        self, in_channels: int, out_channels: int, norm: Callable[[int], nn.Module], *, spectral_norm: bool = False
    ) -> None:
        super().__init__()
        self.norm1 = norm(in_channels)
        self.conv1 = Conv2d(in_channels, out_channels, resample="up", spectral_norm=spectral_norm, gain=RELU_GAIN)
        self.norm2 = norm(out_channels)
        self.conv2 = Conv2d(out_channels, out_channels, spectral_norm=spectral_norm, gain=RELU_GAIN)
        self.shortcut = Conv2d(in_channels, out_channels, 1, resample="up", spectral_norm=spectral_norm)

    def forward(self, maps: Tensor, condition: Tensor | None) -> Tensor:
        residual = self.conv1(F.relu(self.norm1(maps, condition)))
        residual = self.conv2(F.relu(self.norm2(residual, condition)))
        return residual + self.shortcut(maps)


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


class ResidualBackbone(Backbone):
    """Spectrally normalised blocks, ReLU and global sum pooling: images `(B, C, R, R)` → features `(B, out_features)`.

    Args:
        channels: of the images.
        widths: channels of each block's output.
        sides: of each block's output; a block halves the map where the side before it is twice its own.
        attention: which one, and after which blocks, or None for none.
        orthogonal: whether weights are orthogonal at first; else Glorot-uniform.
    """

    def __init__(
        self,
        channels: int,
        widths: list[int],
        sides: list[int],
        attention: AttentionPlacement | None,
        *,
        orthogonal: bool = False,
    ) -> None:
        super().__init__()
        self.out_features = widths[-1]
        self.blocks = nn.ModuleList([FirstBackboneBlock(channels, widths[0])])
        for (i, o), (before, after) in zip(pairwise(widths), pairwise(sides), strict=True):
            self.blocks.append(BackboneBlock(i, o, halve=after < before))
        if orthogonal:
            initialise_orthogonally(self.blocks)
        self.attention = attention_after(attention, zip(widths, sides, strict=True), spectral_norm=True)
        if orthogonal:
            initialise_orthogonally(self.attention)

    def forward(self, images: Tensor) -> Tensor:
        maps = images
        for block, attend in zip(self.blocks, self.attention, strict=True):
            maps = attend(block(maps))
        maps = F.relu(maps)
        return maps.sum(dim=(2, 3), dtype=torch.promote_types(maps.dtype, torch.float32))


def doubled_sides(resolution: int, blocks: int) -> list[int]:
    """Sides of the outputs of a generator's blocks, each of which doubles the map."""
    return [resolution >> level for level in reversed(range(blocks))]


def halved_sides(resolution: int, blocks: int, halvings: int) -> list[int]:
    """Sides of the outputs of a backbone's blocks, the first `halvings` of which halve the map."""
    return [resolution >> min(block, halvings) for block in range(1, blocks + 1)]
