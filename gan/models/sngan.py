"""SNGAN-ResNet (Miyato et al. 2018, arXiv:1802.05957, tables 4–6), and with attention and spectral normalisation in
both players SAGAN (Zhang et al. 2019, arXiv:1805.08318).

At 32×32 all blocks have one width (256 in G, 128 in D as published); at other resolutions widths double with every
halving of the map, from `width` (64 as published) at full resolution.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from gan.models.blocks.layers import ConditionalBatchNorm2d, Conv2d, Linear
from gan.models.blocks.residual import GeneratorBlock, ResidualBackbone, doubled_sides, halved_sides
from gan.models.interface import AttentionPlacement, Generator, attention_after

# The widths of the first map and of every block's output, as multiples of `width`.
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
_BACKBONE_HALVINGS = {32: 2, 48: 4, 64: 5, 128: 5}  # So many of the blocks, from the first, halve the map.


def _widths(width: int, multipliers: Sequence[int], levels: Sequence[int], growth: float) -> list[int]:
    """Channels of maps that were halved `levels` times; grown ones are multiples of 8, as is fast."""
    if growth <= 0:
        raise ValueError(f"growth: {growth} found, a positive number accepted")
    if growth == 1:
        return [width * multiplier for multiplier in multipliers]
    grown = [width * multiplier * growth**level for multiplier, level in zip(multipliers, levels, strict=True)]
    return [max(8, 8 * round(channels / 8)) for channels in grown]


class SNGANGenerator(Generator):
    """Latents `(B, latent_dim)` and labels `(B,)` or None → images `(B, channels, resolution, resolution)` in [−1, 1].

    Args:
        resolution: 32, 48, 64 or 128.
        channels: of the images.
        width: channels of the last block (of all blocks at 32).
        latent_dim: Z.
        num_classes: for class-conditional batch normalisation, or None.
        attention: which one, and after which blocks, or None for none.
        spectral_norm: divide the weights of all linear and convolutional layers by their spectral norm, as SAGAN does.
        growth: how much wider than published a map is for every halving; published: 1.
    """

    resolutions = tuple(_GENERATOR_WIDTHS)

    def __init__(
        self,
        resolution: int = 32,
        channels: int = 3,
        width: int = 256,
        latent_dim: int = 128,
        num_classes: int | None = None,
        attention: AttentionPlacement | None = None,
        *,
        spectral_norm: bool = False,
        growth: float = 1.0,
    ) -> None:
        super().__init__()
        multipliers = _GENERATOR_WIDTHS[resolution]
        widths = _widths(width, multipliers, range(len(multipliers))[::-1], growth)
        norm = partial(ConditionalBatchNorm2d, num_classes=num_classes)
        sides = self.attention_resolutions(resolution)
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        self.bottom = sides[0] // 2  # the side of the first map
        self.project = Linear(latent_dim, widths[0] * self.bottom**2, spectral_norm=spectral_norm)
        self.blocks = nn.ModuleList(
            GeneratorBlock(i, o, norm, spectral_norm=spectral_norm) for i, o in pairwise(widths)
        )
        self.norm = nn.BatchNorm2d(widths[-1])
        self.to_image = Conv2d(widths[-1], channels, spectral_norm=spectral_norm)
        self.attention = attention_after(attention, zip(widths[1:], sides, strict=True), spectral_norm=spectral_norm)

    @staticmethod
    def attention_resolutions(resolution: int) -> list[int]:
        return doubled_sides(resolution, len(_GENERATOR_WIDTHS[resolution]) - 1)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        maps = self.project(latents).unflatten(1, (-1, self.bottom, self.bottom))
        for block, attend in zip(self.blocks, self.attention, strict=True):
            maps = attend(block(maps, labels))
        return F.tanh(self.to_image(F.relu(self.norm(maps))))


class SNGANBackbone(ResidualBackbone):
    """Images `(B, channels, resolution, resolution)` → features `(B, out_features)` by global sum pooling.

    Args:
        resolution: 32, 48, 64 or 128.
        channels: of the images.
        width: channels of the first block (of all blocks at 32).
        attention: which one, and after which blocks, or None for none.
        growth: how much wider than published a map is for every halving after the first; published: 1.
    """

    resolutions = tuple(_BACKBONE_WIDTHS)

    def __init__(
        self,
        resolution: int = 32,
        channels: int = 3,
        width: int = 128,
        attention: AttentionPlacement | None = None,
        *,
        growth: float = 1.0,
    ) -> None:
        multipliers, last = _BACKBONE_WIDTHS[resolution], _BACKBONE_HALVINGS[resolution] - 1
        levels = [min(block, last) for block in range(len(multipliers))]
        widths = _widths(width, multipliers, levels, growth)
        super().__init__(channels, widths, self.attention_resolutions(resolution), attention)

    @staticmethod
    def attention_resolutions(resolution: int) -> list[int]:
        return halved_sides(resolution, len(_BACKBONE_WIDTHS[resolution]), _BACKBONE_HALVINGS[resolution])
