"""A trained generator as its users see it: latents in, images out, and what is known of it."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from pydantic import ValidationError, model_validator
from torch import Tensor, nn

from gan import distributed
from gan.build import ImageFacts, require_names
from gan.config import Config, Positive, Section
from gan.data.recipe import Labels, Pixels
from gan.device import make_autocast, resolve_device, resolve_precision
from gan.errors import StorageError, UserError
from gan.metrics.images import to_uint8
from gan.progress import passing_bar
from gan.sampling.latents import SMALLEST_TRUNCATION, Truncation, evaluation_latents


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


class Description(Section):
    """Facts of one generator.

    `run` is the name of the run directory and `weights` says which of its two generators. `evaluations` are results as
    in RUN/evaluations, each with its protocol; `digest` is `gan.training.checkpoint.digest` of the state dict, whose
    floats are stored as `dtype`.
    """

    format: Literal[1] = 1
    library: Literal["gan"] = "gan"
    run: str
    step: int
    weights: Literal["ema", "raw"]
    architecture: str
    resolution: Positive
    channels: Positive
    latent_dim: Positive
    num_classes: Positive | None
    class_names: tuple[str, ...]
    parameters: int
    digest: str
    dtype: Literal["float32", "float16"] = "float32"
    rounded: bool = False  # to float16, by an earlier export
    licence: str = "unknown"
    evaluations: tuple[dict[str, Any], ...] = ()

    @model_validator(mode="after")
    def _each_class_has_a_name(self) -> "Description":
        require_names(self.num_classes, self.class_names)
        return self

    @property
    def of_halves(self) -> bool:
        """Whether every weight is one that float16 has, however it is stored."""
        return self.rounded or self.dtype == "float16"

    @property
    def facts(self) -> ImageFacts:
        """What a generator is built from, beside its config."""
        return ImageFacts(self.resolution, self.channels, self.num_classes)

    def write(self, path: Path) -> None:
        """As JSON, a key for each field."""
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Description":
        """The inverse of `write`.

        Raises:
            UserError: the file is missing, damaged or of another format.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}") from error
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(map(str, first["loc"]))
            raise UserError(f"{path}: {key or 'JSON'}: {first['msg']}; accepted: what gan.export wrote") from error


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

    def pixels(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """As `__call__`, images uint8 `(n, C, H, W)` on the CPU.

        Raises:
            NonFiniteError: an image holds NaN or infinity.
        """
        return to_uint8(self(latents, labels)).cpu()

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
            truncation: t of `gan.sampling.latents.Truncation`, or None.
            batch_size: images computed at a time.

        Raises:
            UserError: a value is out of range, or labels do not fit the generator.
            NonFiniteError: an image holds NaN or infinity.
        """
        compute = self if as_float else self.pixels
        batches = self.batches(n, labels, seed, truncation, batch_size)
        return torch.cat([compute(batch.latents, batch.labels).cpu() for batch in batches])

    def sample_to_disk(self, n: int, seed: int, batch_size: int) -> tuple[Pixels, Labels | None]:
        """The images of `sample`, uint8 `(n, H, W, C)` in a file without a name, and their labels `(n,)`.

        Of several ranks, all of which call this, each computes its part of them; all have all.

        Raises:
            StorageError: they do not fit on the disk.
        """
        batches = self.batches(n, seed=seed, batch_size=batch_size)
        try:
            with tempfile.TemporaryFile() as file:  # the map outlives its handle
                with passing_bar(n, "generating", "images", distributed.is_main()) as bar:
                    labels = self.write_pixels(file, batches, bar.update)
                file.flush()
                return np.memmap(file, np.uint8, mode="r", shape=self.shape(n)), labels
        except OSError as error:
            raise StorageError(f"cannot write to {tempfile.gettempdir()}: {error.strerror or error}") from error

    def shape(self, n: int) -> tuple[int, int, int, int]:
        """Of n images as files hold them: `(n, H, W, C)`."""
        found = self.description
        return n, found.resolution, found.resolution, found.channels

    def write_pixels(
        self, file: IO[bytes], batches: Iterable[Batch], advance: Callable[[int], object]
    ) -> Labels | None:
        """Append the images of `batches`, uint8 `(n, H, W, C)`; returns their labels `(n,)`, None without classes.

        Written rather than mapped: a full disk is an error for a file, and the end of the process for a map.
        """
        labels = []
        for batch, rows in self._computed(iter(batches)):
            file.write(rows.numpy().data)
            labels += [] if batch.labels is None else [batch.labels]
            advance(len(rows))
        return torch.cat(labels).numpy() if labels else None

    def _computed(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, Tensor]]:
        """Every batch with its pixels, uint8 `(n, H, W, C)`; ranks take turns in computing them, and all have all."""
        while turn := list(islice(batches, distributed.world_size())):
            largest = len(turn[0].latents)
            own = torch.zeros(self.shape(largest), dtype=torch.uint8)
            for batch in turn[distributed.rank() : distributed.rank() + 1]:
                own[: len(batch.latents)] = self.pixels(batch.latents, batch.labels).permute(0, 2, 3, 1)
            for batch, rows in zip(turn, distributed.gather(own).split(largest), strict=False):
                yield batch, rows[: len(batch.latents)]

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
        truncated = None if truncation is None else Truncation(truncation, seed)
        return self._batches(n, given, seed, truncated, batch_size)

    def _batches(
        self, n: int, given: Tensor | None, seed: int, truncated: Truncation | None, batch_size: int
    ) -> Iterator[Batch]:
        stream = evaluation_latents(self.latent_dim, self.num_classes, seed)
        for start in range(0, n, batch_size):
            latents, labels = stream.next(min(batch_size, n - start))
            latents = latents if truncated is None else truncated(latents)
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
