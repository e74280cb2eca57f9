"""Folders of image files: one subfolder per class, or all files together without labels."""

import hashlib
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from gan.data.recipe import QUIET, Content, Labels, Recipe, choose_classes, image_blocks
from gan.errors import UserError
from gan.progress import passing

FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # no other decoder is asked: that of EPS runs a program
MAX_PIXELS = 80_000_000  # of an image
MAX_RATIO = 100  # of its sides: brought to a short side of 32, 1 by 400,000 pixels would be 32 by 12,800,000
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def image_folder(
    *,
    split: str,
    resolution: int,
    path: Path,
    classes: int | Sequence[str] | None = None,
    images_per_class: int | None = None,
    skip_corrupt: bool = False,
) -> Recipe:
    """Files `path/<class>/*`, or `path/*` without labels; 3 channels, labels in the sorted order of the classes.

    `images_per_class` keeps the first files of each class in sorted order. Hidden files are passed over, and with
    `skip_corrupt` those that cannot be decoded. The folder is the split. Orientation tags in the files are not
    applied, as in torchvision.

    Raises:
        UserError: no images, an empty or unknown class, or too few images; on reading, a file that cannot be decoded.
    """
    if not path.is_dir():
        raise UserError(f"data.path: {path} is not a folder; accepted: a folder of images or of class folders")
    folders = sorted(entry.name for entry in _visible(path) if entry.is_dir())
    loose = _list_images(path)
    if "train" in folders and not _list_images(path / "train"):
        raise UserError(f"data.path: {path} has splits, not classes, for folders; did you mean {path / 'train'}?")
    if folders and loose:
        raise UserError(
            f"data.path: {path} has both class folders and loose images ({loose[0].name}); accepted: either"
        )
    if not folders:
        if classes is not None or images_per_class is not None:
            option = "classes" if classes is not None else "images_per_class"
            raise UserError(f"data.{option}: {path} has no class folders; accepted: only with <path>/<class>/*")
        if not loose:
            raise UserError(f"data.path: {path} has no images; accepted: files with {', '.join(SUFFIXES)}")
        names, files, labels = [], loose, None
    else:
        names = choose_classes(folders, classes)
        lists = [_class_files(path / name, images_per_class) for name in names]
        files = [file for class_files in lists for file in class_files]
        labels = np.repeat(np.arange(len(names), dtype=np.int64), [len(class_files) for class_files in lists])
    identity = [str(path.resolve()), names, _fingerprint(files), *(["skip_corrupt"] if skip_corrupt else [])]
    read = partial(_read_whole, path) if skip_corrupt else _read
    return Recipe(identity=identity, read=partial(read, files, labels, names, resolution))


def count_images(path: Path) -> int:
    """How many image files a folder and its class folders have, whole or not."""
    folders = [path / entry.name for entry in _visible(path) if entry.is_dir()]
    return sum(len(_list_images(folder)) for folder in (path, *folders))


def read_rgb(path: Path) -> Image.Image:
    """`decode_rgb` of one file.

    Raises:
        UserError: the file cannot be decoded.
    """
    try:
        return decode_rgb(path)
    except Exception as error:  # Pillow's decoders raise almost any type on a damaged file
        raise UserError(
            f"data.path: cannot read the image {path} ({error or type(error).__name__}); --skip-corrupt of `gan "
            "prepare` and of `gan evaluate images` passes over such files"
        ) from error


def decode_rgb(file: Path | BinaryIO) -> Image.Image:
    """Decode as 8-bit RGB: palettes, CMYK and greyscale converted, 16 bits scaled, alpha laid over white.

    Raises:
        Exception: of almost any type on a damaged file, as Pillow's decoders do; it is larger or narrower than
            accepted, or a path that is no regular file.
    """
    if isinstance(file, Path) and not file.is_file():
        raise ValueError("not a regular file")
    with Image.open(file, formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width}×{image.height} pixels found, up to {MAX_PIXELS:,} accepted")
        if max(image.size) > MAX_RATIO * min(image.size):
            raise ValueError(f"{image.width}×{image.height} pixels found, sides up to 1:{MAX_RATIO} accepted")
        image.load()
        return _to_rgb(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, or 32 that hold 16: 65535 / 257 = 255
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"grey values from {values.min()} to {values.max()}; accepted: 8 or 16 bits")
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range; accepted: 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _read(files: list[Path], labels: Labels | None, names: list[str], resolution: int) -> Content:
    blocks = image_blocks(len(files), lambda index: read_rgb(files[index]), resolution)
    return Content((len(files), resolution, resolution, 3), labels, tuple(names), blocks)


def _read_whole(path: Path, files: list[Path], labels: Labels | None, names: list[str], resolution: int) -> Content:
    """`_read` of those files that can be decoded: each is decoded twice, as their number has to be known first."""
    checked = passing(files, "checking images", "images", shown=len(files) > QUIET)
    whole = np.array([_is_whole(file) for file in checked], dtype=bool)
    if not whole.any():
        raise UserError(f"data.path: {path} has {len(files)} images, none of which can be read")
    kept = [file for file, readable in zip(files, whole, strict=True) if readable]
    return _read(kept, None if labels is None else labels[whole], names, resolution)


def _is_whole(file: Path) -> bool:
    try:
        read_rgb(file)
    except UserError:
        return False
    return True


def _class_files(folder: Path, images_per_class: int | None) -> list[Path]:
    files = _list_images(folder)
    if not files:
        raise UserError(f"data.path: the class folder {folder} has no images; accepted: {', '.join(SUFFIXES)} in it")
    if images_per_class is None:
        return files
    if not isinstance(images_per_class, int) or isinstance(images_per_class, bool) or images_per_class < 1:
        raise UserError(f"data.images_per_class: found {images_per_class!r}; accepted: an integer of at least 1")
    if images_per_class > len(files):
        raise UserError(f"data.images_per_class: {folder} has {len(files)}, not {images_per_class}; accepted: no more")
    return files[:images_per_class]


def _list_images(folder: Path) -> list[Path]:
    entries = _visible(folder)
    return sorted(
        folder / entry.name for entry in entries if entry.name.lower().endswith(SUFFIXES) and not entry.is_dir()
    )


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"data.path: cannot list {folder} ({error.strerror})") from error


def _fingerprint(files: list[Path]) -> str:
    """Hash of names, sizes and modification times: a changed file changes it, and no file is opened."""
    digest = hashlib.sha256()
    for file in files:
        try:
            status = file.stat()
        except OSError as error:
            raise UserError(f"data.path: cannot read {file} ({error.strerror})") from error
        digest.update(f"{file.parent.name}/{file.name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
