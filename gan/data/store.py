"""Every source prepared once, into one memory-mapped uint8 array and its labels, keyed by content."""

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gan import distributed
from gan.data.image_store import ImageStore
from gan.data.recipe import Content, Recipe
from gan.data.sources import SOURCES, source_info
from gan.errors import StorageError, UserError, nearest
from gan.files import atomic_folder, locked, read_array, sweep, write_text
from gan.progress import say_once

FORMAT = 1  # of a prepared directory; a new number prepares everything anew
IMAGES, LABELS, META = "images.npy", "labels.npy", "meta.json"


def prepare(
    source: str,
    *,
    split: str = "train",
    resolution: int = 32,
    path: str | Path | None = None,
    root: str | Path = "outputs/data",
    classes: int | Sequence[str] | None = None,
    images_per_class: int | None = None,
    count: int | None = None,
    skip_corrupt: bool = False,
) -> ImageStore:
    """Open the images of `source`, preparing them first unless `root` already has them whole.

    They lie in `root/<source>-<split>-<key>/`, where the key follows the options and the files they are made from.
    Several processes may ask at once: one prepares, the others wait for it. Files that `skip_corrupt` left out are
    named on standard error.

    Raises:
        UserError: a `data.<option>` that is unknown, missing, not taken by the source, or names unusable files.
        StorageError: `root` cannot be written.
    """
    root = Path(root)
    options = {"path": path, "classes": classes, "images_per_class": images_per_class, "count": count}
    given = _given(source, split, resolution, root, {**options, "skip_corrupt": skip_corrupt or None})
    make_recipe = SOURCES[source].recipe
    if make_recipe is None:
        return _open_prepared(given["path"], resolution)
    recipe = make_recipe(split=split, resolution=resolution, **given)
    directory = root / f"{source}-{split}-{_key(source, split, resolution, recipe)}"
    store = open_directory(directory) or _prepare_once(
        directory, recipe, source, split
    )  # opening needs no right to write
    if store.skipped and distributed.is_main():
        say_once(store.skipped_line(f"data.path: {given['path']}"))
    compose = SOURCES[source].compose
    return store if compose is None else compose(store)


