"""A transposed 3×3 convolution of stride 2 as one ordinary convolution, for maps of few channels on a CPU.

An output pixel (2p + a, 2q + b) sums taps of the 2×2 input pixels around (p, q), so all four phases (a, b) are one 2×2
convolution to 4·O channels, whose map is then interleaved. That multiplies by zeros (16 taps for 9) and is still twice
as fast as oneDNN's transposed convolution of 16 channels to 8. Its backward pass is fast as it is, so that is kept.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight


def phase_convolve(maps: Tensor, weight: Tensor, bias: Tensor, before: int, side: int) -> Tensor:
    """What `conv_transpose2d(maps, weight, bias, stride=2, padding=before)[..., :side, :side]` gives.

    Args:
        maps: `(B, C, n, n)` with n = ⌈side / 2⌉.
        weight: `(C, O, 3, 3)`.
        bias: `(O,)`.
        before: pixels cut from the top and the left, 0 or 1.
        side: of the output `(B, O, side, side)`.
    """
    if torch.is_autocast_enabled(maps.device.type):
        dtype = torch.get_autocast_dtype(maps.device.type)
        maps, weight, bias = maps.to(dtype), weight.to(dtype), bias.to(dtype)
    return _PhaseConvolution.apply(maps, weight, bias, before, side)


class _PhaseConvolution(torch.autograd.Function):
    """The backward pass is made of differentiable operations, so it can be differentiated in turn."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor, before: int, side: int) -> Tensor:
        ctx.save_for_backward(maps, weight)
        ctx.before = before
        channels, half = weight.shape[1], maps.shape[-1]
        wide = F.conv2d(maps, _phases(weight, before), bias.repeat(4), padding=1)  # (B, 4·O, n + 1, n + 1)
        wide = wide[:, :, before : before + half, before : before + half].permute(0, 2, 3, 1)
        rows = wide.unflatten(3, (2, 2 * channels)).transpose(2, 3)  # (B, n, 2, n, 2·O)
        image = rows.reshape(len(maps), 2 * half, 2 * half, channels).permute(0, 3, 1, 2)
        return image if side == 2 * half else image[..., :side, :side].contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight = ctx.saved_tensors
        after = 2 * maps.shape[-1] + 1 - gradient.shape[-1] - ctx.before  # the windows cover 2n + 1 pixels
        margins = (ctx.before, after, ctx.before, after)
        wide = F.pad(gradient, margins) if ctx.before != after else gradient
        padding = 0 if ctx.before != after else ctx.before
        for_maps = F.conv2d(wide, weight, stride=2, padding=padding) if ctx.needs_input_grad[0] else None
        for_weight = conv2d_weight(wide, list(weight.shape), maps, stride=2, padding=padding)
        return for_maps, for_weight, gradient.sum(dim=(0, 2, 3)), None, None


def _phases(weight: Tensor, before: int) -> Tensor:
    """`(C, O, 3, 3)` → `(4·O, C, 2, 2)`, channels in the order (a, b, o): tap a + before − 2d reads the pixel p + d.

    Before = 0 has d in {−1, 0}, before = 1 has d in {0, 1}; taps outside of 0 … 2 are zero.
    """
    margin = (before, 1 - before)
    taps = F.pad(weight, (*margin, *margin)).unflatten(3, (2, 2)).unflatten(2, (2, 2))  # (C, O, u, a, v, b)
    # u counts against d
    return taps.flip(2, 4).permute(3, 5, 1, 0, 2, 4).flatten(0, 2).contiguous(memory_format=torch.channels_last)
