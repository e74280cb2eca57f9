"""From a folder or an archive to a directory of prepared images, whole or not at all."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from gan.data.preparation.inputs import FolderInput, open_input
from gan.data.preparation.layout import SPLITS, arrange
from gan.data.preparation.selection import Selection, select
from gan.data.preparation.writing import CHUNK_BYTES, FILES, write_split
from gan.data.store import FORMAT, ImageStore, open_directory
from gan.errors import BusyError, StorageError, UserError
from gan.files import locked, sync_directory, write_text
from gan.progress import lasting_bar, say

PLAN = "preparation.json"  # what a directory was prepared from and how
LOCK = "lock"  # of an unfinished directory
PATIENCE = 3.0  # seconds; the workers of a killed process may hold its lock for a moment


@dataclass(frozen=True)
class Prepared:
    """`stores` by split; "" where the images are not divided, and then `directory` itself is the store."""

    directory: Path
    stores: dict[str, ImageStore]

    def skipped(self) -> list[str]:
        """The files that could not be read, with the reason."""
        skipped = (item for store in self.stores.values() for item in store.skipped.items())
        return [f"{file} ({reason})" for file, reason in skipped]


def prepare_directory(
    source: str | Path,
    out: str | Path,
    *,
    resolution: int,
    selection: Selection | None = None,
    skip_corrupt: bool = False,
    processes: int | None = None,
) -> Prepared:
    """Decode the images of a folder or archive into `out`, for `data.source: prepared` with `data.path: <out>`.

    Pixels, labels and order are those of `data.source: image_folder`; where there are splits, each is a directory
    `out/<split>`. A call that was killed is continued by the next, to the same bytes. When `out` already holds just
    this, nothing is done.

    Args:
        source: a folder, .tar, .tar.gz, .zip, or a pattern of tar shards; see `layout.arrange` for what is in them.
        resolution: of the square images: the short side resized, the centre cropped.
        selection: which of the images; None: all.
        skip_corrupt: leave out images that cannot be read, and name them in `meta.json`.
        processes: how many decode; None: one for each core.

    Raises:
        UserError: the source or the selection cannot be used, an image cannot be read, or `out` holds something else.
        StorageError: `out` cannot be written.
    """
    out, selection = Path(out).resolve(), selection or Selection()  # `.` has no name
    if isinstance(resolution, bool) or not isinstance(resolution, int) or resolution < 1:
        raise UserError(f"--resolution: found {resolution!r}; accepted: an integer of at least 1")
    _check_target(out)
    found = open_input(source)
    if found.listing.ignored:
        say(found.listing.ignored.line(str(source)))
    splits = arrange(found.listing, str(source), archive=not isinstance(found, FolderInput))
    chosen = select(splits, selection)
    options = {"format": FORMAT, "resolution": resolution, **asdict(selection)}
    key = hashlib.sha256(json.dumps([options, found.fingerprint]).encode()).hexdigest()
    plan = json.dumps({**options, "splits": list(chosen), "key": key}, indent=1)
    if not (out / PLAN).exists():
        with _staging(out, plan) as staging:
            for name, images in chosen.items():
                label = name or (Path(source).name if Path(source).name in SPLITS else "train")
                cores = processes or len(os.sched_getaffinity(0))
                write_split(staging / name, label, found, images, resolution, skip_corrupt, cores)
    return _open(out, plan, list(chosen))


def verify(directory: str | Path) -> Prepared:
    """Read prepared images again and compare them with their checksum.

    Raises:
        UserError: it is no such directory, or not as it was written.
    """
    directory = Path(directory)
    names = _splits(directory)
    prepared = Prepared(directory, {})
    for name in names:
        store = open_directory(directory / name)
        if store is None:
            raise UserError(
                f"{directory / name} is no whole directory of prepared images; accepted: an --out of before"
            )
        if _content_hash(store, str(directory / name)) != store.content_hash:
            raise UserError(f"{directory / name} differs from its checksum {store.content_hash}; prepare it again")
        with (directory / name / FILES).open("rb") as file:
            lines = sum(1 for _ in file)
        if lines != store.num_images:
            raise UserError(f"{directory / name / FILES} has {lines} lines for {store.num_images} images")
        prepared.stores[name] = store
    return prepared


def _content_hash(store: ImageStore, name: str) -> str:
    digest = hashlib.sha256(repr(store.images.shape).encode())
    count = max(1, CHUNK_BYTES // store.images[0].nbytes)
    with lasting_bar(store.num_images, f"verifying {name}", "images") as bar:
        for first in range(0, store.num_images, count):
            rows = np.ascontiguousarray(store.images[first : first + count])
            digest.update(rows.data)
            bar.update(len(rows))
    if store.labels is not None:
        digest.update(store.labels.tobytes())
    return digest.hexdigest()


def _splits(directory: Path) -> list[str]:
    try:
        names = json.loads((directory / PLAN).read_text(encoding="utf-8"))["splits"]
        if names == [""] or (names and set(names) <= set(SPLITS)):
            return names
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise UserError(f"{directory} is no whole directory of prepared images; accepted: an --out of before")


def _check_target(out: Path) -> None:
    if out.exists() and not (out / PLAN).exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out: {out} exists and is something else; accepted: a new or an empty directory")


def _open(out: Path, plan: str, names: list[str]) -> Prepared:
    if (out / PLAN).read_text(encoding="utf-8") != plan:
        raise UserError(f"--out: {out} was prepared from other images or otherwise; accepted: a new directory")
    stores = {name: open_directory(out / name) for name in names}
    whole = {name: store for name, store in stores.items() if store is not None}
    if len(whole) < len(stores):
        raise UserError(f"--out: {out} is damaged; remove it and prepare it again")
    return Prepared(out, whole)


@contextmanager
def _staging(out: Path, plan: str) -> Iterator[Path]:
    """A directory beside `out` that takes its place when the block ends well, and is kept when it is interrupted, which
    `gan.files.atomic_folder` does not do. What bad input leaves is removed, as is what another plan left.
    """
    staging = out.with_name(f".{out.name}.unfinished")
    lock = staging / LOCK
    with ExitStack() as held:
        try:
            held.enter_context(locked(lock, PATIENCE))
        except TimeoutError as error:
            raise BusyError(f"{staging} is being written by another process; wait for it") from error
        try:
            if not (staging / PLAN).exists() or (staging / PLAN).read_text(encoding="utf-8") != plan:
                for entry in staging.iterdir():
                    if entry != lock:
                        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
                write_text(staging / PLAN, plan)
            try:
                yield staging
            except StorageError:
                raise
            except UserError:
                shutil.rmtree(staging)
                raise
            lock.unlink(missing_ok=True)
            sync_directory(staging)
            staging.replace(out)
            sync_directory(out.parent)
        except OSError as error:
            raise StorageError(f"cannot prepare images in {out}: {error.strerror or error}") from error
