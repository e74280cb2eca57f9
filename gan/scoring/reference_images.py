"""The real images that scores are measured against, as a config names them, and their statistics."""

from pathlib import Path

import numpy as np

from gan.build import prepare_images
from gan.config import DataConfig
from gan.data.sources import source_info
from gan.data.store import ImageStore, split_of
from gan.errors import UserError, nearest
from gan.metrics.evaluator import Evaluator
from gan.metrics.reference import ReferenceStatistics

_SIBLINGS = ("test", "val", "valid", "validation")  # of a file or folder named after its training split


def measure_reference(evaluator: Evaluator, store: ImageStore, count: int | None, root: Path) -> ReferenceStatistics:
    """Statistics of `count` images of a store at even distances, all when None; kept in `root` between runs."""
    images = evenly(store.images, count)
    return evaluator.reference(
        images,
        name=store.source,
        split=store.split,
        content=store.content_hash if len(images) == store.num_images else None,
        cache_dir=root / "reference",
        labels=None if store.labels is None else evenly(store.labels, count),
        class_names=store.class_names,
    )


def reference_images(data: DataConfig, split: str = "auto", path: str | None = None) -> ImageStore:
    """The images to measure against: those at `path`, or the split of `data`'s source.

    `auto` is the source's test split; of a file or folder, the one beside it that is named test or val where it is
    named train; where there is none, the training images. `all` is all of the file or folder, any other name is that of
    the one beside it.

    Raises:
        UserError: no such split, nothing beside the file or folder that is named so, or the images cannot be read.
    """
    splits = source_info(data.source).splits
    if split != "auto" and splits and split not in splits:
        raise UserError(
            f"evaluation.reference: {data.source} has no split {split!r}{nearest(split, ['auto', *splits])}"
        )
    found = None if path is None else Path(path)
    if found is None and data.path is not None and not splits and split not in (data.split, "all"):
        found = _sibling(Path(data.path), split)
    if splits and split == "auto":
        split = source_info(data.source).reference_split
    if found is not None:
        if data.path is None:
            raise UserError(f"evaluation.reference_path: {path} found, but data.source {data.source} reads no path")
        split = split_of(found) if split == "auto" else split
        data = data.model_copy(update={"path": str(found)})
    if found is not None or (split == "all" and not splits):
        data = data.model_copy(update={"images_per_class": None})
    return prepare_images(data, data.split if split == "auto" else split)


def _sibling(path: Path, split: str) -> Path | None:
    """`…/cifar10_train.npz` → `…/cifar10_test.npz`, `…/train` → `…/val`: the one named `split`, or with `auto` the
    first that exists, None where none does.
    """
    names = _SIBLINGS if split == "auto" else (split,)
    beside = [path.with_name(path.name.replace("train", name)) for name in names if "train" in path.name]
    found = next((candidate for candidate in beside if candidate.exists()), None)
    if found is None and split != "auto":
        raise UserError(
            f"evaluation.reference: {split!r} found, and no {' or '.join(map(str, beside)) or 'other split'} beside "
            f"{path}; accepted: auto, its own split, or evaluation.reference_path"
        )
    return found


def evenly(images: np.ndarray, count: int | None) -> np.ndarray:
    """`count` images at even distances, so that sorted classes are all there; all of them when None."""
    if count is None or count >= len(images):
        return images
    return images[np.arange(count) * len(images) // count]
