"""Files of a folder or an archive that are no images: passed over, but counted."""

from collections import Counter
from pathlib import PurePosixPath

from gan.errors import listed

KINDS = 6  # that are named


class Ignored(Counter[str]):
    """How many there are of each kind: `hidden`, `.txt`, `without an extension`."""

    def file(self, name: str) -> None:
        """Count a file by its name, without folders."""
        hidden = name.startswith(".")
        self["hidden" if hidden else PurePosixPath(name).suffix.lower() or "without an extension"] += 1

    def line(self, where: str) -> str:
        """What is said of them, in one line."""
        kinds = [f"{count} {kind}" for kind, count in sorted(self.items(), key=lambda item: (-item[1], item[0]))]
        noun = "entry" if self.total() == 1 else "entries"
        return f"{where}: {self.total()} {noun} passed over as no images: {listed(kinds, KINDS)}"
