"""What every source comes to: images in one array, and who they are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Optional

from gan.data.recipe import Labels, Pixels

NAMED = 10  # files that are named; meta.json has all


@dataclass(frozen=True, eq=False)
class ImageStore:
    """Images uint8 (N, H, W, C) with H = W, often memory-mapped; labels int64 (N,) in [0, num_classes), or None.

    `content_hash` is the SHA-256 of shape, pixels and labels: two stores with the same hash hold the same data.
    `skipped` are the files that were left out because they could not be read, and why.
    `parts` is what training composes its images of, where it draws them on the fly; `images` are then a fixed sample.
    """

    images: Pixels
    labels: Labels | None
    class_names: tuple[str, ...]
    content_hash: str
    source: str
    split: str
    parts: Optional["ImageStore"] = None
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_images(self) -> int:
        return len(self.images)

    @property
    def resolution(self) -> int:
        return self.images.shape[1]

    @property
    def channels(self) -> int:
        return self.images.shape[3]

    @property
    def num_classes(self) -> int:
        """0 when there are no labels."""
        return len(self.class_names) if self.has_labels else 0

    @property
    def has_labels(self) -> bool:
        return self.labels is not None

    def skipped_line(self, where: str) -> str:
        """What is said of the files that were left out, in one line; `where` are the images."""
        count = len(self.skipped)
        named = [f"{file} ({reason})" for file, reason in self.skipped.items()][:NAMED]
        more = f" and {count - NAMED} more, in meta.json" if count > NAMED else ""
        return f"{where}: {count} corrupt image{'s' if count > 1 else ''} left out: {', '.join(named)}{more}"
