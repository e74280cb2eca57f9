"""The small networks of stacked MNIST (Metz et al. 2017, arXiv:1611.02163, appendix F), as PacGAN's code has them.

Generator 64-32-16-8 channels with 3×3 kernels; discriminators of half and a quarter of its size, batch-normalised in
every layer (Lin et al. 2018, arXiv:1712.04086; fjxmlzn/PacGAN, stacked_MNIST_experiments/unrolled_GAN_experiment).
"""

from torch import Tensor, nn
from torch.nn import functional as F

from gan.models.blocks.layers import ConditionalBatchNorm2d
from gan.models.blocks.same_padding import Initialisation, SameConv2d, SameConvTranspose2d, initialise
from gan.models.interface import Backbone, Generator

BOTTOM = 4  # side of the smallest map
SIDES = {28: (7, 14, 28), 32: (8, 16, 32)}  # of the maps above it
SLOPE = 0.3  # of leaky ReLU below 0


class UnrolledDCGANGenerator(Generator):
    """Latents `(B, latent_dim)` and labels `(B,)` or None → images `(B, channels, resolution, resolution)` in [−1, 1].

    Args:
        resolution: 28 or 32.
        channels: of the images.
        width: channels of the largest map; published: 8.
        latent_dim: Z; published: 256.
        num_classes: for class-conditional batch normalisation, or None.
        initialisation: of convolutions and the projection, see `initialise`; published: normal.
    """

    resolutions = tuple(SIDES)

    def __init__(
        self,
        resolution: int = 28,
        channels: int = 3,
        width: int = 8,
        latent_dim: int = 256,
        num_classes: int | None = None,
        initialisation: Initialisation = "normal",
    ) -> None:
        super().__init__()
        widths = [8 * width, 4 * width, 2 * width, width]
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        self.project = nn.Linear(latent_dim, widths[0] * BOTTOM**2)
        self.norms = nn.ModuleList(ConditionalBatchNorm2d(w, num_classes) for w in widths)
        self.convs = nn.ModuleList(
            SameConvTranspose2d(i, o, 3, side)
            for i, o, side in zip(widths, widths[1:], SIDES[resolution], strict=False)
        )
        self.to_image = nn.Conv2d(width, channels, 3, padding=1)
        initialise(self, initialisation)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        maps = self.project(latents).unflatten(1, (-1, BOTTOM, BOTTOM))
        for norm, conv in zip(self.norms, self.convs, strict=False):
            maps = conv(F.relu(norm(maps, labels)))
        return F.tanh(self.to_image(F.relu(self.norms[-1](maps, labels))))


class UnrolledDCGANBackbone(Backbone):
    """Images `(B, channels, resolution, resolution)` → the flattened last map of 4×4, `(B, out_features)`.

    Args:
        resolution: 28 or 32.
        channels: of the images.
        width: channels of the first map; published: 4 for half the generator's size, 2 for a quarter.
        initialisation: of convolutions, see `initialise`; published: normal.
    """

    resolutions = tuple(SIDES)

    def __init__(
        self,
        resolution: int = 28,
        channels: int = 3,
        width: int = 4,
        initialisation: Initialisation = "normal",
    ) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width]
        self.convs = nn.ModuleList(SameConv2d(i, o, 3) for i, o in zip([channels, *widths], widths, strict=False))
        self.norms = nn.ModuleList(nn.BatchNorm2d(w) for w in widths)
        self.out_features = widths[-1] * BOTTOM**2
        initialise(self, initialisation)

    def forward(self, images: Tensor) -> Tensor:
        maps = images
        for conv, norm in zip(self.convs, self.norms, strict=True):
            maps = F.leaky_relu(norm(conv(maps)), SLOPE)
        return maps.flatten(1)
