"""NumPy archives: `images` and optional `labels` (or `arr_0` and `arr_1`) and `class_names`, never unpickled."""

import zipfile
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gan.data.recipe import Content, Labels, Pixels, Recipe, array_content
from gan.errors import UserError

MAXIMUM_CLASSES = 100_000
IMAGES = ("images", "arr_0")
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def npz(*, split: str, resolution: int, path: Path) -> Recipe:
    """Images uint8 (N, H, W), (N, H, W, 1) or (N, H, W, 3); labels, if any, integers (N,) from 0.

    `class_names`, if any, are text (K,), one for each class; without them a class is called by its number. The file is
    the split; the classes are 0..max(label). Recognised by its checksums, wherever it lies.

    Raises:
        UserError: not a whole .npz archive, or (on reading) an array that is missing, pickled, or of the wrong
            type, shape or range.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            identity = sorted([member.filename, member.file_size, member.CRC] for member in archive.infolist())
    except Exception as error:  # damaged directories make zipfile fail in many ways
        raise UserError(f"data.path: {path} is not a whole .npz archive ({error}); accepted: np.savez's") from error
    return Recipe(identity, partial(_read, path, resolution), partial(_outline, path))


def _read(path: Path, resolution: int) -> Content:
    images = _check_images(path, *_array(path, *IMAGES))
    return array_content(images, *_read_labels(path, len(images)), resolution)


def _outline(path: Path) -> tuple[int, int]:
    """Channels and number of classes: labels are read, of the images type and shape alone."""
    images = _check_images(path, *_array(path, *IMAGES, described=True))
    return images.shape[3], len(_read_labels(path, len(images))[1])


def _read_labels(path: Path, count: int) -> tuple[Labels | None, list[str]]:
    """The labels of `count` images, or None, and the names of their classes."""
    labels = None
    with zipfile.ZipFile(path) as archive:
        members = set(archive.namelist())
    if members & {"labels.npy", "arr_1.npy"}:
        labels = _check_labels(path, *_array(path, "labels", "arr_1"), count=count)
    class_names = [] if labels is None else [str(label) for label in range(int(labels.max()) + 1)]
    if "class_names.npy" in members:
        class_names = _check_names(path, _array(path, "class_names")[1], count=len(class_names))
    return labels, class_names


def _array(path: Path, *keys: str, described: bool = False) -> tuple[str, NDArray]:
    """The first of `keys` that the archive has, with its array; `described`: zeros of its type and shape instead."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            key = next((key for key in keys if key in archive), None)
            if key is None:
                raise UserError(
                    f"data.path: {path} has {', '.join(archive) or 'nothing'}; accepted: {' or '.join(keys)}"
                )
            try:
                return key, _described(path, key) if described else np.asarray(archive[key])
            except ValueError as error:  # object arrays, and headers that NumPy cannot read
                raise UserError(f"data.path: {key!r} in {path}: {error}; accepted: a plain array") from error
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f"data.path: {path}: {error}; accepted: an archive that fits into memory") from error
    except Exception as error:  # zipfile, zlib and the parser of NumPy's headers share no type of error
        raise UserError(f"data.path: {path} is damaged ({error}); accepted: a whole .npz archive") from error


def _described(path: Path, key: str) -> NDArray:
    """One zero that stands everywhere in an array of the member's type and shape, from its header."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as member:
        read_header = HEADERS[np.lib.format.read_magic(member)]
        shape, _, dtype = read_header(member)
    if dtype.hasobject:
        raise ValueError("Object arrays are pickled")
    return np.broadcast_to(np.zeros((), dtype), shape)


def _check_images(path: Path, key: str, images: NDArray) -> Pixels:
    where, accepted = f"data.path: {key!r} in {path}", "accepted: uint8 (N, H, W), (N, H, W, 1) or (N, H, W, 3)"
    if images.dtype != np.uint8:
        raise UserError(f"{where}: found {images.dtype}; {accepted}")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3) or images.size == 0:
        raise UserError(f"{where}: found shape {images.shape}; {accepted}, with at least one image")
    return images


def _check_labels(path: Path, key: str, labels: NDArray, count: int) -> Labels:
    where, accepted = f"data.path: {key!r} in {path}", f"accepted: integers ({count},), one for each image"
    if labels.dtype.kind not in "iu":
        raise UserError(f"{where}: found {labels.dtype}; {accepted}")
    if labels.shape != (count,):
        raise UserError(f"{where}: found shape {labels.shape}; {accepted}")
    smallest, largest = int(labels.min()), int(labels.max())
    if smallest < 0 or largest >= MAXIMUM_CLASSES:
        raise UserError(f"{where}: found {smallest} to {largest}; accepted: labels from 0 to {MAXIMUM_CLASSES - 1}")
    return labels.astype(np.int64)


def _check_names(path: Path, names: NDArray, count: int) -> list[str]:
    where = f"data.path: 'class_names' in {path}"
    accepted = f"accepted: text ({count},) or longer, a name for each class" if count else "accepted: only with labels"
    if names.dtype.kind != "U":
        raise UserError(f"{where}: found {names.dtype}; {accepted}")
    if names.ndim != 1 or not 0 < count <= len(names) <= MAXIMUM_CLASSES:  # the last classes may have no image
        raise UserError(f"{where}: found shape {names.shape}; {accepted}")
    found = [str(name) for name in names]
    for name, times in Counter(found).items():
        if not name.strip() or not name.isprintable():
            raise UserError(f"{where}: found {name!r}; accepted: printable names")
        if times > 1:
            raise UserError(f"{where}: {name!r} is there twice; accepted: each name once")
    return found
