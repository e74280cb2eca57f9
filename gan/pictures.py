"""Grids of images: one after the other, or in rows with a caption before each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

LINE = 1  # pixels between the images of a plain grid
CELL = 64  # pixels that an image beside a caption is shown at, at least; a multiple of its own
GAP = 4  # pixels between such images
CAPTION = 150  # pixels of width


def tile(images: Tensor, columns: int) -> Tensor:
    """uint8 `(n, C, H, W)` → one image `(C, H', W')`, white between them and in missing places."""
    count, channels, height, width = images.shape
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    size = (channels, rows * (height + LINE) - LINE, columns * (width + LINE) - LINE)
    canvas = torch.full(size, 255, dtype=torch.uint8)
    for place, image in enumerate(images):
        top, left = place // columns * (height + LINE), place % columns * (width + LINE)
        canvas[:, top : top + height, left : left + width] = image
    return canvas


def to_picture(image: Tensor) -> Image.Image:
    """uint8 `(1 or 3, H, W)` → grey or RGB."""
    pixels = image.permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))


@dataclass(frozen=True)
class Row:
    """A caption of short lines, then groups of uint8 images `(H, W, 1 or 3)`, set apart from each other."""

    caption: Sequence[str]
    groups: Sequence[Sequence[np.ndarray]]


def captioned_rows(rows: Sequence[Row], widths: Sequence[int]) -> Image.Image:
    """Rows of images under each other.

    Args:
        widths: places that each group takes; images beyond are left out, missing ones are left white.
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
    return canvas


def _enlarged(image: np.ndarray, scale: int) -> Image.Image:
    pixels = np.asarray(image)
    pixels = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
    found = Image.fromarray(pixels)
    return found.resize((found.width * scale, found.height * scale), Image.Resampling.NEAREST)
