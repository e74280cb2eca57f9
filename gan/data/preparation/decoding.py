"""From stored bytes to rows of pixels, in processes of their own, any of which may die without ending the work."""

import gc
import multiprocessing
import os
import signal
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gan.data.image_folder import decode_rgb, reason
from gan.data.preparation.inputs import Input
from gan.data.preparation.layout import Indices
from gan.data.recipe import Pixels, square

CORRUPT = 2**32  # where a checksum of 32 bits would stand


@dataclass(frozen=True)
class Task:
    """What every worker knows: image `files[row]` of `source` goes to `position(row)` of the file `target`."""

    source: Input
    files: Indices
    order: Indices  # the rows as they are read
    resolution: int
    target: Path
    start: int

    @property
    def row_bytes(self) -> int:
        return self.resolution**2 * 3

    def position(self, row: int) -> int:
        """The byte of `target` where a row begins."""
        return self.start + row * self.row_bytes


class Block(NamedTuple):
    """The rows `order[first:last]`, with their bytes where only the parent can read them."""

    first: int
    last: int
    data: tuple[bytes, ...] | None


class Outcome(NamedTuple):
    """For each row of a block the CRC-32 of its pixels or CORRUPT, and for each corrupt row the reason."""

    checks: list[int]
    reasons: dict[int, str]


def decode_row(data: bytes, resolution: int) -> Pixels:
    """uint8 (resolution, resolution, 3): what `data.source: image_folder` makes of the same bytes.

    Raises:
        Exception: of almost any type on damaged bytes.
    """
    return np.ascontiguousarray(np.asarray(square(decode_rgb(BytesIO(data)), resolution)))


def decoded(task: Task, blocks: Iterator[Block], processes: int) -> Iterator[tuple[Block, Outcome]]:
    """Decode blocks in parallel and write their rows; outcomes come in the order of the blocks, few wait at a time.

    Where a worker dies (a decoder crashed, or the system wanted its memory), the images of its block are tried again
    one by one; an image whose worker dies once more is corrupt.

    Raises:
        OSError: the rows cannot be written.
        MemoryError: a worker has no room to decode.
    """
    pool = _pool(task, processes)
    waiting: deque[tuple[Block, Future[Outcome]]] = deque()
    try:
        while True:
            for block in islice(blocks, 2 * processes + 2 - len(waiting)):
                waiting.append((block, _submit(pool, block)))
            if not waiting:
                return
            oldest, future = waiting.popleft()
            try:
                outcome = future.result()
            except BrokenProcessPool:
                outcome = _one_by_one(task, oldest)
                pool.shutdown()
                pool = _pool(task, processes)
                waiting = deque((later, _submit(pool, later)) for later, _ in waiting)
            yield oldest, outcome
    finally:
        pool.shutdown(cancel_futures=True)


def _submit(pool: ProcessPoolExecutor, block: Block) -> Future[Outcome]:
    try:
        return pool.submit(_decode, block)
    except BrokenProcessPool as error:  # known only when the oldest outcome is taken
        broken: Future[Outcome] = Future()
        broken.set_exception(error)
        return broken


def _one_by_one(task: Task, block: Block) -> Outcome:
    """The outcome of a block whose worker died: what kills its worker even when it is alone is corrupt."""
    whole = Outcome([], {})
    for place in range(block.last - block.first):
        position = block.first + place
        with _pool(task, 1) as pool:
            data = None if block.data is None else (block.data[place],)
            try:
                one = pool.submit(_decode, Block(position, position + 1, data)).result()
            except BrokenProcessPool:
                one = Outcome([CORRUPT], {int(task.order[position]): "its decoder crashed"})
        whole.checks.extend(one.checks)
        whole.reasons.update(one.reasons)
    return whole


def _pool(task: Task, processes: int) -> ProcessPoolExecutor:
    # Workers are forked, so that the listing and the libraries are shared and not copied.
    context = multiprocessing.get_context("fork")
    return ProcessPoolExecutor(processes, context, initializer=_start, initargs=(task, os.getpid()))


_task: Task
_file: int


def _start(task: Task, parent: int) -> None:
    """Prepare a worker: it leaves Ctrl-C to its parent and does not outlive it."""
    global _task, _file
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()  # A collection would write to every object of the listing, which then were no longer shared.
    _task = task
    _file = os.open(task.target, os.O_WRONLY)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _decode(block: Block) -> Outcome:
    checks, reasons = [], {}
    for position in range(block.first, block.last):
        row = int(_task.order[position])
        try:
            index = int(_task.files[row])
            data = _task.source.read(index) if block.data is None else block.data[position - block.first]
            pixels = decode_row(data, _task.resolution)
        except MemoryError:  # which says nothing of the file
            raise
        except Exception as error:  # Pillow's decoders raise almost any type on a damaged file
            checks.append(CORRUPT)
            reasons[row] = reason(error)
        else:
            _write(pixels, _task.position(row))
            checks.append(zlib.crc32(pixels.data))
    return Outcome(checks, reasons)


def _write(pixels: Pixels, position: int) -> None:
    left = pixels.data.cast("B")
    while left:
        written = os.pwrite(_file, left, position)
        left, position = left[written:], position + written
