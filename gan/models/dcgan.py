"""DCGAN (Radford et al. 2016, arXiv:1511.06434): strided 4×4 convolutions, spectrally normalised in D.

Widths double with every halving of the map, from `width` at half the resolution.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from gan.models.blocks.layers import ConditionalBatchNorm2d, Linear
from gan.models.blocks.spectral_norm import SpectralNorm
from gan.models.interface import Backbone, Generator

_HALVINGS = {32: 3, 48: 3, 64: 4, 128: 5}  # They end at a map of 4×4, or of 6×6 from 48.


class DCGANGenerator(Generator):
    """Latents `(B, latent_dim)` and labels `(B,)` or None → images `(B, channels, resolution, resolution)` in [−1, 1].

    Args:
        resolution: 32, 48, 64 or 128.
        channels: of the images.
        width: channels of the largest map.
        latent_dim: Z.
        num_classes: for class-conditional batch normalisation, or None.
    """

    resolutions = tuple(_HALVINGS)

    def __init__(
        self,
        resolution: int = 32,
        channels: int = 3,
        width: int = 64,
        latent_dim: int = 128,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        halvings = _HALVINGS[resolution]
        widths = [width << level for level in reversed(range(halvings))]
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        self.bottom = resolution >> halvings  # the side of the first map
        self.project = Linear(latent_dim, widths[0] * self.bottom**2)
        self.norms = nn.ModuleList(ConditionalBatchNorm2d(w, num_classes) for w in widths)
        self.convs = nn.ModuleList(
            nn.ConvTranspose2d(i, o, 4, stride=2, padding=1)
            for i, o in zip(widths, [*widths[1:], channels], strict=True)
        )
        self.convs.apply(_initialise)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        maps = self.project(latents).unflatten(1, (-1, self.bottom, self.bottom))
        for norm, conv in zip(self.norms, self.convs, strict=True):
            maps = conv(F.relu(norm(maps, labels)))
        return F.tanh(maps)


class StridedConv2d(nn.Conv2d):
    """A spectrally normalised 4×4 convolution of stride 2: `(B, C, 2H, 2W)` → `(B, O, H, W)`."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 4, stride=2, padding=1)
        _initialise(self)
        self.spectral_norm = SpectralNorm(self.weight)

    def forward(self, maps: Tensor) -> Tensor:
        return F.conv2d(maps, self.spectral_norm(self.weight), self.bias, stride=2, padding=1)


class DCGANBackbone(Backbone):
    """Images `(B, channels, resolution, resolution)` → the flattened last map, `(B, out_features)`.

    Args:
        resolution: 32, 48, 64 or 128.
        channels: of the images.
        width: channels of the first map.
    """

    resolutions = tuple(_HALVINGS)

    def __init__(self, resolution: int = 32, channels: int = 3, width: int = 64) -> None:
        super().__init__()
        halvings = _HALVINGS[resolution]
        widths = [width << level for level in range(halvings)]
        self.convs = nn.ModuleList(StridedConv2d(i, o) for i, o in zip([channels, *widths], widths, strict=False))
        self.out_features = widths[-1] * (resolution >> halvings) ** 2

    def forward(self, images: Tensor) -> Tensor:
        maps = images
        for conv in self.convs:
            maps = F.leaky_relu(conv(maps), 0.2)
        return maps.flatten(1)


def _initialise(module: nn.Module) -> None:
    """Convolution weights from N(0, 0.02²), biases zero, as published."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
