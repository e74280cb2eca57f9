"""Scikit-learn's embedded handwritten digits (1,797 of 8×8), alone and stacked three deep: data with no download."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from gan.data.recipe import Content, Labels, Pixels, Recipe, array_blocks, array_content
from gan.errors import UserError

SEED = 0  # of the split and of the stacks: both are part of what these sources are
TEST_DIGITS = 360
STACKED_COUNT = 25_000  # 25 of each of the 1,000 modes


def digits(*, split: str, resolution: int) -> Recipe:
    """White on black digits, 1 channel, 10 classes; `split` is train (1,437), test (360) or all (1,797).

    The split is stratified by class and fixed.
    """
    return Recipe(identity="digits 1", read=partial(_read_digits, split, resolution))


def stacked_digits(*, split: str, resolution: int, count: int = STACKED_COUNT) -> Recipe:
    """Three digits of the split in the red, green and blue channels: 1,000 classes, label 100·red + 10·green + blue.

    Each class has count/1000 images, give or take one. After Metz et al. 2017, section 3.3.1 (stacked MNIST).

    Raises:
        UserError: `count` is not a positive integer.
    """
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise UserError(f"data.count: found {count!r}; accepted: an integer of at least 1")
    return Recipe(identity=["stacked digits 1", count], read=partial(_read_stacked, split, resolution, count))


def _read_digits(split: str, resolution: int) -> Content:
    images, labels = _load(split)
    return array_content(images, labels, [str(digit) for digit in range(10)], resolution)


def _read_stacked(split: str, resolution: int, count: int) -> Content:
    small_images, digit_labels = _load(split)
    glyphs = np.concatenate(list(array_blocks(small_images, resolution)))[..., 0]  # (n, R, R)
    random = np.random.default_rng(SEED)
    labels = random.permutation(np.arange(count, dtype=np.int64) % 1000)
    chosen = np.empty((count, 3), dtype=np.int64)  # which glyph stands in which channel
    for channel, place in enumerate((100, 10, 1)):
        wanted = labels // place % 10
        for digit in range(10):
            slots = np.flatnonzero(wanted == digit)
            chosen[slots, channel] = random.choice(np.flatnonzero(digit_labels == digit), size=len(slots))
    names = tuple(f"{label:03d}" for label in range(1000))
    return Content((count, resolution, resolution, 3), labels, names, _stack(glyphs, chosen))


def _stack(glyphs: Pixels, chosen: Labels) -> Iterator[Pixels]:
    for start in range(0, len(chosen), 1000):
        yield np.moveaxis(glyphs[chosen[start : start + 1000]], 1, -1)  # (n, 3, R, R) → (n, R, R, 3)


def _load(split: str) -> tuple[Pixels, Labels]:
    """uint8 (n, 10, 10, 1): the 8×8 scans, 0..16 stretched to 0..255, with a black margin so that no stroke is cut."""
    from sklearn.datasets import load_digits  # here, because importing it takes a second
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    images = np.pad(images, ((0, 0), (1, 1), (1, 1)))[..., None]
    labels = bunch.target.astype(np.int64)
    if split != "all":
        train, test = train_test_split(
            np.arange(len(labels)), test_size=TEST_DIGITS, stratify=labels, random_state=SEED
        )
        kept = np.sort(train if split == "train" else test)
        images, labels = images[kept], labels[kept]
    return images, labels
