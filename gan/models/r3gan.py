"""A pair in the spirit of R3GAN (Huang et al. 2024, arXiv:2501.05441): grouped bottlenecks, no normalisation.

A block is h + W₃ φ(W₂ φ(W₁ h)), pointwise, grouped 3×3, pointwise, φ the leaky ReLU of slope 0.2, with fix-up
initialisation (Zhang et al. 2019, arXiv:1901.09321): W₃ = 0, and the gain of W₁ and W₂ times L^(−1/4) for L blocks in
all, so that the variance of the output does not grow with depth. Resampling filters by [1, 2, 1], outside the blocks.

As in the authors' code no tanh bounds the images: without normalisation it saturates. They are clamped to [−1, 1] in
evaluation mode alone.
"""

import math
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gan.models.interface import AttentionPlacement, Backbone, Generator, attention_after

_BOTTOM = 4  # the side of the smallest map
_SIDES = {32: [4, 8, 16, 32], 64: [4, 8, 16, 32, 64], 128: [4, 8, 16, 32, 64, 128]}
_SLOPE = 0.2
_MAX_BLOCKS = 1000  # of a stage
_GAIN = math.sqrt(2 / (1 + _SLOPE**2))  # φ times this keeps the second moment of a normal variable

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


class ResidualBlock(nn.Module):
    """The bottleneck block: `(B, C, H, W)` → the same shape, the identity at first.

    Args:
        channels: C.
        expansion: hidden channels per channel.
        group_width: hidden channels per group of the 3×3 convolution.
        blocks: L.
    """

    def __init__(self, channels: int, expansion: int, group_width: int, blocks: int) -> None:
        super().__init__()
        hidden = channels * expansion
        gain = _GAIN * blocks**-0.25
        self.conv1 = _normal(nn.Conv2d(channels, hidden, 1), gain)
        self.conv2 = _normal(nn.Conv2d(hidden, hidden, 3, padding=1, groups=max(1, hidden // group_width)), gain)
        self.conv3 = _normal(nn.Conv2d(hidden, channels, 1, bias=False), 0.0)

    def forward(self, maps: Tensor) -> Tensor:
        residual = F.leaky_relu(self.conv1(maps), _SLOPE)
        residual = F.leaky_relu(self.conv2(residual), _SLOPE)
        return maps + self.conv3(residual)


class Transition(nn.Module):
    """Resampling by two, and a pointwise convolution at the smaller size where the width changes."""

    def __init__(self, in_channels: int, out_channels: int, *, doubles: bool) -> None:
        super().__init__()
        self.doubles = doubles
        changes = in_channels != out_channels
        self.conv = _normal(nn.Conv2d(in_channels, out_channels, 1, bias=False), 1.0) if changes else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        if self.doubles:
            return doubled(self.conv(maps))
        return self.conv(halved(maps))


def doubled(maps: Tensor) -> Tensor:
    """`(B, C, H, W)` → `(B, C, 2H, 2W)`: zeros put between, then filtered by [1, 2, 1]/2 along both axes.

    Along an axis x becomes (x_{−1} + x_0)/2, x_0, (x_0 + x_1)/2, x_1, …, with x_{−1} = 0 before the edge.
    """
    for axis in (2, 3):
        before = F.pad(maps, (0, 0, 1, 0) if axis == 2 else (1, 0)).narrow(axis, 0, maps.shape[axis])
        maps = torch.stack([(before + maps) / 2, maps], dim=axis + 1).flatten(axis, axis + 1)
    return maps


def halved(maps: Tensor) -> Tensor:
    """`(B, C, 2H, 2W)` → `(B, C, H, W)`: filtered by [1, 2, 1]/4 along both axes, then every second kept.

    Along an axis x becomes (x_{−1} + 2 x_0 + x_1)/4, (x_1 + 2 x_2 + x_3)/4, …, with x_{−1} = 0 before the edge.
    """
    for axis in (2, 3):
        even, odd = maps.unflatten(axis, (-1, 2)).unbind(axis + 1)
        before = F.pad(odd, (0, 0, 1, 0) if axis == 2 else (1, 0)).narrow(axis, 0, odd.shape[axis])
        maps = (before + 2 * even + odd) / 4
    return maps


class R3GANGenerator(Generator):
    """Latents `(B, latent_dim)` and labels `(B,)` or None → images `(B, channels, resolution, resolution)`.

    In evaluation mode images are in [−1, 1]; in training mode nothing bounds them or cuts off their gradient.

    Args:
        resolution: 32, 64 or 128.
        channels: of the images.
        width: channels of the maps up to 32×32; half as many at 64×64, a quarter at 128×128.
        latent_dim: Z.
        num_classes: of the labels, whose embedding is appended to the latents, or None.
        attention: which one, and after which blocks, or None for none.
        blocks: per resolution.
        expansion: hidden channels of a block per channel.
        group_width: hidden channels per group.
        embedding_dim: of the classes.

    Raises:
        ValueError: the width or an option does not fit.
    """

    resolutions = tuple(_SIDES)

    def __init__(
        self,
        resolution: int = 32,
        channels: int = 3,
        width: int = 768,
        latent_dim: int = 64,
        num_classes: int | None = None,
        attention: AttentionPlacement | None = None,
        *,
        blocks: int = 2,
        expansion: int = 2,
        group_width: int = 16,
        embedding_dim: int = 64,
    ) -> None:
        super().__init__()
        sides = self.attention_resolutions(resolution)
        widths = _widths(width, sides)
        _check(widths, blocks, expansion, group_width)
        if embedding_dim < 1:
            raise ValueError(f"embedding_dim: {embedding_dim} found, 1 or more accepted")
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        self.embedding: nn.Embedding | None = None
        if num_classes is not None:
            self.embedding = nn.Embedding(num_classes, embedding_dim)
            nn.init.normal_(self.embedding.weight, std=num_classes**-0.5)
            latent_dim += embedding_dim
        self.basis = nn.Parameter(torch.randn(widths[0], _BOTTOM, _BOTTOM))
        self.project = _normal(nn.Linear(latent_dim, widths[0], bias=False), 1.0)
        up = (Transition(i, o, doubles=True) for i, o in pairwise(widths))
        self.transitions = nn.ModuleList([nn.Identity(), *up])
        self.stages = _stages(widths, blocks, expansion, group_width)
        self.to_image = _normal(nn.Conv2d(widths[-1], channels, 1, bias=False), 1.0)
        self.attention = attention_after(attention, zip(widths, sides, strict=True), spectral_norm=False)

    @staticmethod
    def attention_resolutions(resolution: int) -> list[int]:
        return _SIDES[resolution]

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        if self.embedding is not None:
            latents = torch.cat([latents, self.embedding(labels)], dim=1)
        maps = self.basis * self.project(latents)[..., None, None]
        for transition, stage, attend in zip(self.transitions, self.stages, self.attention, strict=True):
            maps = attend(stage(transition(maps)))
        images = self.to_image(maps)
        return images if self.training else images.clamp(-1, 1)


class R3GANBackbone(Backbone):
    """Images `(B, channels, resolution, resolution)` → features `(B, out_features)`: a learned average of the last map.

    Args:
        resolution, channels, width, attention, blocks, expansion, group_width: as of `R3GANGenerator`.

    Raises:
        ValueError: the width or an option does not fit.
    """

    resolutions = tuple(_SIDES)

    def __init__(
        self,
        resolution: int = 32,
        channels: int = 3,
        width: int = 768,
        attention: AttentionPlacement | None = None,
        *,
        blocks: int = 2,
        expansion: int = 2,
        group_width: int = 16,
    ) -> None:
        super().__init__()
        sides = self.attention_resolutions(resolution)
        widths = _widths(width, sides)
        _check(widths, blocks, expansion, group_width)
        self.out_features = widths[-1]
        self.from_image = _normal(nn.Conv2d(channels, widths[0], 1, bias=False), 1.0)
        self.stages = _stages(widths, blocks, expansion, group_width)
        down = (Transition(i, o, doubles=False) for i, o in pairwise(widths))
        self.transitions = nn.ModuleList([*down, nn.Identity()])
        basis = torch.empty(widths[-1], _BOTTOM, _BOTTOM).normal_(std=1 / _BOTTOM)  # summed over 16 positions
        self.basis = nn.Parameter(basis)
        self.attention = attention_after(attention, zip(widths, sides, strict=True), spectral_norm=False)

    @staticmethod
    def attention_resolutions(resolution: int) -> list[int]:
        return _SIDES[resolution][::-1]

    def forward(self, images: Tensor) -> Tensor:
        maps = self.from_image(images)
        for stage, attend, transition in zip(self.stages, self.attention, self.transitions, strict=True):
            maps = transition(attend(stage(maps)))
        return (maps.to(torch.promote_types(maps.dtype, torch.float32)) * self.basis).sum(dim=(2, 3))


def _widths(width: int, sides: list[int]) -> list[int]:
    """Channels at each side: all of them up to 32×32, then half as many with every doubling."""
    return [width // max(1, side // 32) for side in sides]


def _stages(widths: list[int], blocks: int, expansion: int, group_width: int) -> nn.ModuleList:
    count = blocks * len(widths)
    return nn.ModuleList(
        nn.Sequential(*(ResidualBlock(width, expansion, group_width, count) for _ in range(blocks))) for width in widths
    )


def _check(widths: list[int], blocks: int, expansion: int, group_width: int) -> None:
    for name, value in {"blocks": blocks, "expansion": expansion, "group_width": group_width}.items():
        if value < 1:
            raise ValueError(f"{name}: {value} found, 1 or more accepted")
    if blocks > _MAX_BLOCKS:
        raise ValueError(f"blocks: {blocks} found, up to {_MAX_BLOCKS} accepted")
    for hidden in (width * expansion for width in widths):
        if hidden < 1 or (hidden > group_width and hidden % group_width):
            raise ValueError(f"group_width: {group_width} found, a divisor of {hidden} hidden channels accepted")


def _normal(layer: Layer, gain: float) -> Layer:
    """Weights from N(0, gain²/fan_in), bias zero (He et al. 2015)."""
    nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.weight[0].numel()))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
