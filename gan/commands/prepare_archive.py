"""A data set by name as one .npz file: what `gan prepare cifar10 --out FILE.npz` does."""

from pathlib import Path
from typing import Any

import numpy as np

from gan.data.sources import SOURCES, source_info
from gan.data.store import prepare
from gan.errors import UserError, nearest
from gan.files import atomic_path


def prepare_archive(source: str, out: Path, split: str, resolution: int | None, cache: Path) -> str:
    """Write `images` uint8 `(N, H, W, C)` and, if there are any, `labels` int64 `(N,)` and `class_names` `(K,)`: what
    `data.source: npz` reads.

    Args:
        source: of the table of sources, one that needs no path.
        out: the new file.
        split: of the source.
        resolution: None for the source's own.
        cache: where downloads and prepared images are kept.

    Raises:
        UserError: no such source or split, no resolution of its own, or `out` is there already.
        StorageError: it cannot be written.
    """
    named = [name for name in SOURCES if not source_info(name).required]
    if source not in named:
        raise UserError(f"SOURCE: no data set {source!r} for an .npz file{nearest(source, named)}")
    if out.exists():
        raise UserError(f"--out {out}: is there already; accepted: a new file")
    side = resolution or source_info(source).resolution
    if side is None:
        raise UserError(f"--resolution: nothing given, but {source} has none of its own")
    store = prepare(source, split=split, resolution=side, root=cache)
    arrays: dict[str, Any] = {"images": store.images}
    if store.labels is not None:
        arrays |= {"labels": store.labels, "class_names": np.array(store.class_names)}
    with atomic_path(out) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
    return f"{out}: {store.num_images} images of {side}×{side}, {store.num_classes} classes"
