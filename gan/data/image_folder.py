"""Folders of image files: one subfolder per class, or all files together without labels."""

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from gan.data.ignored import Ignored
from gan.data.recipe import QUIET, Content, Labels, Recipe, choose_classes, image_blocks
from gan.errors import UserError
from gan.progress import passing, say

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # no other decoder is asked: that of EPS runs a program
MAX_PIXELS = 80_000_000  # of an image
MAX_RATIO = 100  # of its sides: brought to a short side of 32, 1 by 400,000 pixels would be 32 by 12,800,000
# Of damaged tags and of sizes that are refused here; files are read by threads, where no `catch_warnings` is safe.
warnings.filterwarnings("ignore", module=r"PIL\.")
SPLITS = ("test", "train", "val", "valid", "validation")  # the names of folders that are taken for splits
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def image_folder(
    *,
    split: str,
    resolution: int,
    path: Path,
    classes: int | Sequence[str] | None = None,
    images_per_class: int | None = None,
    skip_corrupt: bool = False,
) -> Recipe:
    """Files `path/<class>/*` (or `path/<class>/images/*`), or `path/*` without labels; 3 channels, labels in the sorted
    order of the classes.

    `images_per_class` keeps the first files of each class in sorted order. Files that are hidden or no images are
    passed over and counted in one line, and with `skip_corrupt` those that cannot be decoded, which are named. The
    folder is the split. Orientation tags in the files are not applied, as in torchvision.

    Raises:
        UserError: no images, an empty or unknown class, or too few images; on reading, a file that cannot be decoded.
    """
    found = _find(path, classes, images_per_class)
    identity = [str(path.resolve()), found.names, _fingerprint(found.files)]
    if skip_corrupt:
        return Recipe([*identity, {"skip_corrupt": True}], partial(_read_whole, found, resolution), found.outline)
    return Recipe(identity, partial(_read, found, resolution), found.outline)


@dataclass(frozen=True)
class _Files:
    """The images of a folder, with labels `(N,)` or None, the names of the classes, and what else is there."""

    path: Path
    files: list[Path]
    labels: Labels | None
    names: list[str]
    ignored: Ignored

    def outline(self) -> tuple[int, int]:
        return 3, len(self.names)


def _find(path: Path, classes: int | Sequence[str] | None, images_per_class: int | None) -> _Files:
    """What there is to be read, without opening a file."""
    if not path.is_dir():
        raise UserError(f"data.path: {path} is not a folder; accepted: a folder of images or of class folders")
    top = _scan(path)
    if "train" in top.folders and (_are_splits(top.folders) or not _scan(path / "train").images):
        raise UserError(f"data.path: {path} has splits, not classes, for folders; did you mean {path / 'train'}?")
    if top.folders and top.images:
        raise UserError(
            f"data.path: {path} has both class folders and loose images ({top.images[0].name}); accepted: either"
        )
    if not top.folders:
        if classes is not None or images_per_class is not None:
            option = "classes" if classes is not None else "images_per_class"
            raise UserError(f"data.{option}: {path} has no class folders; accepted: only with <path>/<class>/*")
        if not top.images:
            raise UserError(f"data.path: {path} has no images; accepted: files with {', '.join(SUFFIXES)}")
        return _Files(path, top.images, None, [], top.ignored)
    names = choose_classes(top.folders, classes)
    scans = [_scan_class(path / name) for name in names]
    lists = [_class_files(path / name, scan, images_per_class) for name, scan in zip(names, scans, strict=True)]
    labels = np.repeat(np.arange(len(names), dtype=np.int64), [len(files) for files in lists])
    ignored = Ignored(sum((scan.ignored_below for scan in scans), top.ignored))
    return _Files(path, [file for files in lists for file in files], labels, names, ignored)


def _are_splits(folders: Sequence[str]) -> bool:
    """Whether several folders all have names of splits; a single one may be a class."""
    return len(folders) > 1 and set(folders) <= set(SPLITS)


@dataclass(frozen=True)
class _Scan:
    """What one folder holds: sorted names of folders and files of images, and the rest; hidden folders are none."""

    folders: list[str]
    images: list[Path]
    ignored: Ignored

    @property
    def ignored_below(self) -> Counter[str]:
        """What is ignored where this is a class folder, which has no folders of its own."""
        return self.ignored + Counter({"folder inside a class": len(self.folders)})


def read_rgb(path: Path) -> Image.Image:
    """`decode_rgb` of one file.

    Raises:
        UserError: the file cannot be decoded.
        MemoryError: there is no room to decode it, which says nothing of the file.
    """
    try:
        return decode_rgb(path)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise almost any type on a damaged file
        raise UserError(
            f"data.path: cannot read the image {path} ({reason(error)}); data.skip_corrupt=true (--skip-corrupt of "
            "`gan evaluate images` and `gan prepare`) leaves such files out"
        ) from error


