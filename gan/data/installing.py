"""Directories that several processes may want at once: one writes, the others wait and find it whole."""

import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gan.errors import StorageError
from gan.files import sync_directory


def install(directory: Path, fill: Callable[[Path], None], is_whole: Callable[[], bool]) -> None:
    """Let `fill` write a directory beside `directory`, then rename it into place, over whatever was damaged there.

    Args:
        directory: where it belongs.
        fill: writes into the directory it is given.
        is_whole: whether a good one is in place; another host may have been first where locks are not supported.

    Raises:
        StorageError: it cannot be written.
    """
    unfinished = directory.with_name(f".{directory.name}.{uuid.uuid4().hex}.tmp")
    try:
        with _naming_the_root(directory.parent):
            unfinished.mkdir()
            fill(unfinished)
            while not _put(unfinished, directory, is_whole):
                pass  # another process took the place between a look and a rename: look again
            sync_directory(directory.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _put(unfinished: Path, directory: Path, is_whole: Callable[[], bool]) -> bool:
    """Rename `unfinished` to `directory` unless a whole one is there; returns whether there is one now."""
    if is_whole():
        return True
    replaced = unfinished.with_name(f".{directory.name}.{uuid.uuid4().hex}.old.tmp")
    try:
        if directory.exists():
            directory.rename(replaced)
        unfinished.rename(directory)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT) or not unfinished.exists():
            raise
        return False
    finally:
        shutil.rmtree(replaced, ignore_errors=True)
    return True


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Wait for the lock and hold it; yields False where the file system has no locks and nothing is held."""
    with _naming_the_root(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            alone = True
        except OSError:
            alone = False
        yield alone
    finally:
        os.close(descriptor)


@contextmanager
def _naming_the_root(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot prepare images in {root}: {error.strerror or error}") from error
