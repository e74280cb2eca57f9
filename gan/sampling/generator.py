"""A trained generator as its users see it: numbers in, images out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gan.config import Config
from gan.device import make_autocast, resolve_device, resolve_precision
from gan.errors import UserError
from gan.metrics.images import to_uint8
from gan.models.sampling import generate
from gan.sampling.description import Description
from gan.sampling.latents import SMALLEST_TRUNCATION, SampleLatents


@dataclass(frozen=True)
class Batch:
    """Latents `(n, Z)` and labels `(n,)` or None, on the CPU; `start` is the place of the first among all."""

    start: int
    latents: Tensor
    labels: Tensor | None


class LoadedGenerator:
    """A generator in evaluation mode, with what it was trained by.

    Args:
        network: latents `(B, Z)` and labels `(B,)` or None → images `(B, C, H, W)` in [−1, 1].
        config: of its run.
        description: what else is known of it.
    """

    def __init__(self, network: nn.Module, config: Config, description: Description) -> None:
        self.network = network.eval().requires_grad_(False)
        self.config = config
        self.description = description
        self.latent_dim = description.latent_dim
        self.num_classes = description.num_classes
        self.class_names = description.class_names

    @property
    def device(self) -> torch.device:
        """Where images are computed."""
        return next(self.network.parameters()).device

    def to(self, device: str) -> "LoadedGenerator":
        """Move to a device, `auto`, `cpu`, `cuda`, `cuda:1`; returns itself."""
        self.network.to(resolve_device(device))
        return self

    def __call__(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images float32 `(n, C, H, W)` in [−1, 1] on `device`, in the arithmetic that evaluation uses (the config's
        `training.precision`), for latents `(n, Z)` and labels `(n,)`, which a conditional generator needs.
        """
        if latents.ndim != 2 or latents.shape[1] != self.latent_dim:
            raise UserError(f"latents: {tuple(latents.shape)} found, (n, {self.latent_dim}) accepted")
        if (labels is None) != (self.num_classes is None):
            raise UserError(f"labels: {'none' if labels is None else 'some'} found, accepted: {self._accepted()}")
        precision = resolve_precision(self.config.training.precision, self.device)
        return generate(self.network, latents, labels, make_autocast(precision, self.device))

    def sample(
        self,
        n: int,
        labels: int | Sequence[int] | Tensor | None = None,
        seed: int = 0,
        truncation: float | None = None,
        batch_size: int = 100,
        as_float: bool = False,
    ) -> Tensor:
        """n images on the CPU: uint8 `(n, C, H, W)`, or float32 in [−1, 1] with `as_float`.

        With the seed of a run's `evaluation.seed` and no labels they are the images that `evaluate.py checkpoint`
        scores (with `evaluation.label_sampling: uniform`). The batch size changes neither latents nor labels.

        Args:
            n: how many.
            labels: one class for all, or one for each image; None for uniform ones.
            seed: of the latents and of uniform labels.
            truncation: see `SampleLatents`.
            batch_size: images computed at a time.

        Raises:
            UserError: a value is out of range, or labels do not fit the generator.
            NonFiniteError: an image holds NaN or infinity.
        """
        images = []
        for batch in self.batches(n, labels, seed, truncation, batch_size):
            found = self(batch.latents, batch.labels)
            images.append((found if as_float else to_uint8(found)).cpu())
        return torch.cat(images)

    def batches(
        self,
        n: int,
        labels: int | Sequence[int] | Tensor | None = None,
        seed: int = 0,
        truncation: float | None = None,
        batch_size: int = 100,
    ) -> Iterator[Batch]:
        """The latents and labels of `sample`, a batch at a time, with no image computed.

        Raises:
            UserError: as `sample`, at once.
        """
        for name, value, least in (("n", n, 1), ("batch_size", batch_size, 1), ("seed", seed, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UserError(f"{name}: {value!r} found, an integer of at least {least} accepted")
        if truncation is not None and not SMALLEST_TRUNCATION <= truncation < float("inf"):
            raise UserError(f"truncation: {truncation!r} found, at least {SMALLEST_TRUNCATION} accepted")
        given = self._check_labels(labels, n)
        stream = SampleLatents(self.latent_dim, self.num_classes, seed, truncation)
        return self._batches(stream, given, n, batch_size)

    def _batches(self, stream: SampleLatents, given: Tensor | None, n: int, batch_size: int) -> Iterator[Batch]:
        for start in range(0, n, batch_size):
            latents, labels = stream.next(min(batch_size, n - start))
            yield Batch(start, latents, labels if given is None else given[start : start + batch_size])

    def _check_labels(self, labels: int | Sequence[int] | Tensor | None, n: int) -> Tensor | None:
        """One label for each of n images, or None for those of the stream."""
        if labels is None:
            return None
        accepted = self._accepted()
        if self.num_classes is None:
            raise UserError(f"labels: {labels!r} found, accepted: {accepted}")
        try:
            given = torch.as_tensor(labels).cpu()
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"labels: {labels!r} found, accepted: {accepted}") from error
        given = given.expand(n) if given.ndim == 0 else given
        if given.shape != (n,) or given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
            raise UserError(
                f"labels: {given.dtype} {tuple(given.shape)} found, accepted: {accepted}, one or {n} of them"
            )
        if n and not 0 <= int(given.min()) <= int(given.max()) < self.num_classes:
            raise UserError(f"labels: {int(given.min())} to {int(given.max())} found, accepted: {accepted}")
        return given.long()

    def _accepted(self) -> str:
        if self.num_classes is None:
            return "none, the generator is unconditional"
        return f"integers from 0 to {self.num_classes - 1}"
