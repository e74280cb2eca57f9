"""Samples to look at: a grid, a grid of classes, and a walk through latent space."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch_fidelity.noise import batch_slerp_any

from gan.errors import UserError
from gan.files import atomic_path
from gan.pictures import named_rows, tile, to_picture
from gan.progress import passing
from gan.sampling.generate import LoadedGenerator

ANIMATED = 128  # pixels that a frame is shown at, at least; a multiple of its own
FRAMES_A_SECOND = 20
MAXIMUM_IMAGES = 10_000  # of a grid, which is held in memory
MAXIMUM_FRAMES = 5_000


def save_grid(images: Tensor, columns: int, path: Path) -> None:
    """Write uint8 images `(n, C, H, W)` row by row as one PNG.

    Raises:
        StorageError: the file cannot be written.
    """
    _save(tile(images, columns), path)


def save_named_rows(images: Tensor, labels: Tensor, class_names: Sequence[str], path: Path) -> None:
    """Write uint8 images `(n, C, H, W)`, class by class, as one PNG: a class a row, with its name.

    Raises:
        StorageError: the file cannot be written.
    """
    _save(named_rows(images, labels.tolist(), class_names), path)


def _save(picture: Tensor, path: Path) -> None:
    with atomic_path(path) as temporary:
        to_picture(picture).save(temporary, format="PNG")


def spread_classes(num_classes: int, count: int) -> list[int]:
    """The classes that a grid of `count` images shows: all, or 2√count of more, at even distances."""
    rows = min(num_classes, count, 2 * math.isqrt(count))
    return [row * num_classes // rows for row in range(rows)]


def labels_in_rows(classes: Sequence[int], count: int) -> Tensor:
    """Labels `(count,)`: each class in turn, as often as the others or once less or more; at most `count` classes."""
    return torch.tensor(classes)[torch.arange(count) * len(classes) // count]


def class_rows(
    generator: LoadedGenerator,
    classes: Sequence[int],
    columns: int,
    seed: int = 0,
    truncation: float | None = None,
    batch_size: int = 100,
) -> tuple[Tensor, Tensor]:
    """A class a row and a latent a column: uint8 `(len(classes) · columns, C, H, W)`, and their labels.

    Raises:
        UserError: the generator has no classes, or too many images are asked for.
    """
    if generator.num_classes is None:
        raise UserError("--format classes: the generator is unconditional; accepted: grid")
    if len(classes) * columns > MAXIMUM_IMAGES:
        found = f"{len(classes)} classes × {columns} found"
        raise UserError(f"--format classes: {found}, {MAXIMUM_IMAGES} images accepted; choose some with --classes 0-9")
    (batch,) = generator.batches(columns, seed=seed, truncation=truncation, batch_size=columns)
    latents = batch.latents.repeat(len(classes), 1)
    labels = torch.tensor(classes).repeat_interleave(columns)
    pairs = zip(latents.split(batch_size), labels.split(batch_size), strict=True)
    return torch.cat([generator.pixels(*pair) for pair in pairs]), labels


def interpolated_latents(ends: Tensor, frames: int) -> Tensor:
    """Spherical interpolation through latents `(k, Z)` and back to the first: `(k · frames, Z)`.

    slerp(a, b, t) = sin((1 − t) ω)/sin ω · a + sin(t ω)/sin ω · b, ω the angle between a and b (Shoemake 1985;
    White 2016, arXiv:1609.04468).
    """
    times = torch.arange(frames)[:, None] / frames  # (frames, 1)
    pairs = zip(ends, ends.roll(-1, 0), strict=True)
    return torch.cat([batch_slerp_any(a.expand(frames, -1), b.expand(frames, -1), times) for a, b in pairs])


def save_interpolation(
    generator: LoadedGenerator, ends: Tensor, label: int | None, frames: int, path: Path, batch_size: int = 100
) -> None:
    """Write a GIF that goes round through latents `(k, Z)`, `frames` from each to the next, all of one class.

    Raises:
        UserError: too many frames are asked for.
        StorageError: the file cannot be written.
    """
    if len(ends) * frames > MAXIMUM_FRAMES:
        raise UserError(f"--frames: {len(ends)} × {frames} found, {MAXIMUM_FRAMES} in all accepted")
    latents = interpolated_latents(ends, frames)
    pictures = _frames(generator, latents, label, batch_size)
    with atomic_path(path) as temporary:
        duration, first = 1000 // FRAMES_A_SECOND, next(pictures)
        first.save(temporary, format="GIF", save_all=True, append_images=pictures, duration=duration, loop=0)


def _frames(generator: LoadedGenerator, latents: Tensor, label: int | None, batch_size: int) -> Iterator[Image.Image]:
    for batch in passing(latents.split(batch_size), "interpolating", "batches"):
        labels = None if label is None else torch.full((len(batch),), label)
        for image in generator.pixels(batch, labels):
            picture = to_picture(image)
            scale = math.ceil(ANIMATED / min(picture.size))
            size = (picture.width * scale, picture.height * scale)
            yield picture.resize(size, Image.Resampling.NEAREST)
