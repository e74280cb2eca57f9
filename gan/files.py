"""Whole files or none, and one process at a time.

Everything that matters is written beside its place, synced, then renamed over it.
"""

import errno
import fcntl
import glob
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock

from gan.errors import StorageError

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # of a file system
_TAKEN = (
    errno.ENOTEMPTY,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.ENOENT,
)  # another process took the place between a look and a rename


@contextmanager
def atomic_path(path: str | Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the same directory; on success it replaces `path`, else it is removed.

    Args:
        durable: whether it is synced first, so that no crash of the machine leaves an empty file.

    Raises:
        StorageError: the directory is read-only, the disk is full, or a quota is reached.
    """
    path = Path(path)
    with _writing(path), _unfinished(path, folder=False, sweeping=durable) as temporary:
        yield temporary
        if durable:
            with temporary.open("rb+") as file:
                sync(file)
        temporary.replace(path)
        if durable:
            sync_directory(path.parent)


@contextmanager
def atomic_folder(path: str | Path, is_whole: Callable[[], bool] | None = None) -> Iterator[Path]:
    """Yield a new temporary folder beside `path`; on success its files are synced and it becomes `path`.

    Args:
        is_whole: whether a good folder is in place by then, which is kept; any other is replaced. With None nothing
            but an empty folder is replaced.

    Raises:
        StorageError: as `atomic_path`.
    """
    path = Path(path).resolve()
    with _writing(path), _unfinished(path, folder=True, sweeping=True) as temporary:
        yield temporary
        for entry in temporary.iterdir():
            with entry.open("rb+") as file:
                sync(file)
        sync_directory(temporary)
        if is_whole is None:
            temporary.replace(path)
        else:
            while not _put(temporary, path, is_whole):
                pass
        sync_directory(path.parent)


def _put(folder: Path, path: Path, is_whole: Callable[[], bool]) -> bool:
    """Rename `folder` to `path` unless a whole one is there; returns whether there is one now."""
    if is_whole():
        return True
    # Where nothing is in the way, the rename itself decides who of several comes first, and nobody's is moved away.
    try:
        folder.rename(path)
        return True
    except OSError as error:
        if error.errno not in _TAKEN or not folder.exists():
            raise
    if is_whole():
        return True
    replaced = _beside(path)
    try:
        path.rename(replaced)
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
    finally:
        shutil.rmtree(replaced, ignore_errors=True)
    return False


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def _unfinished(path: Path, *, folder: bool, sweeping: bool) -> Iterator[Path]:
    """A new file or folder beside `path`, held by this process, and gone in the end unless it was renamed.

    What others have left there and nobody holds is removed before, with `sweeping`.
    """
    make_directory(path.parent)
    if sweeping:
        sweep(path.parent, path.name)
    temporary, descriptor = _begin(path, folder)
    try:
        yield temporary
    finally:
        _remove(temporary)
        os.close(descriptor)


def _begin(path: Path, folder: bool) -> tuple[Path, int]:
    while True:
        temporary = _beside(path)
        temporary.mkdir() if folder else temporary.touch(exist_ok=False)
        try:
            descriptor = os.open(temporary, os.O_RDONLY)
        except OSError:
            _remove(temporary)
            raise
        with suppress(OSError):  # of a file system without locks, where nothing is swept either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if temporary.exists():  # else somebody has swept it before it was held
            return temporary, descriptor
        os.close(descriptor)


def _beside(path: Path) -> Path:
    """A new name in the same directory, which `sweep` knows."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


@contextmanager
def locked(path: Path, patience: float = -1) -> Iterator[bool]:
    """Hold the lock file `path`, made if need be, for this process alone; yields False where the file system has no
    locks and nothing is held.

    Args:
        patience: seconds to wait for another process; negative for as long as it takes.

    Raises:
        TimeoutError: another process holds it.
        StorageError: it cannot be made.
    """
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    lock = FileLock(path, timeout=patience, fallback_to_soft=False)  # a soft lock outlives a killed holder
    try:
        lock.acquire()
    except TimeoutError:
        raise
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock file `path`; nothing is made or written."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # of a file system without locks
        return False
    finally:
        os.close(descriptor)
    return False


def sweep(directory: Path, name: str = "*") -> None:
    """Remove what processes that were killed while they wrote `name` left in a directory.

    Every writer holds a lock on what it writes, which ends with its process, so only what nobody writes is removed.
    """
    for leftover in directory.glob(f".{glob.escape(name) if name != '*' else name}.*.tmp"):
        try:
            descriptor = os.open(leftover, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(leftover)
        except OSError:  # it is held, or the file system has no locks
            pass
        finally:
            os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def make_directory(path: Path) -> None:
    """Make a directory and those above it, so that no crash of the machine loses their names.

    Raises:
        OSError: it cannot be made, or a file is in the way.
    """
    missing = [place for place in (path, *path.parents) if not place.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for place in missing:
        sync_directory(place.parent)


def read_array(path: Path, *, mapped: bool = False) -> np.ndarray:
    """The array of a .npy file, or with `mapped` a read-only memory map of it; nothing in it is executed.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is damaged.
    """
    try:
        return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # NumPy parses headers as Python: tokens, syntax and values share no type of error
        raise ValueError(f"{path} is not a whole array ({error})") from error


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` atomically, as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sync(file: IO[Any]) -> None:
    """Bring what was written to the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Bring a directory's names to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
