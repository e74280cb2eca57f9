"""BigGAN (Brock et al. 2019, arXiv:1809.11096): SAGAN's blocks, wider, with the latents given to every block.

    c_k = [e(y), z_k],    BN(h) = (1 + W_g c_k) · (h − μ)/σ + W_b c_k                                              (1)

z = [z_0, z_1, …] in equal chunks, z_0 for the first map and z_k for block k (hierarchical latents); one embedding e for
all blocks (shared embedding). Widths are the paper's (table 4) at 128, those of its author's PyTorch code at 32 and 64.
"""

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gan.models.blocks.layers import Conv2d, Linear, ModulatedBatchNorm2d, initialise_orthogonally
from gan.models.blocks.residual import GeneratorBlock, ResidualBackbone, doubled_sides, halved_sides
from gan.models.interface import AttentionPlacement, Generator, attention_after

# The widths of the first map and of every block's output, as multiples of `width`.
_GENERATOR_WIDTHS = {32: (4, 4, 4, 4), 64: (16, 16, 8, 4, 2), 128: (16, 16, 8, 4, 2, 1)}
_BACKBONE_WIDTHS = {32: (4, 4, 4, 4), 64: (1, 2, 4, 8, 16), 128: (1, 2, 4, 8, 16, 16)}
_BACKBONE_HALVINGS = {32: 2, 64: 4, 128: 5}  # So many of the blocks, from the first, halve the map.


class LinearGain(Linear):
    """1 + W c."""

    def forward(self, condition: Tensor) -> Tensor:
        return 1 + super().forward(condition)


class ConditionedBatchNorm2d(ModulatedBatchNorm2d):
    """Batch normalisation with gain and bias linear in a condition, equation (1); an ordinary one where that is empty.

    Args:
        channels: of the maps.
        condition_dim: of the condition `(B, condition_dim)`, or 0.
        spectral_norm: divide W_g and W_b by their spectral norms.
    """

    def __init__(self, channels: int, condition_dim: int, *, spectral_norm: bool) -> None:
        if condition_dim == 0:
            super().__init__(channels, None)
        else:
            gain = LinearGain(condition_dim, channels, bias=False, spectral_norm=spectral_norm)
            bias = Linear(condition_dim, channels, bias=False, spectral_norm=spectral_norm)
            super().__init__(channels, (gain, bias))


class BigGANGenerator(Generator):
    """Latents `(B, latent_dim)` and labels `(B,)` or None → images `(B, channels, resolution, resolution)` in [−1, 1].

    Args:
        resolution: 32, 64 or 128.
        channels: of the images.
        width: ch, the channels of the last block at 128; of half of it at 64, of a quarter of all blocks at 32.
        latent_dim: Z; with hierarchical latents a multiple of the number of blocks and one.
        num_classes: of the labels, or None.
        attention: which one, and after which blocks, or None for none.
        hierarchical: give every block a chunk of the latents; else the first map is given all of them.
        shared_dim: size of the embedding that all batch normalisations share; None for a table of gains and biases in
            each of them, which is not spectrally normalised.

    Raises:
        ValueError: latent_dim or shared_dim does not fit.
    """

    resolutions = tuple(_GENERATOR_WIDTHS)

    def __init__(
        self,
        resolution: int = 32,
        channels: int = 3,
        width: int = 64,
        latent_dim: int = 128,
        num_classes: int | None = None,
        attention: AttentionPlacement | None = None,
        *,
        hierarchical: bool = True,
        shared_dim: int | None = 128,
    ) -> None:
        super().__init__()
        widths = [width * multiplier for multiplier in _GENERATOR_WIDTHS[resolution]]
        sides = self.attention_resolutions(resolution)
        slots = len(widths) if hierarchical else 1  # one for each block and one for the first map
        _check(latent_dim, slots, shared_dim)
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        self.slots = slots
        self.bottom = sides[0] // 2  # the side of the first map
        self.embedding: nn.Embedding | None = None
        condition_dim = num_classes or 0  # Labels are one-hot.
        if num_classes is not None and shared_dim is not None:
            self.embedding = nn.Embedding(num_classes, shared_dim)
            condition_dim = shared_dim
        tables = num_classes is not None and shared_dim is None
        condition_dim += latent_dim // slots if hierarchical else 0
        norm = partial(ConditionedBatchNorm2d, condition_dim=condition_dim, spectral_norm=not tables)
        self.project = Linear(latent_dim // slots, widths[0] * self.bottom**2, spectral_norm=True)
        self.blocks = nn.ModuleList(GeneratorBlock(i, o, norm, spectral_norm=True) for i, o in pairwise(widths))
        self.norm = nn.BatchNorm2d(widths[-1])
        self.to_image = Conv2d(widths[-1], channels, spectral_norm=True)
        initialise_orthogonally(self)
        self.attention = attention_after(attention, zip(widths[1:], sides, strict=True), spectral_norm=True)
        initialise_orthogonally(self.attention)

    @staticmethod
    def attention_resolutions(resolution: int) -> list[int]:
        return doubled_sides(resolution, len(_GENERATOR_WIDTHS[resolution]) - 1)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        first, *chunks = latents.chunk(self.slots, dim=1)
        if not chunks:
            chunks = [latents[:, :0]] * len(self.blocks)
        classes = self._embed(labels, latents)
        maps = self.project(first).unflatten(1, (-1, self.bottom, self.bottom))
        for block, attend, chunk in zip(self.blocks, self.attention, chunks, strict=True):
            maps = attend(block(maps, torch.cat([classes, chunk], dim=1)))
        return F.tanh(self.to_image(F.relu(self.norm(maps))))

    def _embed(self, labels: Tensor | None, latents: Tensor) -> Tensor:
        """What all blocks are told of the classes: e(y), one-hot labels, or nothing `(B, 0)`."""
        if self.num_classes is None or labels is None:
            return latents[:, :0]
        if self.embedding is not None:
            return self.embedding(labels)
        return F.one_hot(labels, self.num_classes).to(latents.dtype)


def _check(latent_dim: int, slots: int, shared_dim: int | None) -> None:
    if latent_dim % slots:
        accepted = f"a multiple of {slots} (blocks and first map) accepted with hierarchical: true"
        raise ValueError(f"latent_dim: {latent_dim} found, {accepted}")
    if shared_dim is not None and shared_dim < 1:
        raise ValueError(f"shared_dim: {shared_dim} found, 1 or more or null accepted")


class BigGANBackbone(ResidualBackbone):
    """Images `(B, channels, resolution, resolution)` → features `(B, out_features)` by global sum pooling.

    Args:
        resolution: 32, 64 or 128.
        channels: of the images.
        width: ch, the channels of the first block; of a quarter of all blocks at 32.
        attention: which one, and after which blocks, or None for none.
    """

    resolutions = tuple(_BACKBONE_WIDTHS)

    def __init__(
        self, resolution: int = 32, channels: int = 3, width: int = 64, attention: AttentionPlacement | None = None
    ) -> None:
        widths = [width * multiplier for multiplier in _BACKBONE_WIDTHS[resolution]]
        super().__init__(channels, widths, self.attention_resolutions(resolution), attention, orthogonal=True)

    @staticmethod
    def attention_resolutions(resolution: int) -> list[int]:
        return halved_sides(resolution, len(_BACKBONE_WIDTHS[resolution]), _BACKBONE_HALVINGS[resolution])
