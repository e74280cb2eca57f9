"""Stacked MNIST: three digits in the colour channels, drawn as they are needed.

There are 60,000³ images of 1,000 classes, so none is stored: the single digits are prepared, and each image of a batch
is three of them, drawn with replacement (Metz et al. 2017, arXiv:1611.02163; Lin et al. 2018, arXiv:1712.04086).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gan.data.image_store import ImageStore
from gan.data.loader import sent, to_float
from gan.data.recipe import Labels, Pixels
from gan.seeds import seeded_generator

PLACES = (100, 10, 1)  # of the red, the green and the blue digit in a label
FIXED_COUNT = 25_600  # images of the fixed sample: as many as are generated to be measured
SEED = 0  # of the fixed sample, which is part of what the source is


def compose(digits: ImageStore) -> ImageStore:
    """A fixed sample of triples (FIXED_COUNT, R, R, 3), for grids and to measure against; `parts` are the digits.

    Classes are 100·red + 10·green + blue.
    """
    assert digits.labels is not None
    chosen = np.random.default_rng(SEED).integers(digits.num_images, size=(FIXED_COUNT, len(PLACES)))
    identity = f"stacked {SEED} {FIXED_COUNT} {digits.content_hash}"
    return replace(
        digits,
        images=_stack(digits.images, chosen),
        labels=np.asarray(digits.labels)[chosen] @ np.array(PLACES),
        class_names=tuple(f"{label:03d}" for label in range(1000)),
        content_hash=hashlib.sha256(identity.encode()).hexdigest(),
        parts=digits,
    )


def triple_shares(labels: Labels) -> NDArray[np.float64]:
    """The probability (1000,) of each class among triples of digits with these labels (N,)."""
    shares = np.bincount(labels, minlength=10) / len(labels)
    return np.einsum("r,g,b->rgb", shares, shares, shares).ravel()


class StackedLoader:
    """Endless batches of triples of `store.parts` on `device`, resumable to the bit.

    Batch k is drawn by a generator seeded by (seed, k), so the state is one integer. With `world_size` > 1 the batch of
    all ranks is drawn and each rank keeps its own rows. `batch_size` is that of one rank.
    """

    def __init__(
        self,
        store: ImageStore,
        batch_size: int,
        device: torch.device | str,
        *,
        seed: int,
        channels_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        digits = store.parts
        if digits is None or digits.labels is None or batch_size < 1 or not 0 <= rank < world_size:
            raise ValueError(f"{store.source} has no digits, or batch size {batch_size}, rank {rank} of {world_size}")
        self.device = torch.device(device)
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.batch = 0  # the next one's number
        self._side = digits.resolution
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self._digits = torch.from_numpy(np.array(digits.images)).flatten(1).to(self.device)  # (N, R²)
        self._labels = torch.from_numpy(np.array(digits.labels)).to(self.device)
        self._places = torch.tensor(PLACES, device=self.device)

    def next_batch(self) -> tuple[Tensor, Tensor]:
        """Images float32 (B, 3, R, R) in [−1, 1] and labels int64 (B,), both on the device."""
        shape = (self.world_size, self.batch_size, len(PLACES))
        everyone = torch.randint(len(self._digits), shape, generator=seeded_generator(self.seed, self.batch))
        self.batch += 1
        chosen = sent(everyone[self.rank], self.device)
        images = self._digits[chosen.flatten()].view(-1, len(PLACES), self._side, self._side)
        labels = (self._labels[chosen] * self._places).sum(1)
        return to_float(images.contiguous(memory_format=self._layout)), labels

    def state_dict(self) -> dict[str, Any]:
        """The number of the next batch: the same on every rank."""
        return {"batch": self.batch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Deliver next what the loader that gave `state` would have delivered next.

        Raises:
            ValueError: it is no state of such a loader.
        """
        if state.keys() != {"batch"} or state["batch"] < 0:
            raise ValueError(f"state {dict(state)} found, a batch of at least 0 accepted")
        self.batch = state["batch"]


def _stack(digits: Pixels, chosen: Labels) -> Pixels:
    """Digits (N, R, R, 1) and indices (n, 3) → (n, R, R, 3)."""
    images = np.empty((len(chosen), *digits.shape[1:3], chosen.shape[1]), dtype=np.uint8)
    for channel, rows in enumerate(chosen.T):
        images[..., channel] = digits[rows, ..., 0]
    return images