def decode_rgb(file: Path | BinaryIO) -> Image.Image:
    """Decode as 8-bit RGB: palettes, CMYK and greyscale converted, 16 bits scaled, alpha laid over white. Of a film the
    first frame is taken.

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


def _read(found: _Files, resolution: int) -> Content:
    if found.ignored:
        say(found.ignored.line(f"data.path: {found.path}"))
    blocks = image_blocks(len(found.files), lambda index: read_rgb(found.files[index]), resolution)
    return Content((len(found.files), resolution, resolution, 3), found.labels, tuple(found.names), blocks)


def _read_whole(found: _Files, resolution: int) -> Content:
    """`_read` of those files that can be decoded: each is decoded twice, as their number has to be known first."""
    checked = passing(found.files, "checking images", "images", shown=len(found.files) > QUIET)
    reasons = {file: reason for file in checked if (reason := why_corrupt(file)) is not None}
    whole = np.array([file not in reasons for file in found.files], dtype=bool)
    if not whole.any():
        raise UserError(f"data.path: {found.path} has {len(found.files)} images, none of which can be read")
    labels = found.labels
    if labels is not None:
        require_classes(labels, whole, found.names, str(found.path))
        labels = labels[whole]
    kept = replace(found, files=[file for file in found.files if file not in reasons], labels=labels)
    skipped = {file.relative_to(found.path).as_posix(): reason for file, reason in reasons.items()}
    return replace(_read(kept, resolution), skipped=skipped)


def why_corrupt(file: Path) -> str | None:
    """Why `decode_rgb` cannot decode a file, in a few words; None where it can.

    Raises:
        MemoryError: there is no room to decode it, which says nothing of the file.
    """
    try:
        decode_rgb(file)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise almost any type on a damaged file
        return reason(error)
    return None


def reason(error: Exception) -> str:
    """What an error of `decode_rgb` says, in one line."""
    if isinstance(error, UnidentifiedImageError):  # whose text has an address in it
        return "no image that Pillow knows"
    return " ".join(str(error).split()) or type(error).__name__


def require_classes(labels: Labels, whole: NDArray[np.bool_], names: Sequence[str], where: str) -> None:
    """Check that every class that has images has some that are `whole`.

    Raises:
        UserError: all images of a class are corrupt.
    """
    lost = np.setdiff1d(labels, labels[whole])
    if len(lost):
        raise UserError(f"data.path: {where} has no image of the class {names[lost[0]]} that can be read")


def _class_files(folder: Path, scan: _Scan, images_per_class: int | None) -> list[Path]:
    files = scan.images
    if not files:
        raise UserError(f"data.path: the class folder {folder} has no images; accepted: {', '.join(SUFFIXES)} in it")
    if images_per_class is None:
        return files
    if not isinstance(images_per_class, int) or isinstance(images_per_class, bool) or images_per_class < 1:
        raise UserError(f"data.images_per_class: found {images_per_class!r}; accepted: an integer of at least 1")
    if images_per_class > len(files):
        raise UserError(f"data.images_per_class: {folder} has {len(files)}, not {images_per_class}; accepted: no more")
    return files[:images_per_class]


def _scan(folder: Path) -> _Scan:
    folders, images, ignored = [], [], Ignored()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_folder(entry):
                    folders += [entry.name] if not entry.name.startswith(".") else []
                elif is_image(entry.name):
                    images.append(folder / entry.name)
                else:
                    ignored.file(entry.name)
    except OSError as error:
        raise UserError(f"data.path: cannot list {folder} ({error.strerror})") from error
    return _Scan(sorted(folders), sorted(images, key=os.fsencode), ignored)


def _scan_class(folder: Path) -> _Scan:
    """What the folder of a class holds; one named `images` in it, as tiny-ImageNet has, is passed over."""
    scan = _scan(folder)
    if scan.images or scan.folders != ["images"]:
        return scan
    inner = _scan(folder / "images")
    return replace(inner, ignored=Ignored(scan.ignored + inner.ignored))


def is_image(name: str) -> bool:
    """Whether a file of that name is taken for an image: hidden ones are not."""
    return not name.startswith(".") and name.lower().endswith(SUFFIXES)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; a link with an image's name that cannot be followed is none.

    Raises:
        OSError: what another link leads to cannot be looked at.
    """
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle, or to where one may not look; of one to nothing `is_dir` says False
        if is_image(entry.name):
            return False
        raise


def _fingerprint(files: list[Path]) -> str:
    """Hash of names, sizes and modification times: a changed file changes it, and no file is opened.

    One whose size cannot be had, as that of a link to nothing, is refused or left out when it is read.
    """
    digest = hashlib.sha256()
    for file in files:
        try:
            status = file.stat()
            state = f"{status.st_size}\0{status.st_mtime_ns}"
        except OSError:
            state = "unreadable"
        folder = file.parent.parent.name + "/images" if file.parent.name == "images" else file.parent.name
        digest.update(f"{folder}/{file.name}\0{state}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
