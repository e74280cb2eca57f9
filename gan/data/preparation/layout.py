"""From files to classes: which split and class each image belongs to, and in which order they come."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby, takewhile

import numpy as np
from numpy.typing import NDArray

from gan.data.image_folder import SPLITS, SUFFIXES
from gan.data.preparation.listing import UNLABELLED, Listing
from gan.errors import UserError

Indices = NDArray[np.int64]  # into the listing


@dataclass(frozen=True)
class Split:
    """The images of one split in order: by class name, then file name. One group of all where `classes` is None."""

    classes: tuple[str, ...] | None
    groups: tuple[Indices, ...]


def arrange(listing: Listing, source: str, archive: bool) -> dict[str, Split]:
    """The splits by name; the only one of an undivided source is named "".

    `<class>/<image>`, or images without classes; either below `train`, `val`, `test` where there is a `train` and no
    other folder beside them. A folder `images` within a class or split is passed over (as tiny-ImageNet has), and so
    is, in an archive, the folder that holds everything else. Labels of webdataset go before folders; the order of a
    class is then that of the shards.

    Raises:
        UserError: no images, classes without any, images beside class folders or below them, or some without a label.
    """
    if not len(listing):
        raise UserError(f"{source} has no images; accepted: files with {', '.join(SUFFIXES)}")
    if listing.label_names:
        return {"": _labelled(listing)}
    members = _members(np.asarray(listing.folder_of), len(listing.folders))
    places = _folders(listing, archive)
    tops = {parts[0] if parts else "" for parts in places.values()}
    divided = "train" in tops and tops <= set(SPLITS)
    splits: dict[str, dict[tuple[str, ...], list[Indices]]] = {}
    for folder, parts in places.items():
        name, rest = (parts[0], parts[1:]) if divided else ("", parts)
        splits.setdefault(name, {}).setdefault(rest, []).append(members[folder])
    return {name: _split(listing, source, name, splits[name]) for name in sorted(splits)}


def _folders(listing: Listing, archive: bool) -> dict[int, tuple[str, ...]]:
    """Folder number → its parts, of those that count: with images, or without any folder that has (an empty class)."""
    full = set(listing.folder_of)
    parts = {number: tuple(name.split("/")) if name else () for number, name in enumerate(listing.folders)}
    above = {parts[number][:depth] for number in parts for depth in range(len(parts[number]))}
    kept = {number: found for number, found in parts.items() if number in full or found not in above}
    if archive:
        depth = _common_depth(list(kept.values()))
        kept = {number: found[depth:] for number, found in kept.items()}
    return {number: found[:-1] if found[1:] and found[-1] == "images" else found for number, found in kept.items()}


def _common_depth(folders: list[tuple[str, ...]]) -> int:
    """How many leading parts all have."""
    columns = zip(*folders, strict=False)
    return sum(1 for _ in takewhile(lambda parts: len(set(parts)) == 1, columns))


def _split(listing: Listing, source: str, name: str, folders: dict[tuple[str, ...], list[Indices]]) -> Split:
    where = f"{source}/{name}" if name else source
    deep = next((parts for parts, found in folders.items() if len(parts) > 1 and any(map(len, found))), None)
    if deep is not None:
        raise UserError(f"{where}: {'/'.join(deep)} has images; accepted: <class>/<image>, or all in one folder")
    folders = {parts: found for parts, found in folders.items() if len(parts) < 2}
    if () in folders and len(folders) > 1:
        loose = listing.path(int(folders[()][0][0]))
        raise UserError(f"{where} has both class folders and loose images ({loose}); accepted: either")
    groups = {"/".join(parts): _ordered(listing, found) for parts, found in sorted(folders.items())}
    empty = next((parts for parts, group in groups.items() if not len(group)), None)
    if empty is not None:
        raise UserError(f"{where}: the folder {empty or '.'} has no images; accepted: {', '.join(SUFFIXES)} in it")
    return Split(None if () in folders else tuple(groups), tuple(groups.values()))


def _labelled(listing: Listing) -> Split:
    labels = np.asarray(listing.label_of)
    if (labels == UNLABELLED).any():
        first = int(np.argmax(labels == UNLABELLED))
        raise UserError(f"{listing.full_name(first)} has no .cls or .json with a label; accepted: all images or none")
    members = _members(labels, len(listing.label_names))
    names = listing.label_names
    numbers = sorted(range(len(names)), key=lambda number: class_order(names[number]))
    return Split(tuple(names[number] for number in numbers), tuple(members[number] for number in numbers))


def class_order(name: str) -> tuple[int, str]:
    """Sorts class names, and numbers by their value, so that the label 7 of a whole set is 7."""
    return (len(name), name) if name.isdecimal() else (1_000, name)


def _members(numbers: NDArray, count: int) -> list[Indices]:
    """For each of 0..count−1 the ascending positions where `numbers` has it."""
    order = np.argsort(numbers, kind="stable").astype(np.int64)
    return np.split(order, np.searchsorted(numbers[order], np.arange(1, count)))


def _ordered(listing: Listing, parts: Iterable[Indices]) -> Indices:
    """By file name; of one file stored twice in an archive the later, as an unpacked tar would have it."""

    def key(index: int) -> bytes:
        folder, container = listing.folder_of[index], listing.place(index).container
        return listing.name(index) + struct.pack(">cII", b"\0", folder, container)

    ordered = sorted(np.sort(np.concatenate(list(parts))).tolist(), key=key)
    last = [list(same)[-1] for _, same in groupby(ordered, key)]
    return np.array(last, dtype=np.int64)
