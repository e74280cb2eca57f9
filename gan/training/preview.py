"""What the sample grids of a run show."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from gan.metrics.images import rounded
from gan.pictures import named_rows, tile


@dataclass(frozen=True)
class Preview:
    """Latents `(n, Z)` and, of classes, labels `(n,)`, those of a class side by side; the same all through a run.

    `class_names` has a name for each label.
    """

    latents: Tensor
    labels: Tensor | None
    class_names: Sequence[str]

    def arrange(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Images `(n, C, H, W)` in [−1, 1] as one picture uint8 `(C, H', W')`: about square, or a named class a row."""
        pixels = rounded(images).cpu()
        if labels is None:
            return tile(pixels, math.ceil(math.sqrt(len(pixels))))
        return named_rows(pixels, labels.tolist(), self.class_names)
