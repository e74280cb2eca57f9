"""Two sets of images against each other: what `evaluate.py images` does once the command line is read."""

import json
from collections.abc import Sequence
from pathlib import Path

from gan.allocator import keep_freed_memory
from gan.commands.scoring import evenly, measure_reference
from gan.data.sources import SOURCES
from gan.data.store import ImageStore, prepare
from gan.device import resolve_device
from gan.errors import UserError
from gan.metrics.evaluator import Evaluator
from gan.metrics.extractors import EXTRACTORS, build_extractor
from gan.metrics.results import format_table

CACHE = Path("outputs/data")


def score_images(
    images: str,
    reference: str,
    *,
    extractor: str,
    weights: str | None,
    metrics: Sequence[str],
    resolution: int,
    limit: int | None,
    reference_limit: int | None,
    device: str,
    batch_size: int,
    as_json: bool,
) -> str:
    """Score one set of images against another as if the first had been generated; returns a table, or JSON.

    Args:
        images, reference: a folder, an .npz file, or the name of a data set with or without a split: `cifar10:test`.
        extractor, weights, metrics, batch_size: as in a config's `evaluation` section.
        resolution: what both sets are brought to.
        limit: take at most so many images of each, at even distances.
        reference_limit: of the reference, where that differs.
        device: as on the command line.
        as_json: return JSON with the protocol.

    Raises:
        UserError: a set cannot be read, or an argument is not accepted.
    """
    keep_freed_memory()
    if extractor not in EXTRACTORS:
        raise UserError(f"--extractor {extractor}: not known; accepted: {', '.join(EXTRACTORS)}")
    place = resolve_device(device)
    first, second = (open_images(name, resolution) for name in (images, reference))
    evaluator = Evaluator(build_extractor(extractor, weights=weights, device=place), place, metrics, batch_size)
    statistics = measure_reference(evaluator, second, reference_limit or limit, CACHE)
    result = evaluator.evaluate_images(evenly(first.images, limit), statistics)
    if as_json:
        return json.dumps(result.to_dict(), indent=2)
    identity = result.protocol.reference
    return f"{format_table({images: result})}\n\nagainst {identity.count:,} images of {reference}"


def open_images(name: str, resolution: int) -> ImageStore:
    """The images that `name` means: a folder, an .npz file, or a data set with or without a split."""
    path = Path(name)
    source, _, split = name.partition(":")
    if path.is_dir() or path.suffix == ".npz":
        kind = "image_folder" if path.is_dir() else "npz"
        return prepare(kind, split=path.stem, resolution=resolution, path=path, root=CACHE)
    if source not in SOURCES:
        known = ", ".join(sorted(SOURCES))
        raise UserError(f"{name}: neither a folder, an .npz file nor a data set; accepted data sets: {known}")
    return prepare(source, split=split or "train", resolution=resolution, root=CACHE)
