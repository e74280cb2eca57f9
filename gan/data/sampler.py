"""The order in which images are seen: a new permutation each epoch, each image exactly once in it."""

from collections.abc import Mapping

import torch
from torch import Tensor

from gan.seeds import seeded_generator


class Sampler:
    """Endless batches of indices; batches run on over the end of an epoch, so no image is dropped or seen twice in one.

    Epoch e is `randperm` under a generator seeded by (seed, e), so the state is two integers. With `world_size` > 1
    the batch of all ranks together is drawn and each rank keeps its own part: the state is the same on every rank.
    """

    def __init__(self, num_images: int, batch_size: int, seed: int, *, rank: int = 0, world_size: int = 1) -> None:
        if num_images < 1 or batch_size < 1 or not 0 <= rank < world_size:
            raise ValueError(f"{num_images} images, batch size {batch_size}, rank {rank} of {world_size}")
        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.position = 0  # in the epoch, of the next index
        self._order = self._permutation()

    def next_indices(self) -> Tensor:
        """The next int64 (batch_size,) indices of this rank."""
        parts: list[Tensor] = []
        missing = self.batch_size * self.world_size
        while missing > 0:
            part = self._order[self.position : self.position + missing]
            parts.append(part)
            missing -= len(part)
            self.position += len(part)
            if self.position == self.num_images:
                self.epoch, self.position = self.epoch + 1, 0
                self._order = self._permutation()
        return torch.cat(parts)[self.rank * self.batch_size : (self.rank + 1) * self.batch_size]

    def state_dict(self) -> dict[str, int]:
        """Epoch and position of the next index."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where `state` was taken.

        Raises:
            ValueError: the position lies outside of this set of images.
        """
        epoch, position = state["epoch"], state["position"]
        if type(epoch) is not int or type(position) is not int or epoch < 0 or not 0 <= position < self.num_images:
            raise ValueError(f"epoch {epoch}, position {position} with {self.num_images} images")
        self.epoch, self.position = epoch, position
        self._order = self._permutation()

    def _permutation(self) -> Tensor:
        return torch.randperm(self.num_images, generator=seeded_generator(self.seed, "epoch", self.epoch))
