"""Tar archives and webdataset shards by position; nothing is unpacked to disk, links and devices are passed over.

A plain tar is read at any position; a packed one (gzip, bzip2, xz) only from its start.
"""

import bz2
import gzip
import json
import lzma
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Self, cast

from gan.data.preparation.listing import MEMBER_LIMIT, Listing, Place, split_member
from gan.errors import UserError, printable
from gan.progress import passing

PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ")
LABEL_LIMIT = 2**20  # bytes of a .cls or .json member
_DAMAGE = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError)


def is_packed(path: Path) -> bool:
    """Whether a tar is compressed as a whole."""
    with path.open("rb") as file:
        return file.read(6).startswith(PACKED)


def members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members in stored order; those passed are forgotten, as a list of a million would fill the memory."""
    while (member := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]
        yield member


class _Member(tarfile.TarInfo):
    """A header; tarfile takes one that it cannot read, save the first, for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        """As tarfile has it.

        Raises:
            tarfile.ReadError: a damaged or cut header, or an end of the file without an end of the archive.
        """
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} at byte {tarfile_.offset}") from None


class TarInput:
    """All images of tar archives, with the labels of webdataset's `key.cls` or `key.json` beside `key.jpg`.

    A plain tar inside a plain tar (as ImageNet's, one for each class) is a folder of that name.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self.sequential = any(is_packed(path) for path in paths)
        self.listing = Listing([str(path) for path in paths])
        for container, path in enumerate(paths):
            try:
                with tarfile.open(path, "r|*" if is_packed(path) else "r:", tarinfo=_Member) as archive:
                    self._list(archive, container)
            except UserError:
                raise
            except Exception as error:  # The readers of headers and of packed streams share no type of error.
                raise UserError(f"{path} is not a whole tar archive ({error or type(error).__name__})") from error
        times = [path.stat().st_mtime_ns for path in paths]
        self.fingerprint = f"{self.listing.fingerprint()} {times}"

    def read(self, index: int) -> bytes:
        """A member's bytes, of a plain tar.

        Raises:
            ValueError: it is too large.
            EOFError: the archive ends within it.
        """
        place = self.listing.place(index)
        if place.size > MEMBER_LIMIT:
            raise ValueError(f"{place.size} bytes; accepted: at most {MEMBER_LIMIT}")
        with self.paths[place.container].open("rb") as file:
            return _read_at(file, place)

    def stream(self, indices: Iterator[int]) -> Iterator[bytes]:
        """The bytes of members in stored order, each archive read once from its start."""
        archive: BinaryIO | None = None
        current = -1
        try:
            for index in indices:
                place = self.listing.place(index)
                if archive is None or place.container != current:
                    if archive is not None:
                        archive.close()
                    current = place.container
                    archive = _unpacked(self.paths[current])
                yield b"" if place.size > MEMBER_LIMIT else _read_at(archive, place)  # of nothing no image is made
        except _DAMAGE as error:
            raise UserError(f"{self.paths[current]} is damaged or has changed ({error})") from error
        finally:
            if archive is not None:
                archive.close()

    def _list(self, archive: tarfile.TarFile, container: int, start: int = 0, prefix: str = "") -> None:
        """Add the images of an archive that starts at byte `start`; `prefix` is the folder that it stands for."""
        listing, path = self.listing, self.listing.containers[container]
        keys = _Keys(path)
        for member in passing(members(archive), printable(f"listing {path}"), "members", delay=2):
            if not member.isreg() or member.issparse():
                continue
            found = split_member(path, prefix + member.name)
            if found is not None:
                keys.image(member.name, len(listing))
                listing.add(*found, Place(container, start + member.offset_data, member.size, 0))
            elif member.name.endswith(".tar") and not prefix and not self.sequential:
                with tarfile.open(fileobj=archive.extractfile(member), mode="r:", tarinfo=_Member) as inner:
                    self._list(inner, container, member.offset_data, member.name.removesuffix(".tar") + "/")
            elif member.name.endswith((".cls", ".json")) and member.size <= LABEL_LIMIT:
                file = archive.extractfile(member)
                assert file is not None
                try:
                    keys.label(member.name, _label(member.name, file.read()))
                except ValueError as error:
                    raise UserError(f"{path}: {error}") from error
            else:
                listing.ignored.file(PurePosixPath(member.name).name)
            for index, label in keys.complete():
                listing.set_label(index, label)


class _Keys:
    """Pairs the image and the label of a sample; webdataset stores a sample's members side by side."""

    def __init__(self, archive: str) -> None:
        self._archive = archive
        self._key = ""
        self._index: int | None = None
        self._images: tuple[str, ...] = ()  # no more than two: in a plain tar any number may share their first word
        self._label: str | None = None

    def image(self, member: str, index: int) -> None:
        self._enter(member)
        self._index = index
        self._images = (*self._images[:1], member)

    def label(self, member: str, label: str | None) -> None:
        self._enter(member)
        if label is not None and self._label not in (None, label):
            raise UserError(f"{self._archive}: {self._key} has the labels {self._label} and {label}; accepted: one")
        self._label = self._label if label is None else label

    def complete(self) -> Iterator[tuple[int, str]]:
        """The index of the image, and its label, once both are there.

        Raises:
            UserError: the label is beside two images, as a photograph and its mask.
        """
        if self._index is not None and self._label is not None:
            if len(self._images) > 1:
                found = " and ".join(self._images)
                raise UserError(f"{self._archive}: {found} are images of one sample; accepted: one beside a label")
            yield self._index, self._label

    def _enter(self, member: str) -> None:
        folder, _, name = member.rpartition("/")
        key = f"{folder}/{name.split('.')[0]}"  # up to the first dot
        if key != self._key:
            self._key, self._index, self._images, self._label = key, None, (), None


def _label(member: str, data: bytes) -> str | None:
    """The class that a .cls or .json member gives; None where JSON, which may be about anything, says nothing of one.

    Raises:
        ValueError: a .cls that is neither a number nor a name.
    """
    try:
        text = data.decode("utf-8").strip()
        found = text if member.endswith(".cls") else json.loads(text)
    except (ValueError, RecursionError) as error:
        if member.endswith(".cls"):
            raise ValueError(f"{member} is no text") from error
        return None
    if isinstance(found, dict):
        found = next((found[key] for key in ("cls", "label", "class") if key in found), None)
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    if isinstance(found, str) and 0 < len(found) <= 200:
        return str(int(found)) if found.isdecimal() else found
    if member.endswith(".cls"):
        raise ValueError(f"{member} has the label {text[:50]!r}; accepted: an integer or a name")
    return None


def _unpacked(path: Path) -> BinaryIO:
    if not is_packed(path):
        return path.open("rb")
    with path.open("rb") as file:
        start = file.read(6)
    if start.startswith(PACKED[0]):
        return cast(BinaryIO, gzip.open(path))
    return cast(BinaryIO, bz2.open(path) if start.startswith(PACKED[1]) else lzma.open(path))


def _read_at(file: BinaryIO, place: Place) -> bytes:
    file.seek(place.offset)
    data = file.read(place.size)
    if len(data) < place.size:
        raise EOFError("it ends within a member")
    return data
