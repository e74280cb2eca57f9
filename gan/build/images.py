"""Images of a config, and what the players must know of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gan.config import Config, DataConfig, Positive, Section, check
from gan.data.sources import source_info
from gan.data.store import ImageStore, check_options, prepare
from gan.errors import UserError


@dataclass(frozen=True)
class ImageFacts:
    """What the players must know of the images; `num_classes` is None where training is unconditional."""

    resolution: int
    channels: int
    num_classes: int | None


class ImageRecord(Section):
    """What a checkpoint says of the images of its run: enough to build the generator where they are not, and to tell
    whether they are the same where they are.

    `content_hash` is that of `gan.data.store.ImageStore`; without labels in training there are no classes.
    """

    content_hash: str
    channels: Positive
    num_classes: Positive | None
    class_names: list[str]

    def facts(self, resolution: int) -> ImageFacts:
        """What a generator is built from, beside its config."""
        return ImageFacts(resolution, self.channels, self.num_classes)


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


def prepare_images(data: DataConfig, split: str | None = None) -> ImageStore:
    """The images of a config's section, prepared on first use; `split` names another than the section's."""
    return prepare(
        data.source,
        split=split or data.split,
        resolution=data.resolution,
        path=data.path,
        root=data.root,
        classes=data.classes,
        images_per_class=data.images_per_class,
        count=data.count,
    )


def image_facts(config: Config) -> ImageFacts:
    """Facts of the images from the source's description alone where that says enough, else from the images."""
    data, info = config.data, source_info(config.data.source)
    options = ("path", "classes", "images_per_class", "count")
    given = [name for name in options if getattr(data, name) is not None]
    check_options(data.source, given, data.split, data.resolution)
    channels, num_classes = info.channels, info.num_classes or 0
    if channels is None or info.has_labels is None or (info.has_labels and not num_classes):
        store = prepare_images(config.data)
        channels, num_classes = store.channels, store.num_classes
    if config.conditional and not num_classes:
        raise UserError(f"conditional: true found, but {config.data.source} gives no labels; false accepted")
    return ImageFacts(config.data.resolution, channels, num_classes if config.conditional else None)
