"""Convolutions of stride two that pad as TensorFlow's "SAME" does, for networks that were published in it.

A map of side n becomes one of side ⌈n/2⌉ and back; an odd pixel of padding goes to the right and the bottom, where
PyTorch's symmetric `padding` would put it on the left and the top.
"""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from gan.models.blocks.phase_convolution import phase_convolve

Initialisation = Literal["normal", "fan_in"]
PHASED = 64  # input channels, up to which the phases of a transposed convolution are faster than oneDNN's own


class SameConv2d(nn.Conv2d):
    """A convolution of stride 2: `(B, C, n, n)` → `(B, O, ⌈n/2⌉, ⌈n/2⌉)`."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=2)

    def forward(self, maps: Tensor) -> Tensor:
        side, kernel = maps.shape[-1], self.kernel_size[0]
        before, after = same_margins(side, kernel)
        if before == after:
            return F.conv2d(maps, self.weight, self.bias, stride=2, padding=before)
        return F.conv2d(F.pad(maps, (before, after, before, after)), self.weight, self.bias, stride=2)


class SameConvTranspose2d(nn.ConvTranspose2d):
    """The transpose of a `SameConv2d`: `(B, C, ⌈n/2⌉, ⌈n/2⌉)` → `(B, O, n, n)`, n given."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, side: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=2)
        self.side = side

    def forward(self, maps: Tensor, output_size: list[int] | None = None) -> Tensor:
        before, _ = same_margins(self.side, self.kernel_size[0])
        if self.kernel_size == (3, 3) and self.in_channels <= PHASED and maps.device.type == "cpu":
            assert self.bias is not None
            return phase_convolve(maps, self.weight, self.bias, before, self.side)
        wide = F.conv_transpose2d(maps, self.weight, self.bias, stride=2, padding=before)
        return wide[..., : self.side, : self.side]


def same_margins(side: int, kernel_size: int) -> tuple[int, int]:
    """Pixels that "SAME" adds before and after a map, for a convolution of stride 2."""
    total = max((-(-side // 2) - 1) * 2 + kernel_size - side, 0)
    return total // 2, total - total // 2


def initialise(network: nn.Module, initialisation: Initialisation) -> None:
    """All convolutions and linear layers of a network.

    Args:
        initialisation: `normal` for weights from N(0, 0.02²) and biases of zero (Radford et al. 2016); `fan_in` for
            both uniform up to 1/√fan_in (LeCun et al. 1998), as PyTorch's layers begin.
    """
    if initialisation == "fan_in":
        return
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
