"""What every source hands to the store: who its images are, and how to read them as square uint8 blocks."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gan.errors import UserError, nearest
from gan.progress import lasting_bar

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]

BLOCK = 512  # images that are decoded and written at a time
QUIET = 2_000  # up to this many images no progress bar is shown


@dataclass(frozen=True)
class Content:
    """The images of one source, read block by block.

    `shape` is (N, H, W, C) with H = W = resolution; `blocks` yields uint8 (n, H, W, C) in order, N images in all;
    `labels` is int64 (N,) in [0, len(class_names)), or None; `skipped` are the files that could not be read, and why.
    """

    shape: tuple[int, int, int, int]
    labels: Labels | None
    class_names: tuple[str, ...]
    blocks: Iterator[Pixels]
    skipped: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """`identity` is cheap, JSON-able, and changes whenever the images may have; `read` does the work.

    `outline` gives the channels and the number of classes, 0 without labels, of what would be read, decoding no image.
    """

    identity: object
    read: Callable[[], Content]
    outline: Callable[[], tuple[int, int]] | None = None


def square(image: Image.Image, resolution: int) -> Image.Image:
    """Bring the short side to `resolution` (bicubic, antialiased) and crop the centre; an exact fit is not touched."""
    width, height = image.size
    if min(width, height) != resolution:
        scale = resolution / min(width, height)
        width, height = max(resolution, round(width * scale)), max(resolution, round(height * scale))
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    if image.size == (resolution, resolution):
        return image
    left, top = (width - resolution) // 2, (height - resolution) // 2
    return image.crop((left, top, left + resolution, top + resolution))


def image_blocks(count: int, read: Callable[[int], Image.Image], resolution: int) -> Iterator[Pixels]:
    """Read, resize and crop images 0..count-1 in parallel threads; the order, and so the result, is fixed.

    `read` returns mode L or RGB; the blocks are uint8 (n, resolution, resolution, 1 or 3).
    """

    def decode(index: int) -> Pixels:
        pixels = np.asarray(square(read(index), resolution))
        return pixels.reshape(resolution, resolution, -1)

    bar = lasting_bar(count, "preparing images", "images", shown=count > QUIET)
    with bar, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        for start in range(0, count, BLOCK):
            block = np.stack(list(threads.map(decode, range(start, min(start + BLOCK, count)))))
            bar.update(len(block))
            yield block


def array_blocks(images: Pixels, resolution: int) -> Iterator[Pixels]:
    """Yield uint8 (N, H, W, C) as blocks of `resolution`; at its own resolution nothing is copied."""
    if images.shape[1:3] != (resolution, resolution):

        def read(index: int) -> Image.Image:
            return Image.fromarray(images[index, ..., 0] if images.shape[3] == 1 else images[index])

        yield from image_blocks(len(images), read, resolution)
    else:
        for start in range(0, len(images), 8 * BLOCK):
            yield images[start : start + 8 * BLOCK]


def array_content(images: Pixels, labels: Labels | None, class_names: Sequence[str], resolution: int) -> Content:
    """The content of uint8 (N, H, W, C) images that fit in memory, at `resolution`."""
    shape = (len(images), resolution, resolution, images.shape[3])
    return Content(shape, labels, tuple(class_names), array_blocks(images, resolution))


def choose_classes(
    available: Sequence[str], classes: int | Sequence[str] | None, key: str = "data.classes"
) -> list[str]:
    """The classes that option `key` asks for: None for all, k for the first k in sorted order, or names.

    Names too come back sorted, so a subset has the same labels however it was written.

    Raises:
        UserError: an unknown or repeated name, an empty choice, or more classes than there are.
    """
    names = sorted(available)
    if classes is None:
        return names
    if isinstance(classes, int) and not isinstance(classes, bool):
        if not 1 <= classes <= len(names):
            raise UserError(f"{key}: {classes} classes asked for; accepted: 1 to {len(names)}")
        return names[:classes]
    if isinstance(classes, str | bool) or not classes or not all(isinstance(name, str) for name in classes):
        raise UserError(f"{key}: found {classes!r}; accepted: a number or a list of class names")
    for name in classes:
        if name not in names:
            raise UserError(f"{key}: no class {name!r}{_class_hint(name, names)}")
    if len(set(classes)) < len(classes):
        raise UserError(f"{key}: a class is named twice; accepted: each name once")
    return sorted(classes)


def _class_hint(name: str, names: Sequence[str]) -> str:
    """The nearest name; where nothing is near, at most ten of the names, as a line has to stay readable."""
    hint = nearest(name, names)
    if "did you mean" in hint or len(names) <= 10:
        return hint
    return f"; accepted: {', '.join(names[:10])} and {len(names) - 10} more"
