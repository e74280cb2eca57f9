"""Who makes the images that a step is played with: each player's own latents, or the same images for both."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Fakes:
    """Latents `(B, Z)` and labels `(B,)` or None → G's images for either player's step.

    Args:
        generator: G.
        shared: both players' steps are given the same latents, D's first. G does not change between them, so its images
            and their graph are made once.
        update_spectral_norms: of G.
    """

    def __init__(self, generator: nn.Module, shared: bool, update_spectral_norms: Callable[[nn.Module], None]) -> None:
        self.shared = shared
        self._generator = generator
        self._update_spectral_norms = update_spectral_norms
        self._kept: Tensor | None = None

    def for_discriminator(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Images that no gradient flows through."""
        if self.shared:  # here, for the graph is to keep the σ that it was made with
            self._update_spectral_norms(self._generator)
        with torch.set_grad_enabled(self.shared):
            images = self._generator(latents, labels)
        self._kept = images if self.shared else None
        return images.detach()

    def for_generator(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Images whose gradient reaches G."""
        kept, self._kept = self._kept, None
        return self._generator(latents, labels) if kept is None else kept
