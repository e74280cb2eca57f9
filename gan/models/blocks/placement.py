"""Where in a network attention goes: after the block that reaches a resolution."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from torch import nn


class BuildAttention(Protocol):
    """What makes one attention module: maps `(B, channels, height, width)` → the same shape."""

    def __call__(self, channels: int, height: int, width: int, *, spectral_norm: bool) -> nn.Module: ...


@dataclass(frozen=True)
class Placement:
    """Attention wherever a network first reaches one of `resolutions` (sides of its maps)."""

    resolutions: tuple[int, ...]
    build: BuildAttention


def attention_after(
    placement: Placement | None, maps: Iterable[tuple[int, int]], *, spectral_norm: bool
) -> nn.ModuleList:
    """One module for each block: attention after the first block that reaches a wanted resolution, else the identity.

    Networks call it last, so that their other initial weights are the same with attention and without.

    Args:
        placement: what to put where, or None for nothing.
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
