"""What a checkpoint says of the images of its run."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import model_validator

from gan.build.players import ImageFacts
from gan.config import Positive, Section, check
from gan.data.store import ImageStore


class ImageRecord(Section):
    """What a checkpoint says of the images of its run: enough to build the generator where they are not, and to tell
    whether they are the same where they are.

    `content_hash` is that of `gan.data.store.ImageStore`; without labels in training there are no classes.
    """

    content_hash: str
    channels: Positive
    num_classes: Positive | None
    class_names: list[str]

    @model_validator(mode="after")
    def _each_class_has_a_name(self) -> "ImageRecord":
        require_names(self.num_classes, self.class_names)
        return self

    def facts(self, resolution: int) -> ImageFacts:
        """What a generator is built from, beside its config."""
        return ImageFacts(resolution, self.channels, self.num_classes)


def require_names(num_classes: int | None, class_names: Sequence[str]) -> None:
    """Check that each class has a name.

    Raises:
        ValueError: there are more or fewer.
    """
    if len(class_names) != (num_classes or 0):
        raise ValueError(f"{len(class_names)} class_names found for {num_classes or 0} classes")


def image_record(facts: ImageFacts, store: ImageStore) -> ImageRecord:
    """The record of `store` for checkpoints."""
    names = [] if facts.num_classes is None else list(store.class_names)
    return ImageRecord(
        content_hash=store.content_hash, channels=facts.channels, num_classes=facts.num_classes, class_names=names
    )


def recorded_images(state: Mapping[str, Any]) -> ImageRecord | None:
    """The record in a checkpoint; None in one that was written before there were any.

    Raises:
        UserError: it is damaged.
    """
    return check(ImageRecord, state["images"]) if "images" in state else None
