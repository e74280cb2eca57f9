"""Zip archives by position: the directory of a million members is walked, where `zipfile` holds it in a gigabyte."""

import os
import stat
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from gan.data.preparation.listing import Listing, Place, read_at, split_member
from gan.errors import UserError

MEMBER_LIMIT = 2**28  # bytes; an image file beyond it is taken for damaged
_STORED, _DEFLATED = 0, 8
_ENTRY, _LOCAL = struct.Struct("<4s6H3I5H2I"), struct.Struct("<4s5H3I2H")  # APPNOTE.TXT 4.3.12 and 4.3.7
_MOST = 2**32 - 1


class Member(NamedTuple):
    """One entry of a zip's central directory: `header` is the position of its local header, `size` that when packed."""

    name: str
    header: int
    size: int
    crc: int
    regular: bool


def members(path: Path) -> Iterator[Member]:
    """The entries of the central directory in its order, one at a time.

    Raises:
        UserError: this is no whole zip archive.
    """
    try:
        with path.open("rb") as file:
            start, count = _directory(file)
            file.seek(start)
            for _ in range(count):
                yield _member(file)
    except (OSError, ValueError, IndexError, struct.error) as error:
        raise UserError(f"{path} is not a whole zip archive ({error})") from error


def _directory(file: BinaryIO) -> tuple[int, int]:
    """Position and number of the entries, by the record at the end or, beyond 32 bits, by its zip64 fellow."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 65557))  # 22 bytes and the longest comment
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0:
        raise ValueError("no end of the central directory")
    count, _, start = struct.unpack_from("<HII", tail, at + 10)
    if (count == 0xFFFF or start == _MOST) and at >= 20 and tail[at - 20 : at - 16] == b"PK\6\7":
        file.seek(struct.unpack_from("<Q", tail, at - 12)[0])
        record = file.read(56)
        if record[:4] != b"PK\6\6":
            raise ValueError("no zip64 end of the central directory")
        count, _, start = struct.unpack_from("<3Q", record, 32)
    return start, count


def _member(file: BinaryIO) -> Member:
    fields = _ENTRY.unpack(file.read(_ENTRY.size))
    if fields[0] != b"PK\1\2":
        raise ValueError("a damaged central directory")
    flags, crc, packed, unpacked, header = fields[3], *fields[7:10], fields[16]
    raw, extra = file.read(fields[10]), file.read(fields[11])
    file.seek(fields[12], os.SEEK_CUR)
    while len(extra) >= 4:  # the 64-bit sizes come in this order, each only where the 32-bit one is full
        kind, length = struct.unpack_from("<HH", extra)
        if kind == 1:
            wide = iter(struct.unpack_from(f"<{length // 8}Q", extra, 4))
            _, packed, header = (next(wide, -1) if value == _MOST else value for value in (unpacked, packed, header))
        extra = extra[4 + length :]
    if not (0 <= packed < 2**63 and 0 <= header < 2**63):
        raise ValueError("a damaged central directory")
    name = raw.decode("utf-8" if flags & 0x800 else "cp437", "surrogateescape")
    mode = fields[15] >> 16  # of Unix; 0 where another system wrote it
    regular = not name.endswith("/") and stat.S_IFMT(mode) in (0, stat.S_IFREG)
    return Member(name, header, packed, crc, regular)


class ZipInput:
    """All images of a zip archive; `read` gives a member's bytes, checked by its CRC."""

    sequential = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listing = Listing([str(path)])
        for member in members(path):
            found = split_member(str(path), member.name) if member.regular else None
            if found is not None:
                self.listing.add(*found, Place(0, member.header, member.size, member.crc))
        self.fingerprint = f"{self.listing.fingerprint()} {path.stat().st_mtime_ns}"

    def read(self, index: int) -> bytes:
        """The unpacked member.

        Raises:
            ValueError: it is damaged, encrypted, too large, or packed by another method than deflation.
        """
        _, position, size, crc = self.listing.place(index)
        if size > MEMBER_LIMIT:
            raise ValueError(f"{size} bytes; accepted: at most {MEMBER_LIMIT}")
        header = _LOCAL.unpack(read_at(self.path, position, _LOCAL.size))
        if header[0] != b"PK\3\4" or header[2] & 1:
            raise ValueError("encrypted" if header[0] == b"PK\3\4" else "no header where the directory says")
        data = read_at(self.path, position + _LOCAL.size + header[9] + header[10], size)
        if header[3] == _DEFLATED:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, MEMBER_LIMIT)
        elif header[3] != _STORED:
            raise ValueError(f"packed by method {header[3]}; accepted: stored or deflated")
        if zlib.crc32(data) != crc:
            raise ValueError("its checksum differs")
        return data

    def stream(self, indices: Iterator[int]) -> Iterator[bytes]:
        """The members one after the other."""
        return map(self.read, indices)