def _given(source: str, split: str, resolution: int, root: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """What the source's recipe is given of `options`, once they are found to fit it; None is not given."""
    info = source_info(source)
    given = {name: value for name, value in options.items() if value is not None}
    check_options(source, given, split, resolution)
    if "path" in given:
        path = given["path"] = _existing(Path(given["path"]).expanduser())
        if info.downloads and not info.archives and path.is_file():
            raise UserError(f"data.path: {path} is a file; accepted: torchvision's folder, or data.source=npz")
    if info.downloads:
        given["root"] = root / "torchvision"
    return given


def outline(source: str, split: str, resolution: int, root: Path, options: Mapping[str, Any]) -> tuple[int, int] | None:
    """Channels and number of classes, 0 without labels, of what `prepare` would give of the same arguments.

    No image is decoded and nothing is written; None where the source cannot tell without.

    Raises:
        UserError: as `prepare`.
    """
    given = _given(source, split, resolution, root, options)
    make_recipe = SOURCES[source].recipe
    if make_recipe is None:
        store = _open_prepared(given["path"], resolution)
        return store.channels, store.num_classes
    recipe = make_recipe(split=split, resolution=resolution, **given)
    return None if recipe.outline is None else recipe.outline()


def _prepare_once(directory: Path, recipe: Recipe, source: str, split: str) -> ImageStore:
    def is_whole() -> bool:
        return open_directory(directory) is not None

    with locked(directory.with_name(f".{source}.lock")) as alone:  # per source: its splits share their downloads
        if not is_whole():  # nobody prepared it while this process waited
            if alone:
                sweep(directory.parent, directory.name)
            with atomic_folder(directory, is_whole) as unfinished:
                _write(unfinished, recipe.read(), source, split)
    store = open_directory(directory)
    if store is None:
        raise StorageError(f"cannot read back {directory}, which was just written")
    return store


def check_options(source: str, given: Collection[str], split: str, resolution: int) -> None:
    """Check that a source takes the options that it is given, `path`, `classes` and so on, and is given what it needs.

    Raises:
        UserError: it does not, is not, or has no such split.
    """
    info = source_info(source)
    for name in given:
        if name not in info.options:
            accepted = ", ".join(f"data.{option}" for option in info.options) or "none"
            raise UserError(f"data.{name}: the source {source} does not take it; accepted: {accepted}")
    for name in info.required:
        if name not in given:
            raise UserError(f"data.{name}: nothing given, but the source {source} needs it")
    if info.splits and split not in info.splits:
        raise UserError(f"data.split: {source} has no split {split!r}{nearest(split, info.splits)}")
    if not re.fullmatch(r"\w[\w.-]*", split):
        raise UserError(f"data.split: found {split!r}; accepted: letters, digits, '_', '-' and '.'")
    if not isinstance(resolution, int) or isinstance(resolution, bool) or resolution < 1:
        raise UserError(f"data.resolution: found {resolution!r}; accepted: an integer of at least 1")


def split_of(path: Path) -> str:
    """The split that a file or folder stands for by its own name: `x/cifar10_test.npz` → `cifar10_test`.

    What a split cannot have in it, such as spaces, becomes `_`.
    """
    return re.sub(r"[^\w.-]+", "_", path.absolute().stem).lstrip(".-") or "images"


def _existing(path: Path) -> Path:
    if not path.exists():
        raise UserError(f"data.path: {path} does not exist; accepted: an existing file or folder")
    return path


def _key(source: str, split: str, resolution: int, recipe: Recipe) -> str:
    identity = json.dumps([FORMAT, source, split, resolution, recipe.identity])
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def _open_prepared(directory: Path, resolution: int) -> ImageStore:
    store = open_directory(directory)
    if store is None:
        splits = sorted(str(meta.parent) for meta in directory.glob(f"*/{META}"))
        accepted = " or ".join(splits) or "what `gan prepare` wrote as --out"
        raise UserError(f"data.path: {directory} is not a whole directory of prepared images; accepted: {accepted}")
    if store.resolution != resolution:
        raise UserError(
            f"data.resolution: found {resolution}, but {directory} was prepared otherwise; accepted: {store.resolution}"
        )
    return store


def open_directory(directory: Path) -> ImageStore | None:
    """The store in `directory`, or None when it is missing or damaged in any way that shows without reading it all."""
    try:
        meta = json.loads((directory / META).read_text(encoding="utf-8"))
        if any((directory / name).stat().st_size != size for name, size in meta["bytes"].items()):
            return None
        images = read_array(directory / IMAGES, mapped=True)
        labels = read_array(directory / LABELS) if LABELS in meta["bytes"] else None
        if meta["format"] != FORMAT or list(images.shape) != meta["shape"] or images.dtype != np.uint8:
            return None
        if labels is not None and (labels.shape != images.shape[:1] or labels.dtype != np.int64):
            return None
        names = tuple(meta["class_names"])
        skipped = {str(file): str(reason) for file, reason in meta.get("skipped", {}).items()}
        return ImageStore(images, labels, names, meta["content_hash"], meta["source"], meta["split"], skipped=skipped)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _write(directory: Path, content: Content, source: str, split: str) -> None:
    """Write images, labels and, last, the meta file; the hash is taken from the blocks as they pass."""
    digest = hashlib.sha256(repr(content.shape).encode())
    written = 0
    with (directory / IMAGES).open("xb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": content.shape}
        np.lib.format.write_array_header_1_0(file, header)
        for block in content.blocks:
            pixels = np.ascontiguousarray(block)
            if pixels.dtype != np.uint8 or pixels.shape[1:] != content.shape[1:]:
                raise ValueError(f"block {pixels.dtype} {pixels.shape} among images of shape {content.shape}")
            file.write(pixels.data)
            digest.update(pixels.data)
            written += len(pixels)
    if written != content.shape[0]:
        raise ValueError(f"{written} images were read where {content.shape[0]} were announced")
    if content.labels is not None:
        digest.update(content.labels.tobytes())
        with (directory / LABELS).open("xb") as file:
            np.save(file, content.labels)
    write_meta(directory, source, split, content.shape, content.class_names, digest.hexdigest(), content.skipped)


def write_meta(
    directory: Path,
    source: str,
    split: str,
    shape: tuple[int, ...],
    class_names: Sequence[str],
    content_hash: str,
    skipped: Mapping[str, str],
) -> None:
    """Make `directory`, whose arrays are there, a store: `content_hash` and what else `open_directory` checks.

    Files that were `skipped`, and why, are named where there are any.
    """
    meta = {
        "format": FORMAT,
        "source": source,
        "split": split,
        "shape": shape,
        "class_names": class_names,
        "content_hash": content_hash,
        "bytes": {file.name: file.stat().st_size for file in sorted(directory.glob("*.npy"))},
        **({"skipped": dict(skipped)} if skipped else {}),
    }
    write_text(directory / META, json.dumps(meta, indent=1))
