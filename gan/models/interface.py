"""What a generator and a backbone are, as `heads/interface.py` says it of a head, and how they come by attention."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from torch import nn


class Network(nn.Module):
    """What generators and backbones both state of themselves: the sizes of images and of maps that they are made for.

    Their constructors take these as keywords, and all others are options, checked against the signature:

        resolution   side of the images, one of `resolutions`
        channels     of the images
        width        a factor of the channels of all layers
        attention    an `AttentionPlacement` or None; only where `attention_resolutions` names a side
    """

    resolutions: tuple[int, ...]

    @staticmethod
    def attention_resolutions(resolution: int) -> list[int]:
        """Sides of the maps that attention can follow, block by block; none for a network that takes no attention."""
        return []


class Generator(Network):
    """Latents `(B, latent_dim)` and labels `(B,)` or None → images `(B, channels, resolution, resolution)` in [−1, 1].

    The constructor also takes `latent_dim`, and `num_classes`, which is None where there are no labels.
    """

    latent_dim: int
    num_classes: int | None


class Backbone(Network):
    """Images `(B, channels, resolution, resolution)` → features `(B, out_features)`."""

    out_features: int


class BuildAttention(Protocol):
    """What makes one attention module: maps `(B, channels, height, width)` → the same shape."""

    def __call__(self, channels: int, height: int, width: int, *, spectral_norm: bool) -> nn.Module: ...


@dataclass(frozen=True)
class AttentionPlacement:
    """Attention wherever a network first reaches one of `resolutions` (sides of its maps)."""

    resolutions: tuple[int, ...]
    build: BuildAttention


def attention_after(
    placement: AttentionPlacement | None, maps: Iterable[tuple[int, int]], *, spectral_norm: bool
) -> nn.ModuleList:
    """One module for each block: attention after the first block that reaches a wanted resolution, else the identity.

    Networks call it last, so that their other initial weights are the same with attention and without.

    Args:
        placement: which attention, and after which blocks, or None for none.
        maps: (channels, side) of each block's output.
        spectral_norm: whether the network divides its weights by their spectral norm.
    """
    wanted = set(placement.resolutions) if placement else set()
    modules = nn.ModuleList()
    for channels, side in maps:
        if placement is not None and side in wanted:
            modules.append(placement.build(channels, side, side, spectral_norm=spectral_norm))
            wanted.remove(side)
        else:
            modules.append(nn.Identity())
    return modules
