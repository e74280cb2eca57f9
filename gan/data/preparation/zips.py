"""Zip archives, whose directory is read once and shared with the workers that are forked later."""

import io
import os
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from gan.data.preparation.listing import MEMBER_LIMIT, Listing, Place, split_member
from gan.errors import UserError


class ZipInput:
    """All images of a zip archive; `read` gives a member's bytes, checked by its CRC."""

    sequential = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listing = Listing([str(path)])
        self._members: list[zipfile.ZipInfo] = []
        try:
            self._archive = zipfile.ZipFile(_OwnPosition(path))
        except Exception as error:  # A damaged directory raises almost anything.
            raise UserError(f"{path} is not a whole zip archive ({error})") from error
        for member in self._archive.infolist():
            found = split_member(str(path), member.filename) if _is_regular(member) else None
            if found is None and not _is_folder(member):
                self.listing.ignored.file(PurePosixPath(member.filename).name)
            elif found is not None:
                self.listing.add(*found, Place(0, member.header_offset, member.compress_size, member.CRC))
                self._members.append(member)
        self.fingerprint = f"{self.listing.fingerprint()} {path.stat().st_mtime_ns}"

    def read(self, index: int) -> bytes:
        """The unpacked member.

        Raises:
            ValueError: it is encrypted, too large, or packed by another method than deflation.
            zipfile.BadZipFile: it is damaged.
        """
        member = self._members[index]
        size = max(member.file_size, member.compress_size)
        if size > MEMBER_LIMIT:
            raise ValueError(f"{size} bytes; accepted: at most {MEMBER_LIMIT}")
        if member.flag_bits & 1:
            raise ValueError("encrypted")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # Others unpack without a bound.
            raise ValueError(f"packed by method {member.compress_type}; accepted: stored or deflated")
        with self._archive.open(member) as file:
            return file.read(member.file_size)  # No more is unpacked than is announced.

    def stream(self, indices: Iterator[int]) -> Iterator[bytes]:
        """The members one after the other."""
        return map(self.read, indices)


class _OwnPosition(io.RawIOBase):
    """A file to read whose position belongs to this process: processes that were forked share that of a descriptor."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._position = 0

    def close(self) -> None:
        self._file.close()
        super().close()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = os.pread(self._file.fileno(), len(buffer), self._position)
        buffer[: len(found)] = found
        self._position += len(found)
        return len(found)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        starts = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: os.fstat(self._file.fileno()).st_size}
        if starts[whence] + offset < 0:
            raise ValueError("a position before the start of the file")
        self._position = starts[whence] + offset
        return self._position


def _is_regular(member: zipfile.ZipInfo) -> bool:
    mode = member.external_attr >> 16  # of Unix; 0 where another system wrote it
    return member.filename != "" and not _is_folder(member) and stat.S_IFMT(mode) in (0, stat.S_IFREG)


def _is_folder(member: zipfile.ZipInfo) -> bool:
    return member.filename.endswith("/")  # as `is_dir` says, which fails where there is no name
