"""Torchvision's datasets by name: downloaded, or read from the folder that already holds their files."""

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gan.data.recipe import Content, Labels, Pixels, Recipe, array_content, choose_classes, image_blocks
from gan.errors import UserError

DIGIT_NAMES = tuple(str(digit) for digit in range(10))


def cifar(*, dataset: str, split: str, resolution: int, root: Path, path: Path | None = None) -> Recipe:
    """CIFAR-10 and CIFAR-100: 32×32, 3 channels, splits train and test."""

    def read() -> Content:
        found = _open(dataset, path or root, train=split == "train")
        return array_content(found.data, np.array(found.targets, dtype=np.int64), found.classes, resolution)

    return Recipe(_identity(path), read)


def mnist(*, dataset: str, split: str, resolution: int, root: Path, path: Path | None = None) -> Recipe:
    """MNIST and its kin: 28×28, 1 channel, splits train and test; a black margin up to 32, resized beyond."""

    def read() -> Content:
        found = _open(dataset, path or root, train=split == "train")
        images = pad_margin(found.data.numpy()[..., None], resolution)
        return array_content(images, found.targets.numpy().astype(np.int64), found.classes, resolution)

    return Recipe(_identity(path), read)


def svhn(*, split: str, resolution: int, root: Path, path: Path | None = None) -> Recipe:
    """Street View house numbers: 32×32, 3 channels, splits train, extra and test."""

    def read() -> Content:
        found = _open("SVHN", path or root, split=split)
        return array_content(_channels_last(found.data), found.labels.astype(np.int64), DIGIT_NAMES, resolution)

    return Recipe(_identity(path), read)


def stl10(*, split: str, resolution: int, root: Path, path: Path | None = None) -> Recipe:
    """STL-10: 96×96, 3 channels, splits train, test and unlabeled (which has no labels)."""

    def read() -> Content:
        found = _open("STL10", path or root, split=split)
        images = _channels_last(found.data)
        if split == "unlabeled":
            return array_content(images, None, (), resolution)
        return array_content(images, found.labels.astype(np.int64), found.classes, resolution)

    return Recipe(_identity(path), read)


def celeba(*, split: str, resolution: int, root: Path, path: Path | None = None) -> Recipe:
    """CelebA, aligned and cropped: 178×218, 3 channels, no labels, splits train, valid, test and all.

    Its download needs the package gdown; without it, nothing is fetched.
    """

    def read() -> Content:
        found = _open("CelebA", path or root, needs="gdown", split=split)
        blocks = image_blocks(len(found), partial(_rgb_item, found), resolution)
        return Content((len(found), resolution, resolution, 3), None, (), blocks)

    return Recipe(_identity(path), read)


def lsun(*, split: str, resolution: int, path: Path, classes: int | Sequence[str] | None = None) -> Recipe:
    """LSUN, from the folder with `<category>_<split>_lmdb`: 3 channels, splits train and val.

    Raises:
        UserError: no database of the split in `path`, an unknown category, or (on reading) the lmdb package missing.
    """
    path = path.resolve()  # the working directory changes below
    suffix = f"_{split}_lmdb"
    available = [folder.name.removesuffix(suffix) for folder in path.glob(f"*{suffix}")]
    if not available:
        raise UserError(f"data.path: {path} has no <category>{suffix} folder; accepted: the folder of LSUN's databases")
    names = choose_classes(available, classes)
    files = [path / f"{name}{suffix}" / "data.mdb" for name in names]
    for file in files:
        if not file.is_file():
            raise UserError(f"data.path: {file} does not exist; accepted: LSUN's databases, unpacked")

    def read() -> Content:
        # torchvision keeps a pickled list of keys in the working directory, named by the letters of the path alone:
        # an empty directory makes it read the database instead of a list that may be another's
        with tempfile.TemporaryDirectory() as empty, _inform("lsun", path), contextlib.chdir(empty):
            found = _dataset("LSUN")(path.as_posix(), classes=[f"{name}_{split}" for name in names])
        labels: Labels = np.repeat(np.arange(len(names), dtype=np.int64), [len(database) for database in found.dbs])
        blocks = image_blocks(len(found), partial(_rgb_item, found), resolution)
        return Content((len(found), resolution, resolution, 3), labels, tuple(names), blocks)

    return Recipe([str(path), names, [file.stat().st_size for file in files]], read, lambda: (3, len(names)))


def pad_margin(images: Pixels, resolution: int) -> Pixels:
    """Surround (N, H, H, C) by black up to `resolution` when that is at most 4 pixels more; else leave it as it is."""
    missing = resolution - images.shape[1]
    if not 0 < missing <= 4:
        return images
    margin = (missing // 2, missing - missing // 2)
    return np.pad(images, ((0, 0), margin, margin, (0, 0)))


def _identity(path: Path | None) -> object:
    """The official files are known by the name of the set; a folder of the user's own is part of the identity."""
    return None if path is None else str(path.resolve())


def _dataset(name: str) -> Any:
    """Torchvision's class of that name; importing it takes seconds, so it waits until images are read."""
    from torchvision import datasets

    return getattr(datasets, name)


def _open(name: str, folder: Path, *, needs: str | None = None, **options: object) -> Any:
    """Torchvision's data set, downloaded unless its files are there or the package that this `needs` is not."""
    missing = needs if needs is not None and find_spec(needs) is None else None
    with _inform(name, folder, missing):
        folder.mkdir(parents=True, exist_ok=True)
        return _dataset(name)(folder, download=missing is None, **options)


@contextlib.contextmanager
def _inform(name: str, folder: Path, missing: str | None = None) -> Iterator[None]:
    """Keep stdout for results, and say in one line what to do when a set cannot be had."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except Exception as error:  # torchvision, gdown, lmdb and the archives' readers share no type of error
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if missing:
            reason = f"its download needs the package {missing}, which is not installed: pip install {missing}"
        raise UserError(
            f"data.source: cannot get {name} ({reason}); put torchvision's files in {folder},"
            " or use data.source=npz data.path=FILE"
        ) from error


def _channels_last(images: Pixels) -> Pixels:
    return np.moveaxis(images, 1, -1)  # (N, C, H, W) → (N, H, W, C)


def _rgb_item(dataset: Any, index: int) -> Image.Image:
    try:
        image: Image.Image = dataset[index][0]
        return image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise almost any type on a damaged file
        raise UserError(f"data.source: cannot read image {index} of {type(dataset).__name__} ({error})") from error
