"""One split from listing to store: rows decoded and journalled, read back against their checksums, sealed."""

import hashlib
import io
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from gan.data.image_folder import require_classes
from gan.data.preparation.decoding import CORRUPT, Block, Task, decoded
from gan.data.preparation.inputs import Input
from gan.data.preparation.listing import Listing
from gan.data.preparation.selection import Chosen
from gan.data.store import IMAGES, LABELS, META, write_meta
from gan.errors import StorageError, UserError
from gan.files import atomic_path, sync
from gan.progress import lasting_bar, passing_bar

FILES = "files.jsonl"  # of the rows in order
JOURNAL = "journal"  # of an unfinished split: 8 bytes for each row that was read, in the order of reading
BLOCK_IMAGES, BLOCK_BYTES = 256, 2**22  # what a worker is given at a time
CHUNK_BYTES = 2**23  # what is read back at a time

Checks = NDArray[np.uint64]


def write_split(
    directory: Path, name: str, source: Input, chosen: Chosen, resolution: int, skip_corrupt: bool, processes: int
) -> None:
    """Make `directory` the store of `chosen`, going on where a killed call stopped.

    Raises:
        UserError: without `skip_corrupt` the first image that cannot be read; with it, that none can.
        StorageError: no room, or the disk returns other bytes than were written.
    """
    if (directory / META).exists():  # written last
        return
    directory.mkdir(exist_ok=True)
    order = np.argsort(chosen.files, kind="stable")
    start = _reserve(directory / IMAGES, (len(chosen.files), resolution, resolution, 3))
    task = Task(source, chosen.files, order, resolution, directory / IMAGES, start)
    checks, reasons = _fill(task, directory / JOURNAL, name, skip_corrupt, processes)
    if (checks == CORRUPT).all():
        raise UserError(f"{source.listing.full_name(int(chosen.files[0]))} and all others: cannot be read as images")
    if chosen.labels is not None:
        require_classes(chosen.labels, checks != CORRUPT, chosen.class_names, source.listing.containers[0])
    _seal(directory, name, task, chosen, checks, reasons)
    (directory / JOURNAL).unlink()


def _fill(task: Task, path: Path, name: str, skip_corrupt: bool, processes: int) -> tuple[Checks, dict[int, str]]:
    """Decode what the journal does not have; returns each row's check and, for the corrupt ones, the reason."""
    checks: Checks = np.zeros(len(task.files), dtype=np.uint64)
    reasons: dict[int, str] = {}
    with path.open("a+b") as journal:
        done = _resume(task, journal, checks)
        again = np.flatnonzero(checks[task.order[:done]] == CORRUPT)  # the journal has no reasons
        bar = lasting_bar(len(task.files), f"preparing {name}", "images", initial=done)
        with bar:
            for block, outcome in decoded(task, _blocks(task, again, done), processes):
                if outcome.reasons and not skip_corrupt:
                    row = min(outcome.reasons, key=lambda row: int(task.files[row]))
                    where = task.source.listing.full_name(int(task.files[row]))
                    raise UserError(f"cannot read the image {where} ({outcome.reasons[row]}); see --skip-corrupt")
                reasons |= outcome.reasons
                checks[task.order[block.first : block.last]] = outcome.checks
                if block.first >= done:
                    journal.write(np.array(outcome.checks, dtype="<u8").tobytes())
                    journal.flush()
                    bar.update(len(outcome.checks))
    return checks, reasons


