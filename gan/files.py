"""Whole files or none: everything that matters is written beside its place, synced, then renamed over it."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from gan.errors import StorageError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same directory; on success it is synced and replaces `path`, else it is removed.

    Raises:
        StorageError: the directory is read-only, the disk is full, or a quota is reached.
    """
    with _replacing(Path(path), lambda temporary: temporary.unlink(missing_ok=True)) as temporary:
        yield temporary
        with temporary.open("rb+") as file:
            sync(file)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, new or empty; on success its files are synced and it becomes `path`.

    Raises:
        StorageError: as `atomic_path`.
    """
    with _replacing(Path(path).resolve(), lambda temporary: shutil.rmtree(temporary, ignore_errors=True)) as temporary:
        temporary.mkdir()
        yield temporary
        for entry in temporary.iterdir():
            with entry.open("rb+") as file:
                sync(file)


@contextmanager
def _replacing(path: Path, remove: Callable[[Path], object]) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        remove(temporary)


def sweep(directory: Path, name: str = "*") -> None:
    """Remove what a process that was killed while it wrote `name` left in a directory; for who alone writes it."""
    for leftover in directory.glob(f".{name}.*.tmp"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            with suppress(OSError):
                leftover.unlink()


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


def sync(file: BinaryIO) -> None:
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
