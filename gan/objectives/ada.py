"""Geometric and colour transforms after ADA (Karras et al. 2020, arXiv:2006.06676, appendix B), differentiable.

Every transform of an image is drawn by itself with probability p; all geometric ones are one affine map and one
resampling, all colour ones one affine map of the colours. Where this differs from the paper: images are resampled
bilinearly as they are, mirrored at their edges, without its wavelet filters.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

SHIFT = 1 / 8  # of the side: shifts by whole pixels at the most, and the deviation of fractional ones
SCALE = 0.2  # deviation of log2 of the scale, and of that along an axis
BRIGHTNESS, CONTRAST, SATURATION = 0.2, 0.5, 1.0  # deviations of what is added, and of log2 of what is multiplied


class Warp(NamedTuple):
    """Geometric transforms in their order, a number an image `(B,)` each; 0 where an image has none."""

    mirrored: Tensor  # 1: left to right
    quarters: Tensor  # turns by 90°
    shift_x: Tensor  # in shares of the side, whole pixels
    shift_y: Tensor
    scale: Tensor  # log2
    turn_before: Tensor  # in radians
    stretch: Tensor  # log2 along one axis, and its inverse along the other
    turn_after: Tensor
    slide_x: Tensor  # in shares of the side
    slide_y: Tensor


class Recolouring(NamedTuple):
    """Colour transforms in their order, a number an image `(B,)` each; 0 where an image has none."""

    brightness: Tensor  # added
    contrast: Tensor  # log2
    inverted: Tensor  # 1: the luma
    hue: Tensor  # a turn about the grey axis, in radians
    saturation: Tensor  # log2


def geometry(images: Tensor, random: torch.Generator, probability: Tensor) -> Tensor:
    """Images `(B, C, H, H)`, each transform drawn with probability p, a scalar."""
    return warped(images, draw_warp(images, random, probability))


def colours(images: Tensor, random: torch.Generator, probability: Tensor) -> Tensor:
    """Images `(B, 1 or 3, H, W)`, each transform drawn with probability p, a scalar."""
    return recoloured(images, draw_recolouring(images, random, probability))


def draw_warp(images: Tensor, random: torch.Generator, probability: Tensor) -> Warp:
    """What happens to each image; a turn before and one after stretching come together with probability p."""
    draws = _Draws(images, random)
    side = images.shape[-1]
    turned = 1 - (1 - probability).sqrt()
    whole = ((draws.uniform(2) * 2 - 1) * SHIFT * side).round() / side
    shift_x, shift_y = draws.some(whole, probability)
    slide_x, slide_y = draws.some(draws.normal(2) * SHIFT, probability)
    return Warp(
        draws.some((draws.uniform(1) < 0.5).to(images.dtype), probability)[0],
        draws.some((draws.uniform(1) * 4).floor(), probability)[0],
        shift_x,
        shift_y,
        draws.some(draws.normal(1) * SCALE, probability)[0],
        draws.some((draws.uniform(1) * 2 - 1) * math.pi, turned)[0],
        draws.some(draws.normal(1) * SCALE, probability)[0],
        draws.some((draws.uniform(1) * 2 - 1) * math.pi, turned)[0],
        slide_x,
        slide_y,
    )


def warped(images: Tensor, warp: Warp) -> Tensor:
    """Images `(B, C, H, H)` after the transforms: where in an image a point of the result lies is the inverse map."""
    one = torch.ones_like(warp.scale)
    maps = [
        _scaled(1 - 2 * warp.mirrored, one),
        _turned(warp.quarters * (math.pi / 2)),
        _shifted(warp.shift_x, warp.shift_y),
        _scaled((-warp.scale).exp2(), (-warp.scale).exp2()),
        _turned(warp.turn_before),
        _scaled((-warp.stretch).exp2(), warp.stretch.exp2()),
        _turned(warp.turn_after),
        _shifted(warp.slide_x, warp.slide_y),
    ]
    with torch.autocast(images.device.type, enabled=False):  # places between pixels need more than bfloat16 has
        grid = F.affine_grid(_product(maps)[:, :2], list(images.shape), align_corners=False)
    return F.grid_sample(images, grid.to(images.dtype), mode="bilinear", padding_mode="reflection", align_corners=False)


def draw_recolouring(images: Tensor, random: torch.Generator, probability: Tensor) -> Recolouring:
    """What happens to the colours of each image."""
    draws = _Draws(images, random)
    return Recolouring(
        draws.some(draws.normal(1) * BRIGHTNESS, probability)[0],
        draws.some(draws.normal(1) * CONTRAST, probability)[0],
        draws.some((draws.uniform(1) < 0.5).to(images.dtype), probability)[0],
        draws.some((draws.uniform(1) * 2 - 1) * math.pi, probability)[0],
        draws.some(draws.normal(1) * SATURATION, probability)[0],
    )


def recoloured(images: Tensor, change: Recolouring) -> Tensor:
    """Images `(B, 1 or 3, H, W)` after the transforms; grey ones are changed as colours, and become grey again."""
    brightness, contrast, inverted, hue, saturation = (values[:, None, None] for values in change)
    one = torch.eye(3, device=images.device, dtype=images.dtype)
    grey = torch.full_like(one, 1 / 3)  # the projection v vᵀ onto the axis of grey, v = (1, 1, 1)/√3
    cross = (one.roll(1, 1) - one.roll(-1, 1)).T / math.sqrt(3)  # w → v × w
    matrix = _product(
        [
            grey + (one - grey) * saturation.exp2(),
            grey + (one - grey) * hue.cos() + cross * hue.sin(),  # Rodrigues' formula about v
            (one - 2 * grey * inverted) * contrast.exp2(),
        ]
    )
    pixels = images.flatten(2).expand(-1, 3, -1) + brightness
    with torch.autocast(images.device.type, enabled=False):
        changed = (matrix @ pixels).view(-1, 3, *images.shape[2:])
    return changed if images.shape[1] == 3 else changed.mean(dim=1, keepdim=True)


class _Draws:
    """Numbers `(n, B)` for a batch of images."""

    def __init__(self, images: Tensor, random: torch.Generator) -> None:
        self._images, self._random = images, random

    def uniform(self, count: int) -> Tensor:
        """In [0, 1)."""
        size, like = (count, len(self._images)), self._images
        return torch.rand(size, generator=self._random, device=like.device, dtype=like.dtype)

    def normal(self, count: int) -> Tensor:
        """Of mean 0 and variance 1."""
        size, like = (count, len(self._images)), self._images
        return torch.randn(size, generator=self._random, device=like.device, dtype=like.dtype)

    def some(self, values: Tensor, probability: Tensor) -> Tensor:
        """`values` `(n, B)` where an image is chosen, else 0."""
        return torch.where(self.uniform(1) < probability, values, torch.zeros_like(values))


def _affine(first: list[Tensor], second: list[Tensor]) -> Tensor:
    """`(B, 3, 3)` of two rows of `(B,)`."""
    zero = torch.zeros_like(first[0])
    return torch.stack([torch.stack(row, dim=1) for row in (first, second, [zero, zero, zero + 1])], dim=1)


def _scaled(x: Tensor, y: Tensor) -> Tensor:
    zero = torch.zeros_like(x)
    return _affine([x, zero, zero], [zero, y, zero])


def _turned(angle: Tensor) -> Tensor:
    zero = torch.zeros_like(angle)
    return _affine([angle.cos(), -angle.sin(), zero], [angle.sin(), angle.cos(), zero])


def _shifted(x: Tensor, y: Tensor) -> Tensor:
    """By shares of the side, which is 2 in the grid's units."""
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    return _affine([one, zero, -2 * x], [zero, one, -2 * y])


def _product(maps: list[Tensor]) -> Tensor:
    """Of matrices `(B, 3, 3)`, in their own precision whatever autocast says."""
    found = maps[0]
    with torch.autocast(found.device.type, enabled=False):
        for one in maps[1:]:
            found = found @ one
    return found
