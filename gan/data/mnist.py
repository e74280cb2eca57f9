"""MNIST and its kin: torchvision's files, or an archive of each split."""

import re
from functools import partial
from pathlib import Path

import numpy as np

from gan.data.npz import npz
from gan.data.recipe import Content, Recipe, array_content
from gan.data.torchvision_sets import mnist as torchvision_mnist
from gan.data.torchvision_sets import pad_margin
from gan.errors import UserError

SIDE = 28
SPLITS = ("train", "test")


def mnist(*, dataset: str, split: str, resolution: int, root: Path, path: Path | None = None) -> Recipe:
    """28×28, 1 channel, 10 classes, splits train and test; a black margin up to 32, resized beyond.

    Args:
        dataset: torchvision's name for it.
        split: `train` or `test`.
        resolution: side of the images.
        root: where torchvision's files are kept.
        path: another folder of torchvision's, or a `.npz` archive (see `npz`). An archive named after one split stands
            for both: `mnist_train.npz` has `mnist_test.npz` beside it.

    Raises:
        UserError: the split's archive is not there, or does not hold ten classes of grey images.
    """
    if path is None or not path.is_file():
        return torchvision_mnist(dataset=dataset, split=split, resolution=resolution, root=root, path=path)
    archive = _archive_of(path, split)
    recipe = npz(split=split, resolution=SIDE, path=archive)
    return Recipe(recipe.identity, partial(_read, recipe, archive, resolution))


def _archive_of(path: Path, split: str) -> Path:
    if split != SPLITS[0] and not any(re.search(rf"(?<![a-z]){named}(?![a-z])", path.name) for named in SPLITS):
        raise UserError(
            f"data.path: {path} is named after no split; accepted: …train….npz, with the images of {split} in "
            f"…{split}….npz beside it"
        )
    for named in SPLITS:
        path = path.with_name(re.sub(rf"(?<![a-z]){named}(?![a-z])", split, path.name))
    if not path.is_file():
        raise UserError(f"data.path: {path} does not exist; accepted: an archive of the split {split}")
    return path


def _read(recipe: Recipe, path: Path, resolution: int) -> Content:
    content = recipe.read()
    if content.shape[3] != 1 or content.labels is None or len(content.class_names) != 10:
        found = f"{content.shape[3]} channels, {len(content.class_names)} classes"
        raise UserError(f"data.path: {found} in {path}; accepted: 1 channel, 10 classes")
    images = pad_margin(np.concatenate(list(content.blocks)), resolution)
    return array_content(images, content.labels, content.class_names, resolution)
