"""Images from a generator: seeded, in evaluation mode, the same whatever the batch size and the device."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

_CHUNK = 256  # latents drawn at a time, so that how they are asked for does not change them


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


@torch.no_grad()
def generate(
    generator: nn.Module,
    latents: Tensor,
    labels: Tensor | None,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Tensor:
    """Images `(n, C, H, W)` float32 in [−1, 1] from `generator` in evaluation mode, on the device of its parameters.

    The generator's mode is put back afterwards; nothing else of it changes.
    """
    device = next(generator.parameters()).device
    training = generator.training
    generator.eval()
    try:
        with autocast():
            images = generator(latents.to(device), None if labels is None else labels.to(device))
    finally:
        generator.train(training)
    return images.float()
