"""Settings that move while training goes on, by the number of real images that it has seen."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Motion:
    """From `start` to `end` over the first `images` real images; there they stay.

    Args:
        start, end: the numbers of a setting, most have one.
        images: over how many.
        shape: `cosine`, half of one, slow at both ends (Loshchilov & Hutter 2017, arXiv:1608.03983, equation 5), or
            `linear`.
        apply: puts the numbers where training reads them.
    """

    start: Sequence[float]
    end: Sequence[float]
    images: int
    shape: Literal["cosine", "linear"]
    apply: Callable[..., object]

    def at(self, seen: int) -> list[float]:
        """The numbers after so many images."""
        share = min(1.0, seen / self.images)
        moved = share if self.shape == "linear" else (1 - math.cos(math.pi * share)) / 2
        return [a + (b - a) * moved for a, b in zip(self.start, self.end, strict=True)]
