"""Grids of example images with a caption before each row."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from gan.data.recipe import Pixels
from gan.files import atomic_path

CELL = 64  # pixels that an image is shown at, at least; a multiple of its own
GAP = 4
CAPTION = 150  # pixels of width


@dataclass(frozen=True)
class Row:
    """A caption of short lines, then groups of uint8 images `(H, W, 1 or 3)`, set apart from each other."""

    caption: Sequence[str]
    groups: Sequence[Sequence[Pixels]]


def save_grid(path: Path, rows: Sequence[Row], widths: Sequence[int]) -> None:
    """Write rows of images as a PNG, whole or not at all.

    Args:
        widths: places that each group takes; images beyond are left out, missing ones are left white.

    Raises:
        StorageError: the file cannot be written.
    """
    size = max([image.shape[0] for row in rows for group in row.groups for image in group], default=CELL)
    scale = max(1, CELL // size)
    cell = size * scale + GAP
    canvas = Image.new("RGB", (CAPTION + cell * sum(widths) + 3 * GAP * len(widths), max(1, len(rows)) * cell), "white")
    draw = ImageDraw.Draw(canvas)
    for line, row in enumerate(rows):
        draw.multiline_text((GAP, line * cell + GAP), "\n".join(row.caption), fill="black")
        left = CAPTION
        for group, width in zip(row.groups, widths, strict=True):
            for place, image in enumerate(group[:width]):
                canvas.paste(_enlarged(image, scale), (left + place * cell, line * cell))
            left += width * cell + 3 * GAP
    with atomic_path(path) as temporary:
        canvas.save(temporary, format="PNG")


def _enlarged(image: Pixels, scale: int) -> Image.Image:
    pixels = np.asarray(image)
    pixels = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
    found = Image.fromarray(pixels)
    return found.resize((found.width * scale, found.height * scale), Image.Resampling.NEAREST)
