"""Whatever a command line can name as a set of images: a folder, a file, a data set, a run or a checkpoint."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from gan.data.recipe import Labels, Pixels
from gan.data.sources import SOURCES, source_info
from gan.data.store import IMAGES, META, ImageStore, open_directory, prepare, split_of
from gan.errors import UserError, nearest
from gan.sampling.open import exported_folder, open_checkpoint, open_exported, read_config
from gan.scoring.reference_images import evenly
from gan.training.run_directory import RunDirectory

RESOLUTION = 32  # where nothing says another


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images uint8 `(N, H, W, C)`, their labels `(N,)` or None, and what a protocol says of them.

    `content` is a hash of exactly these images, where one is known; `skipped` files could not be read; `seed`,
    `weights` and `label_sampling` are as in `gan.metrics.protocol.Protocol`.
    """

    images: Pixels
    labels: Labels | None
    class_names: tuple[str, ...]
    source: str
    split: str
    content: str | None = None
    skipped: int = 0
    seed: int | None = None
    weights: str = "images"
    label_sampling: str = "none"


def run_of(name: str) -> tuple[Path, Path | None] | None:
    """The run directory that `name` is, or is a checkpoint of, with that checkpoint; None when it is neither."""
    path = Path(name)
    if path.suffix == ".pt":
        return RunDirectory.of(path).path, path
    return (path, None) if RunDirectory(path).config.is_file() else None


def resolution_of(names: tuple[str, ...]) -> int:
    """The resolution that the runs among `names` generate, 32 where there is none.

    Raises:
        UserError: they generate different ones, or cannot be read.
    """
    found = {name: read_config(RunDirectory(run[0]), {}).data.resolution for name in names if (run := run_of(name))}
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{name} {resolution}" for name, resolution in found.items())
        raise UserError(f"the runs generate different resolutions: {listed}")
    return next(iter(found.values()), RESOLUTION)


def user_cache() -> Path:
    """Where prepared images and features are kept that belong to no run: outputs/data where it is there already, else
    the user's cache, so that no folder is made where somebody happens to stand.
    """
    here = Path("outputs/data")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return here if here.is_dir() else home / "gan"


def open_set(
    name: str, resolution: int, limit: int | None, device: torch.device, skip_corrupt: bool, cache: Path
) -> ImageSet:
    """The images that `name` means: a folder, a prepared one, an .npz file, a data set as `cifar10:test`, a run, a
    checkpoint of it or an exported folder.

    Args:
        resolution: what files are brought to: the short side resized, the centre cropped, never stretched.
        limit: at most so many, at even distances; of a run, the first so many instead of its `evaluation.samples`.
        device: where a run's generator computes.
        skip_corrupt: pass over the files of a folder that cannot be read, and count them.
        cache: where prepared images are kept.

    Raises:
        UserError: it is none of these, or cannot be read.
    """
    if run := run_of(name):
        return _generated(*run, limit, device)
    path = Path(name)
    source, _, split = name.partition(":")
    if all((path / part).is_file() for part in (META, IMAGES)):
        store = _prepared(path, resolution, cache)
    elif path.is_dir():
        store = prepare(
            "image_folder",
            split=split_of(path),
            resolution=resolution,
            path=path,
            root=cache,
            skip_corrupt=skip_corrupt,
        )
    elif path.suffix == ".npz":
        store = prepare("npz", split=split_of(path), resolution=resolution, path=path, root=cache)
    elif source in SOURCES:
        store = prepare(source, split=split or "train", resolution=resolution, root=cache)
    else:
        known = [known for known in SOURCES if not source_info(known).required]
        raise UserError(f"{name}: neither a folder, an .npz file, a run nor a data set{nearest(source, known)}")
    images = evenly(store.images, limit)
    return ImageSet(
        images=images,
        labels=None if store.labels is None else evenly(store.labels, limit),
        class_names=store.class_names,
        source=store.source,
        split=store.split,
        content=store.content_hash if len(images) == store.num_images else None,
        skipped=len(store.skipped),
    )


def _prepared(path: Path, resolution: int, cache: Path) -> ImageStore:
    """What `gan prepare` wrote at `path`, whose images are brought to no other resolution."""
    found = open_directory(path)
    if found is not None and found.resolution != resolution:
        raise UserError(
            f"--resolution: {resolution} found, but {path} was prepared otherwise; accepted: {found.resolution}"
        )
    return prepare("prepared", split=split_of(path), resolution=resolution, path=path, root=cache)


def _generated(path: Path, checkpoint: Path | None, limit: int | None, device: torch.device) -> ImageSet:
    """Images of a run's average generator, those that `evaluate.py checkpoint` scores, in a file without a name."""
    if exported_folder(path) is not None:
        generator = open_exported(path, device=str(device))
    else:
        generator = open_checkpoint(path, checkpoint=checkpoint, device=str(device))
    section = generator.config.evaluation
    images, labels = generator.sample_to_disk(limit or section.samples, section.seed, section.batch_size)
    return ImageSet(
        images=images,
        labels=labels,
        class_names=generator.class_names,
        source=str(path),
        split=f"step {generator.description.step}",
        seed=section.seed,
        weights=generator.description.weights,
        label_sampling="none" if labels is None else "uniform",
    )
