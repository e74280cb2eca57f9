"""The images that were found, a million of them in about 60 MB and their names."""

import hashlib
from array import array
from collections.abc import Sequence
from typing import NamedTuple

from gan.data.ignored import Ignored
from gan.data.image_folder import is_image
from gan.errors import UserError

UNLABELLED = -1
MEMBER_LIMIT = 2**28  # bytes of an archive's member; an image file beyond it is taken for damaged


class Place(NamedTuple):
    """Where an image's bytes lie; what the numbers mean is the reader's own matter."""

    container: int
    offset: int
    size: int
    check: int


class Listing:
    """Images in the order in which they are stored, each a folder, a name and a place, some with a label.

    `containers` are the files or the folder that they lie in; `folders` and `label_names` are what the images refer to;
    `ignored` counts the files beside them that are neither images nor labels.
    """

    def __init__(self, containers: Sequence[str]) -> None:
        self.containers = list(containers)
        self.folders: list[str] = []
        self.label_names: list[str] = []
        self.ignored = Ignored()
        self._folder_ids: dict[str, int] = {}
        self._label_ids: dict[str, int] = {}
        self.folder_of = array("i")  # (N,), into folders
        self.label_of = array("i")  # (N,), into label_names, or UNLABELLED
        self._places = array("q")  # (N × 4,)
        self._ends = array("q", [0])  # (N + 1,), into the names
        self._names = bytearray()

    def __len__(self) -> int:
        return len(self.folder_of)

    def add_folder(self, folder: str) -> int:
        """Know `folder` ("" or "a/b"), even if no image follows; returns its number."""
        return _number(folder, self.folders, self._folder_ids)

    def add(self, folder: str, name: str, place: Place) -> None:
        """Append an image."""
        self.folder_of.append(self.add_folder(folder))
        self.label_of.append(UNLABELLED)
        self._places.extend(place)
        self._names += name.encode("utf-8", "surrogateescape")
        self._ends.append(len(self._names))

    def set_label(self, index: int, label: str) -> None:
        """Give image `index` the class `label`."""
        self.label_of[index] = _number(label, self.label_names, self._label_ids)

    def place(self, index: int) -> Place:
        return Place(*self._places[4 * index : 4 * index + 4])

    def name(self, index: int) -> bytes:
        """The file's name without its folder; as UTF-8 it sorts like the text."""
        return bytes(self._names[self._ends[index] : self._ends[index + 1]])

    def path(self, index: int) -> str:
        """Folder and name, relative to the container."""
        folder, name = self.folders[self.folder_of[index]], self.name(index).decode("utf-8", "surrogateescape")
        return f"{folder}/{name}" if folder else name

    def full_name(self, index: int) -> str:
        """As messages name it: `FOLDER/cat/1.png`, `cats.tar:cat/1.png`."""
        container = self.containers[self.place(index).container]
        return f"{container}{self.path(index)}" if container.endswith("/") else f"{container}:{self.path(index)}"

    def fingerprint(self) -> str:
        """A hash of names, places and labels: of all that is known without reading an image."""
        digest = hashlib.sha256("\0".join([*self.folders, *self.label_names]).encode("utf-8", "surrogateescape"))
        for values in (self.folder_of, self.label_of, self._places, self._ends, self._names):
            digest.update(values)
        return digest.hexdigest()


def split_member(archive: str, member: str) -> tuple[str, str] | None:
    """`./a/b/c.png` → (`a/b`, `c.png`); None for what is hidden or no image.

    Raises:
        UserError: an image's name is absolute or climbs out of the archive.
    """
    parts = member.split("/")
    if not is_image(parts[-1]):
        return None
    if member.startswith("/") or ".." in parts:
        raise UserError(f"{archive}: the member {member!r} lies outside of the archive; accepted: names below it")
    parts = [part for part in parts if part not in ("", ".")]
    if any(part.startswith(".") for part in parts):
        return None
    return "/".join(parts[:-1]), parts[-1]


def _number(name: str, names: list[str], numbers: dict[str, int]) -> int:
    number = numbers.get(name)
    if number is None:
        number = numbers[name] = len(names)
        names.append(name)
    return number
