"""Grids of images: one after the other, a named class a row, or in rows with a caption before each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

LINE = 1  # pixels between the images of a plain grid
CELL = 64  # pixels that an image beside a caption is shown at, at least; a multiple of its own
GAP = 4  # pixels between such images
CAPTION = 150  # pixels of width
LETTERS = 11  # pixels that a line of text is high, at least, so that it can be read


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


def named_rows(images: Tensor, labels: Sequence[int], class_names: Sequence[str]) -> Tensor:
    """uint8 `(n, C, H, W)`, class by class → one image `(C, H', W')`: a class a row, named on its left.

    Images that are lower than a line of text are enlarged. A row that is shorter than another ends in white.
    """
    scale = math.ceil(LETTERS / images.shape[2])
    images = images.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    rows = [list(places) for _, places in groupby(range(len(labels)), key=labels.__getitem__)]
    columns = max(map(len, rows))
    cells = torch.full((len(rows) * columns, *images.shape[1:]), 255, dtype=torch.uint8)
    for row, places in enumerate(rows):
        cells[row * columns : row * columns + len(places)] = images[places]
    captions = _captions([class_names[labels[places[0]]] for places in rows], images.shape[2])
    return torch.cat([captions.expand(images.shape[1], -1, -1), tile(cells, columns)], dim=2)


def _captions(names: Sequence[str], height: int) -> Tensor:
    """Black on white, uint8 `(rows · (height + LINE) − LINE, width)`: a name in the middle of each row."""
    font = ImageFont.load_default(max(LETTERS, height // 8))
    lines = [_shortened("".join(letter if letter.isprintable() else "?" for letter in name), font) for name in names]
    width = math.ceil(max(font.getlength(line) for line in lines)) + 2 * GAP
    canvas = Image.new("L", (width, len(names) * (height + LINE) - LINE), 255)
    draw = ImageDraw.Draw(canvas)
    for row, line in enumerate(lines):
        draw.text((GAP, row * (height + LINE) + height / 2), line, fill=0, font=font, anchor="lm")
    return torch.from_numpy(np.array(canvas))


def _shortened(name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """As much of a name as is no wider than `CAPTION`."""
    fitting = next(end for end in range(len(name), -1, -1) if font.getlength(name[:end]) <= CAPTION)
    return name if fitting == len(name) else f"{name[: max(0, fitting - 1)]}…"


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
