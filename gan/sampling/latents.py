"""Latents of samples: those that evaluation draws, and the truncated normal of BigGAN."""

import torch
from torch import Tensor

from gan.models.sampling import LatentStream
from gan.seeds import seeded_generator

SMALLEST_TRUNCATION = 0.01  # below, resampling would take hundreds of draws a value
_CHUNK = 65536


class SampleLatents:
    """An endless stream of latents and labels; how many are asked for at a time does not change them.

    Without truncation it is the stream that `evaluate.py checkpoint` draws from at this seed. With truncation t, values
    beyond ±t are drawn again until they are within (Brock et al. 2019, arXiv:1809.11096, section 3.1); the others stay.

    Args:
        latent_dim: Z.
        num_classes: of the labels, or None for no labels.
        seed: of everything drawn.
        truncation: t, at least `SMALLEST_TRUNCATION`, or None.
    """

    def __init__(self, latent_dim: int, num_classes: int | None, seed: int, truncation: float | None = None) -> None:
        self._stream = LatentStream(latent_dim, num_classes, seeded_generator(seed, "evaluation"))
        self._truncation = truncation
        self._random = seeded_generator(seed, "truncation")
        self._within = torch.empty(0)

    def next(self, count: int) -> tuple[Tensor, Tensor | None]:
        """The next `count` latents `(count, Z)` and uniform labels `(count,)`, None without classes."""
        latents, labels = self._stream.next(count)
        if self._truncation is None:
            return latents, labels
        beyond = latents.abs() > self._truncation
        latents = latents.clone()
        latents[beyond] = self._draw_within(int(beyond.sum()), self._truncation)
        return latents, labels

    def _draw_within(self, count: int, truncation: float) -> Tensor:
        """The next `count` normal values within ±truncation."""
        found = [self._within]
        while sum(map(len, found)) < count:
            drawn = torch.randn(_CHUNK, generator=self._random)
            found.append(drawn[drawn.abs() <= truncation])
        values = torch.cat(found)
        self._within = values[count:]
        return values[:count]
