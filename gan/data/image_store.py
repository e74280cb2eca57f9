"""What every source comes to: images in one array, and who they are."""

from dataclasses import dataclass
from typing import Optional

from gan.data.recipe import Labels, Pixels


@dataclass(frozen=True, eq=False)
class ImageStore:
    """Images uint8 (N, H, W, C) with H = W, often memory-mapped; labels int64 (N,) in [0, num_classes), or None.

    `content_hash` is the SHA-256 of shape, pixels and labels: two stores with the same hash hold the same data.
    `parts` is what training composes its images of, where it draws them on the fly; `images` are then a fixed sample.
    """

    images: Pixels
    labels: Labels | None
    class_names: tuple[str, ...]
    content_hash: str
    source: str
    split: str
    parts: Optional["ImageStore"] = None

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
