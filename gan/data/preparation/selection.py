"""Which of the images are wanted: classes by list, number or expression, images by number, all by seed."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gan.data.preparation.layout import Indices, Split
from gan.data.recipe import Labels, choose_classes
from gan.errors import UserError
from gan.seeds import seeded_generator


@dataclass(frozen=True)
class Selection:
    """What to keep of a set of images.

    Args:
        classes: how many, or which by name.
        class_pattern: a regular expression to be found in the names of the classes, before `classes` counts them.
        images_per_class: how many of each class.
        subset: how many of all the images that are left, at random.
        seed: of the choice at random. Without it classes and the images of a class are the first ones in order, as
            `data.source: image_folder` has them, and `subset` takes seed 0.
    """

    classes: int | Sequence[str] | None = None
    class_pattern: str | None = None
    images_per_class: int | None = None
    subset: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Chosen:
    """The rows of a split: `files` int64 (N,) into the listing, `labels` int64 (N,) or None, names of the labels."""

    files: Indices
    labels: Labels | None
    class_names: tuple[str, ...]


def select(splits: dict[str, Split], selection: Selection) -> dict[str, Chosen]:
    """The images of each split that `selection` keeps; only classes are chosen outside of the training split.

    The other splits keep the classes that were chosen of the training split, so that a label means the same in all.

    Raises:
        UserError: an option that the images cannot satisfy, or a split without one of the classes.
    """
    main = "train" if "train" in splits else next(iter(splits))
    names = _choose_classes(splits[main], selection)
    chosen = {}
    for name, split in splits.items():
        if split.classes is None or names is None:
            groups: list[Indices] = list(split.groups)
        else:
            missing = next((found for found in names if found not in split.classes), None)
            if missing is not None:
                raise UserError(
                    f"the split {name} has no class {missing}, which {main} has; accepted: the same classes"
                )
            members = dict(zip(split.classes, split.groups, strict=True))
            groups = [members[found] for found in names]
        labelled = split.classes is not None and names is not None
        if name == main:
            groups = _limit(groups, names, selection)
        labels = np.repeat(np.arange(len(groups), dtype=np.int64), [len(group) for group in groups])
        files = np.concatenate(groups)
        kept = _subset(len(files), selection) if name == main else slice(None)
        chosen[name] = Chosen(files[kept], labels[kept] if labelled else None, tuple(names or ()) if labelled else ())
    return chosen


def _choose_classes(split: Split, selection: Selection) -> list[str] | None:
    if split.classes is None:
        for option in ("classes", "class_pattern", "images_per_class"):
            if getattr(selection, option) is not None:
                raise UserError(f"{_flag(option)}: the images have no classes; accepted: only with <class>/<image>")
        return None
    available = split.classes
    if selection.class_pattern is not None:
        try:
            pattern = re.compile(selection.class_pattern)
        except re.error as error:
            raise UserError(
                f"--class-pattern: {selection.class_pattern!r} is no regular expression ({error})"
            ) from error
        available = tuple(name for name in available if pattern.search(name))
        if not available:
            raise UserError(f"--class-pattern: {selection.class_pattern!r} is in none of {len(split.classes)} classes")
    if isinstance(selection.classes, int) and not isinstance(selection.classes, bool):
        _at_most("classes", selection.classes, len(available), "classes")
        kept = _some(len(available), selection.classes, selection.seed, "classes")
        return [available[index] for index in kept]
    wanted = set(choose_classes(available, selection.classes, "--classes"))
    return [name for name in available if name in wanted]


def _limit(groups: list[Indices], names: list[str] | None, selection: Selection) -> list[Indices]:
    count = selection.images_per_class
    if count is None or names is None:
        return groups
    for name, group in zip(names, groups, strict=True):
        _at_most("images_per_class", count, len(group), f"images in {name}")
    return [
        group[_some(len(group), count, selection.seed, "images", name)]
        for name, group in zip(names, groups, strict=True)
    ]


def _subset(available: int, selection: Selection) -> Indices | slice:
    if selection.subset is None:
        return slice(None)
    _at_most("subset", selection.subset, available, "images")
    return _some(available, selection.subset, selection.seed or 0, "subset")


def _some(available: int, count: int, seed: int | None, *names: str) -> Indices:
    """`count` of 0..available−1, ascending: the first ones, or with a seed any."""
    if seed is None:
        return np.arange(count)
    drawn = torch.randperm(available, generator=seeded_generator(seed, *names))[:count]
    return np.sort(drawn.numpy())


def _at_most(option: str, count: int, available: int, what: str) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= available:
        raise UserError(f"{_flag(option)}: found {count!r}, with {available} {what}; accepted: 1 to {available}")


def _flag(option: str) -> str:
    return "--" + option.replace("_", "-")
