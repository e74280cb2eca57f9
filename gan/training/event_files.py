"""The event files of a run, which TensorBoard reads: in the run's own directory, so that they bear its name there.

Each start of a run begins one; `SETTINGS`, the first by name, holds what is true of the run as a whole. Writing is
plain: what was added is in the file, an error is raised where it happens, and no thread is left to wait for.
"""

import re
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.summary.writer.record_writer import RecordWriter

from gan.errors import StorageError
from gan.files import atomic_path, sync

NAMES = "events.out.tfevents.*.gan"  # event files that something else has put there are left alone
SETTINGS = NAMES.replace("*", "0000000000")
VERSION = "brain.Event:2"
EARLIER = "tensorboard"  # the folder in a run's directory where event files once lay
_HEADER = struct.Struct("<Q4s")  # of a record: the length of its data and a checksum of that; 4 bytes follow the data


class EventFile:
    """A new event file in `directory`.

    Args:
        step: the step the run goes on from: a TensorBoard that is watching forgets later ones. −1 for a new run.
    """

    def __init__(self, directory: Path, step: int) -> None:
        self._path = directory / NAMES.replace("*", f"{_later_than_all(directory):.6f}")
        self._file = self._path.open("wb")
        self._records = RecordWriter(self._file)
        self._write(Event(file_version=VERSION))
        if step >= 0:
            self._write(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def add(self, step: int, *summaries: Summary) -> None:
        """Add what was seen at a step; those of earlier steps come first.

        Raises:
            StorageError: the file cannot be written.
        """
        values = [value for summary in summaries for value in summary.value]
        self._write(Event(step=step, summary=Summary(value=values)))

    def sync(self) -> None:
        """Bring the file to the disk."""
        sync(self._file)

    def close(self) -> None:
        """No more is added."""
        with suppress(OSError):  # all of it was written when it was added, or an error has told that it could not be
            self._file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        try:
            self._records.write(event.SerializeToString())
            self._records.flush()
        except OSError as error:
            raise StorageError(f"cannot write {self._path}: {error.strerror or error}") from error


def _later_than_all(directory: Path) -> float:
    """The time, or where clocks disagree a later one, as TensorBoard reads files in the order of their names."""
    moments = [re.match(r"\d+", path.name.removeprefix(NAMES.partition("*")[0])) for path in event_files(directory)]
    return max([time.time(), *(float(moment[0]) + 1 for moment in moments if moment)])


def write_settings(directory: Path, summaries: Sequence[Summary]) -> None:
    """Write what is true of the run as a whole, in place of what was written before."""
    values = [value for summary in summaries for value in summary.value]
    with atomic_path(directory / SETTINGS) as temporary, temporary.open("wb") as file:
        for event in (Event(file_version=VERSION), Event(summary=Summary(value=values))):
            event.wall_time = time.time()
            RecordWriter(file).write(event.SerializeToString())


def event_files(directory: Path) -> list[Path]:
    """The event files of the run in `directory`, in the order in which TensorBoard reads them."""
    return sorted(directory.glob(NAMES))


def take_in_earlier(directory: Path) -> None:
    """Bring event files of a run from the folder where they once lay into its directory."""
    folder = directory / EARLIER
    for path in folder.glob("events.out.tfevents.*"):
        path.rename(directory / f"{path.name}{Path(NAMES).suffix}")
    with suppress(OSError):  # there is none, or something else is in it
        folder.rmdir()


def drop_events(directory: Path, step: int) -> None:
    """Cut off what the run's event files hold of steps after `step`, or damaged; remove those with nothing left."""
    for path in event_files(directory):
        with path.open("r+b") as file:
            if (end := _end_of(file, step)) > 0:
                file.truncate(end)
        if end == 0:
            path.unlink()


def _end_of(file: BinaryIO, step: int) -> int:
    """Bytes of an event file up to what it first shows that is later than `step` or damaged; 0 if it shows nothing.

    Events that show nothing, as that of a start, bear later steps than those that follow them.
    """
    end = 0
    while (event := _next_event(file)) is not None:
        if event.HasField("summary"):
            if event.step > step:
                break
            end = file.tell()
    return end


def _next_event(file: BinaryIO) -> Event | None:
    """The next whole event, if there is one."""
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    length, checksum = _HEADER.unpack(header)
    if struct.pack("<I", masked_crc32c(header[:8])) != checksum:
        return None
    data = file.read(length + 4)
    try:
        return Event.FromString(data[:-4]) if len(data) == length + 4 else None
    except DecodeError:
        return None
