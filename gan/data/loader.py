"""From the store to the device: batches gathered, flipped and normalised where they are used."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gan.data.image_store import ImageStore
from gan.data.recipe import Labels, Pixels
from gan.data.sampler import Sampler
from gan.seeds import seeded_generator

RESIDENT_LIMIT = 2 * 2**30  # bytes: up to here a set is held on the device


def to_float(images: Tensor) -> Tensor:
    """uint8 of any shape → float32 in [−1, 1]: 0 → −1 and 255 → 1 exactly; the memory layout is kept."""
    # one inexact step, and no division, which CUDA rounds otherwise than the CPU: the same bits on every device
    return (images.to(torch.float32) * 2 - 255) * (1 / 255)


@dataclass(frozen=True)
class _Order:
    """One batch that is drawn but not yet delivered, and the state before it was drawn."""

    state: dict[str, Any]
    indices: Tensor  # int64 (B,), on the CPU
    flips: Tensor | None  # bool (B,), on the CPU
    gathered: Future[Tensor] | None  # uint8 (B, H, W, C) on the CPU, when streamed


class Loader:
    """Endless shuffled batches of `store` on `device`, resumable to the bit.

    A set of up to 2 GiB (or any, with `resident=True`) is held on the device as one uint8 tensor; a larger one is
    gathered from its memory map by a thread that stays one batch ahead. Both give the same batches. `batch_size` is
    that of one rank; flips come from a generator of their own, so turning them off does not change the order.
    """

    def __init__(
        self,
        store: ImageStore,
        batch_size: int,
        device: torch.device | str,
        *,
        flip: bool,
        seed: int,
        resident: bool | None = None,
        channels_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.device = torch.device(device)
        self.sampler = Sampler(store.num_images, batch_size, seed, rank=rank, world_size=world_size)
        self._flip_generator = seeded_generator(seed, "flips") if flip else None
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self._store = store
        self.resident = store.images.nbytes <= RESIDENT_LIMIT if resident is None else resident
        self._images = torch.from_numpy(np.array(store.images)).to(self.device) if self.resident else None
        self._labels = None if store.labels is None else torch.from_numpy(np.array(store.labels)).to(self.device)
        self._thread = None if self.resident else ThreadPoolExecutor(1, "images", initializer=self._enter_thread)
        self._pending: _Order | None = None

    def next_batch(self) -> tuple[Tensor, Tensor | None]:
        """Images float32 (B, C, H, W) in [−1, 1], and labels int64 (B,) or None, both on the device."""
        order = self._pending or self._draw()
        self._pending = None if self.resident else self._draw()
        indices = sent(order.indices, self.device)
        if self._images is not None:
            images = self._images[indices]
        else:
            assert order.gathered is not None
            images = order.gathered.result().to(self.device, non_blocking=True)
        images = images.permute(0, 3, 1, 2)  # (B, H, W, C) → (B, C, H, W)
        if order.flips is not None:
            images = torch.where(sent(order.flips, self.device)[:, None, None, None], images.flip(3), images)
        labels = None if self._labels is None else self._labels[indices]
        return to_float(images.contiguous(memory_format=self._layout)), labels

    def state_dict(self) -> dict[str, Any]:
        """The state of the next batch to be delivered, whatever has been prefetched: the same on every rank."""
        return self._state() if self._pending is None else self._pending.state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Deliver next what the loader that gave `state` would have delivered next.

        Raises:
            ValueError: the state is of another set of images, or of a loader that flips where this one does not.
        """
        if (state["flip"] is None) != (self._flip_generator is None):
            raise ValueError("one of the state and the loader has flips, the other has not")
        self._pending = None
        self.sampler.load_state_dict(state["sampler"])
        if self._flip_generator is not None:
            self._flip_generator.set_state(state["flip"].cpu())

    def _state(self) -> dict[str, Any]:
        flip = None if self._flip_generator is None else self._flip_generator.get_state()
        return {"sampler": self.sampler.state_dict(), "flip": flip}

    def _draw(self) -> _Order:
        state = self._state()
        indices = self.sampler.next_indices()
        flips = None
        if self._flip_generator is not None:
            sampler = self.sampler
            everyone = torch.rand(sampler.world_size, sampler.batch_size, generator=self._flip_generator)
            flips = everyone[sampler.rank] < 0.5
        gathered = None
        if self._thread is not None:
            pinned = self.device.type == "cuda"
            gathered = self._thread.submit(gather, self._store.images, indices.numpy(), pinned=pinned)
        return _Order(state, indices, flips, gathered)

    def _enter_thread(self) -> None:
        if self.device.type == "cuda":  # pinning in a thread would otherwise open a context on GPU 0
            torch.cuda.set_device(self.device)


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Small CPU values on the device, without waiting for it: only from pinned memory is the copy asynchronous."""
    if device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def gather(images: Pixels, indices: Labels, *, pinned: bool = False) -> Tensor:
    """Images (N, H, W, C) at `indices` (B,) as a uint8 (B, H, W, C) tensor; the map is read in ascending order."""
    batch = torch.empty((len(indices), *images.shape[1:]), dtype=torch.uint8, pin_memory=pinned)
    order = np.argsort(indices, kind="stable")
    batch.numpy()[order] = images[indices[order]]
    return batch


def real_batch(
    store: ImageStore, count: int, seed: int = 0, wanted: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """A fixed choice of `count` images for grids: float32 (count, C, H, W) in [−1, 1], labels int64 (count,) or None.

    With labels the classes come in order and in equal numbers, or evenly spaced when they outnumber `count`; a class
    with too few images repeats them.

    Args:
        wanted: the label of each image, of a labelled set; those of classes that have no image are left out.

    Raises:
        ValueError: without labels, `count` exceeds the number of images.
    """
    generator = seeded_generator(seed, "real images")
    if store.labels is None:
        if count > store.num_images:
            raise ValueError(f"{count} images asked for, {store.num_images} there")
        indices = torch.randperm(store.num_images, generator=generator)[:count].numpy()
        return to_float(gather(store.images, indices).permute(0, 3, 1, 2)).contiguous(), None
    present = np.unique(store.labels)
    chosen = present[np.arange(count) * len(present) // count] if wanted is None else wanted.numpy()
    chosen = chosen[np.isin(chosen, present)]
    indices = np.empty(len(chosen), dtype=np.int64)
    for label in np.unique(chosen):
        slots, members = np.flatnonzero(chosen == label), np.flatnonzero(store.labels == label)
        shuffled = members[torch.randperm(len(members), generator=generator).numpy()]
        indices[slots] = np.resize(shuffled, len(slots))
    images = to_float(gather(store.images, indices).permute(0, 3, 1, 2)).contiguous()
    return images, torch.from_numpy(store.labels[indices])
