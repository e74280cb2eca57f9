"""What a command line can name: a folder, an archive, or a pattern of shards."""

import glob
import os
import re
import zipfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Protocol

from gan.data.image_folder import is_folder, is_image
from gan.data.preparation.listing import Listing, Place
from gan.data.preparation.tars import TarInput
from gan.data.preparation.zips import ZipInput
from gan.errors import UserError, printable
from gan.progress import passing

_SHARDS = 100_000  # the most that a pattern may stand for
ACCEPTED = "a folder, .tar, .tar.gz, .zip, or shards as 'train-{000..146}.tar' or 'train-*.tar'"


class Input(Protocol):
    """Images and how to get at their bytes; `fingerprint` changes whenever the images may have.

    `read` raises any Exception where an image cannot be had. With `sequential` only `stream` can be used, with indices
    that ascend.
    """

    listing: Listing
    fingerprint: str
    sequential: bool

    def read(self, index: int) -> bytes: ...

    def stream(self, indices: Iterator[int]) -> Iterator[bytes]: ...


class FolderInput:
    """All images below `path`; `read` gives a file's bytes."""

    sequential = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listing = Listing([f"{path}/"])
        self._list("")
        self.fingerprint = self.listing.fingerprint()

    def read(self, index: int) -> bytes:
        """The whole file.

        Raises:
            OSError: it cannot be read.
        """
        path = self.path / self.listing.path(index)
        if not path.is_file():  # to read a pipe would wait for whoever writes to it
            raise OSError("not a regular file")
        return path.read_bytes()

    def stream(self, indices: Iterator[int]) -> Iterator[bytes]:
        """The files one after the other."""
        return map(self.read, indices)

    def _list(self, folder: str) -> None:
        """Add what `folder` holds; links to folders are followed, as image folders always were, but not in a circle."""
        directory = self.path / folder
        if directory.resolve() in (parent.resolve() for parent in directory.absolute().parents):
            return
        files, subfolders = [], []
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    if is_folder(entry):
                        subfolders += [entry.name] if not entry.name.startswith(".") else []
                    elif is_image(entry.name):
                        files.append(entry.name)
                    else:
                        self.listing.ignored.file(entry.name)
            self.listing.add_folder(folder)
            for name in passing(sorted(files), printable(f"listing {directory}"), "files", delay=2):
                self.listing.add(folder, name, _place(f"{directory}/{name}"))
        except OSError as error:
            raise UserError(f"cannot list {error.filename or directory} ({error.strerror})") from error
        for name in sorted(subfolders):
            self._list(f"{folder}/{name}" if folder else name)


def _place(path: str) -> Place:
    """Size and time of a file; -1 where they cannot be had, as of a link to nothing, whose reading then fails."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return Place(0, -1, -1, 0)
    return Place(0, status.st_mtime_ns, status.st_size, 0)


def open_input(source: str | Path) -> Input:
    """List the images of a folder, archive, or shards.

    Raises:
        UserError: there is no such thing, or it cannot be listed.
    """
    paths = [Path(name) for name in _expand(str(Path(source).expanduser()))]
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist; accepted: {ACCEPTED}")
    try:
        if len(paths) == 1 and paths[0].is_dir():
            return FolderInput(paths[0])
        if not all(path.is_file() for path in paths):
            raise UserError(f"{source} means {len(paths)} files and folders; accepted: {ACCEPTED}")
        if zipfile.is_zipfile(paths[0]):
            if len(paths) > 1:
                raise UserError(f"{source} means {len(paths)} zip archives; accepted: one, or tar shards")
            return ZipInput(paths[0])
        return TarInput(paths)
    except OSError as error:
        raise UserError(f"cannot read {error.filename or source} ({error.strerror or error})") from error


def _expand(pattern: str) -> list[str]:
    """`a-{00..11}.tar`, `{train,val}.tar` and `*.tar` as the shell reads them; an existing name means itself."""
    if Path(pattern).exists():
        return [pattern]
    found: list[str] = []
    for name in islice(_braces(pattern), _SHARDS + 1):
        found += (sorted(glob.glob(name)) or [name]) if glob.has_magic(name) else [name]  # noqa: PTH207
        if len(found) > _SHARDS:
            raise UserError(f"{pattern} means more than {_SHARDS} files; accepted: at most that many")
    return list(dict.fromkeys(found))


def _braces(pattern: str) -> Iterator[str]:
    match = re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", pattern)
    if match is None:
        yield pattern
        return
    first, last, choices = match.groups()
    if choices is None:
        width = len(first) if first.startswith("0") else 0
        step = 1 if int(first) <= int(last) else -1
        parts: Iterator[str] = (f"{number:0{width}d}" for number in range(int(first), int(last) + step, step))
    else:
        parts = iter(choices.split(","))
    for part in parts:
        yield from _braces(pattern[: match.start()] + part + pattern[match.end() :])
