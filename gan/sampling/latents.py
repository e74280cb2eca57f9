"""Latents and labels of samples: seeded, the same on every device and however many are asked for at a time."""

import torch
from torch import Tensor

from gan.seeds import seeded_generator

SMALLEST_TRUNCATION = 0.01  # below, resampling would take hundreds of draws a value
_CHUNK = 256  # latents drawn at a time, so that how they are asked for does not change them
_TRUNCATED_CHUNK = 65536


class LatentStream:
    """An endless stream of latents `(n, latent_dim)` from N(0, 1) and, with classes, of uniform labels `(n,)`.

    Args:
        latent_dim: Z.
        num_classes: of the labels, or None for no labels.
        random: the generator to draw from; it lives on the CPU, so all devices are given the same numbers.
    """

    def __init__(self, latent_dim: int, num_classes: int | None, random: torch.Generator) -> None:
        self._shape = (_CHUNK, latent_dim)
        self._num_classes = num_classes
        self._random = random
        self._latents = torch.empty(0, latent_dim)
        self._labels = torch.empty(0, dtype=torch.int64)

    def next(self, count: int) -> tuple[Tensor, Tensor | None]:
        """The next `count` latents and labels (None without classes)."""
        while len(self._latents) < count:
            self._latents = torch.cat([self._latents, torch.randn(self._shape, generator=self._random)])
            if self._num_classes:
                labels = torch.randint(self._num_classes, (_CHUNK,), generator=self._random)
                self._labels = torch.cat([self._labels, labels])
        latents, self._latents = self._latents[:count], self._latents[count:]
        labels, self._labels = self._labels[:count], self._labels[count:]
        return latents, labels if self._num_classes else None


def evaluation_latents(latent_dim: int, num_classes: int | None, seed: int) -> LatentStream:
    """The stream that `evaluate.py checkpoint` draws from at this seed."""
    return LatentStream(latent_dim, num_classes, seeded_generator(seed, "evaluation"))


class Truncation:
    """The truncated normal of BigGAN: values beyond ±t are drawn again until they are within; the others stay
    (Brock et al. 2019, arXiv:1809.11096, section 3.1).

    Args:
        threshold: t, at least `SMALLEST_TRUNCATION`.
        seed: of what is drawn again.
    """

    def __init__(self, threshold: float, seed: int) -> None:
        self._threshold = threshold
        self._random = seeded_generator(seed, "truncation")
        self._within = torch.empty(0)

    def __call__(self, latents: Tensor) -> Tensor:
        """The next latents `(n, Z)` of a stream, truncated."""
        beyond = latents.abs() > self._threshold
        latents = latents.clone()
        latents[beyond] = self._draw_within(int(beyond.sum()))
        return latents

    def _draw_within(self, count: int) -> Tensor:
        """The next `count` normal values within ±t."""
        found = [self._within]
        while sum(map(len, found)) < count:
            drawn = torch.randn(_TRUNCATED_CHUNK, generator=self._random)
            found.append(drawn[drawn.abs() <= self._threshold])
        values = torch.cat(found)
        self._within = values[count:]
        return values[:count]
