"""The DCGAN of VEEGAN's protocol on stacked MNIST, as PacGAN's code has it: 5×5 kernels, batch normalisation in D.

Srivastava et al. 2017, arXiv:1705.07761; Lin et al. 2018, arXiv:1712.04086, appendix; fjxmlzn/PacGAN,
stacked_MNIST_experiments/VEEGAN_experiment.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from gan.models.blocks.layers import ConditionalBatchNorm2d
from gan.models.blocks.same_padding import SameConv2d, SameConvTranspose2d, initialise
from gan.models.interface import Backbone, Generator

BOTTOM = 2  # side of the smallest map
SIDES = {28: (4, 7, 14, 28), 32: (4, 8, 16, 32)}  # of the maps above it
SLOPE = 0.2  # of leaky ReLU below 0


class VEEGANGenerator(Generator):
    """Latents `(B, latent_dim)` and labels `(B,)` or None → images `(B, channels, resolution, resolution)` in [−1, 1].

    Args:
        resolution: 28 or 32.
        channels: of the images.
        width: channels of the largest hidden map; published: 64.
        latent_dim: Z; published: 100.
        num_classes: for class-conditional batch normalisation, or None.
    """

    resolutions = tuple(SIDES)

    def __init__(
        self,
        resolution: int = 28,
        channels: int = 3,
        width: int = 64,
        latent_dim: int = 100,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        widths = [8 * width, 4 * width, 2 * width, width]
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        self.project = nn.Linear(latent_dim, widths[0] * BOTTOM**2)
        self.norms = nn.ModuleList(ConditionalBatchNorm2d(w, num_classes) for w in widths)
        self.convs = nn.ModuleList(
            SameConvTranspose2d(i, o, 5, side)
            for i, o, side in zip(widths, [*widths[1:], channels], SIDES[resolution], strict=True)
        )
        initialise(self, "normal")

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        maps = self.project(latents).unflatten(1, (-1, BOTTOM, BOTTOM))
        for norm, conv in zip(self.norms, self.convs, strict=True):
            maps = conv(F.relu(norm(maps, labels)))
        return F.tanh(maps)


class VEEGANBackbone(Backbone):
    """Images `(B, channels, resolution, resolution)` → the flattened last map of 2×2, `(B, out_features)`.

    Args:
        resolution: 28 or 32.
        channels: of the images.
        width: channels of the first map; published: 64.
    """

    resolutions = tuple(SIDES)

    def __init__(self, resolution: int = 28, channels: int = 3, width: int = 64) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.convs = nn.ModuleList(SameConv2d(i, o, 5) for i, o in zip([channels, *widths], widths, strict=False))
        self.norms = nn.ModuleList(nn.Identity() if w == width else nn.BatchNorm2d(w) for w in widths)
        self.out_features = widths[-1] * BOTTOM**2
        initialise(self, "normal")

    def forward(self, images: Tensor) -> Tensor:
        maps = images
        for conv, norm in zip(self.convs, self.norms, strict=True):
            maps = F.leaky_relu(norm(conv(maps)), SLOPE)
        return maps.flatten(1)