def _resume(task: Task, journal: BinaryIO, checks: Checks) -> int:
    """How many rows, in the order of reading, lie in the file as the journal has them; it is cut to that length."""
    journal.seek(0)
    found = np.frombuffer(journal.read(8 * len(task.files)) + b"", dtype=np.uint8)
    found = found[: len(found) // 8 * 8].view("<u8")
    done = 0
    with task.target.open("rb") as file:
        for row, check in zip(task.order, found, strict=False):
            if check != CORRUPT:
                file.seek(task.position(int(row)))
                if zlib.crc32(file.read(task.row_bytes)) != check:
                    break
            done += 1
    journal.truncate(8 * done)
    checks[task.order[:done]] = found[:done]
    return done


def _blocks(task: Task, again: NDArray, done: int) -> Iterator[Block]:
    """The positions `again`, then those from `done`, in runs; with their bytes where the source is read in order."""

    def positions() -> Iterator[int]:
        yield from again.tolist()
        yield from range(done, len(task.order))

    stream = None
    if task.source.sequential:
        stream = task.source.stream(int(task.files[task.order[position]]) for position in positions())
    run: list[int] = []
    data: list[bytes] = []
    size = 0
    for position in positions():
        if run and (position != run[-1] + 1 or len(run) == BLOCK_IMAGES or size > BLOCK_BYTES or position == done):
            yield Block(run[0], run[-1] + 1, None if stream is None else tuple(data))
            run, data, size = [], [], 0
        run.append(position)
        if stream is not None:
            data.append(next(stream))
            size += len(data[-1])
    if run:
        yield Block(run[0], run[-1] + 1, None if stream is None else tuple(data))


def _header(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def _reserve(path: Path, shape: tuple[int, ...]) -> int:
    """Make the file of an array as long as it will be; returns where the pixels start."""
    header = _header(shape)
    size = len(header) + int(np.prod(shape, dtype=np.int64))
    with path.open("ab") as file:
        missing = size - os.fstat(file.fileno()).st_blocks * 512
        free = shutil.disk_usage(path.parent).free
        if missing > free:
            raise StorageError(f"{path.parent} has {free / 2**20:,.1f} MiB free; needed: {missing / 2**20:,.1f} MiB")
        file.truncate(size)
    with path.open("rb+") as file:
        file.write(header)
    return len(header)


def _seal(directory: Path, name: str, task: Task, chosen: Chosen, checks: Checks, reasons: dict[int, str]) -> None:
    """Read all rows back, close the gaps of corrupt ones, and write what makes the directory a store."""
    kept = checks != CORRUPT
    shape = (int(kept.sum()), task.resolution, task.resolution, 3)
    digest = hashlib.sha256(repr(shape).encode())
    if kept.all():
        for rows in _read_back(task, checks, name):
            digest.update(rows.data)
        with task.target.open("rb+") as file:
            sync(file)
    else:
        with atomic_path(task.target) as temporary, temporary.open("wb") as file:
            file.write(_header(shape))
            for rows in _read_back(task, checks, name):
                digest.update(rows.data)
                file.write(rows.data)
    if chosen.labels is not None:
        labels = chosen.labels[kept]
        digest.update(labels.tobytes())
        with atomic_path(directory / LABELS) as temporary, temporary.open("wb") as file:
            np.save(file, labels)
    _write_list(directory, task.source.listing, chosen, kept)
    skipped = {_name(task.source.listing, int(chosen.files[row])): reasons[row] for row in sorted(reasons)}
    write_meta(directory, "prepared", name, shape, chosen.class_names, digest.hexdigest(), skipped)


def _read_back(task: Task, checks: Checks, name: str) -> Iterator[NDArray[np.uint8]]:
    """The rows that are whole, uint8 (n, bytes of a row), compared with their checks."""
    count = max(1, CHUNK_BYTES // task.row_bytes)
    bar = passing_bar(len(checks), f"verifying {name}", "images", delay=2)
    with bar, task.target.open("rb") as file:
        file.seek(task.start)
        for first in range(0, len(checks), count):
            expected = checks[first : first + count]
            rows = np.frombuffer(file.read(len(expected) * task.row_bytes), np.uint8).reshape(-1, task.row_bytes)
            wrong = [
                index for index, check in enumerate(expected) if check != CORRUPT and zlib.crc32(rows[index]) != check
            ]
            if wrong:
                raise StorageError(f"{task.target}: image {first + wrong[0]} is not what was written; run it again")
            yield rows[expected != CORRUPT]
            bar.update(len(expected))


def _write_list(directory: Path, listing: Listing, chosen: Chosen, kept: NDArray[np.bool_]) -> None:
    with atomic_path(directory / FILES) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in np.flatnonzero(kept):
            index = int(chosen.files[row])
            line = {"file": listing.path(index)}
            if len(listing.containers) > 1:
                line["archive"] = _archive(listing, index)
            if chosen.labels is not None:
                line["class"] = chosen.class_names[chosen.labels[row]]
            file.write(json.dumps(line) + "\n")


def _name(listing: Listing, index: int) -> str:
    """An image as people know it: its path, behind its archive where there are several."""
    return f"{_archive(listing, index)}:{listing.path(index)}" if len(listing.containers) > 1 else listing.path(index)


def _archive(listing: Listing, index: int) -> str:
    return Path(listing.containers[listing.place(index).container]).name
