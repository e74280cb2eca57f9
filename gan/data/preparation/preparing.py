"""From a folder or an archive to a directory of prepared images, whole or not at all."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from gan.data.image_folder import SPLITS
from gan.data.preparation.inputs import FolderInput, open_input
from gan.data.preparation.layout import arrange
from gan.data.preparation.selection import Selection, select
from gan.data.preparation.writing import CHUNK_BYTES, FILES, write_split
from gan.data.store import FORMAT, ImageStore, open_directory
from gan.errors import BusyError, StorageError, UserError, printable
from gan.files import locked, make_directory, sync_directory, write_text
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

    def write(staging: Path) -> None:
        for name, images in chosen.items():
            label = name or (Path(source).name if Path(source).name in SPLITS else "train")
            cores = processes or len(os.sched_getaffinity(0))
            write_split(staging / name, label, found, images, resolution, skip_corrupt, cores)

    while not (out / PLAN).exists():
        _write_beside(out, plan, write)
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
    with lasting_bar(store.num_images, printable(f"verifying {name}"), "images") as bar:
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
    if (out / PLAN).exists():
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out: {out} exists and is something else; accepted: a new or an empty directory")
    if out.is_mount():  # a directory that was written beside it cannot take its place
        raise UserError(f"--out: {out} is a mount point; accepted: a directory below it, such as {out / 'images'}")


def _open(out: Path, plan: str, names: list[str]) -> Prepared:
    if (out / PLAN).read_text(encoding="utf-8") != plan:
        raise UserError(f"--out: {out} was prepared from other images or otherwise; accepted: a new directory")
    stores = {name: open_directory(out / name) for name in names}
    whole = {name: store for name, store in stores.items() if store is not None}
    if len(whole) < len(stores):
        raise UserError(f"--out: {out} is damaged; remove it and prepare it again")
    return Prepared(out, whole)


def _write_beside(out: Path, plan: str, write: Callable[[Path], None]) -> None:
    """Let `write` fill a directory beside `out`, which then takes its place and is kept when it is interrupted, which
    `gan.files.atomic_folder` does not do. What bad input leaves is removed, as is what another plan left.

    Nothing is done where another process has just ended there: the caller looks again.
    """
    staging = out.with_name(f".{out.name}.unfinished")
    with ExitStack() as held:
        try:
            make_directory(staging)
            if not _hold(staging / LOCK, held):
                return
            if (out / PLAN).exists():
                _remove(staging)
                return
            if not (staging / PLAN).exists() or (staging / PLAN).read_text(encoding="utf-8") != plan:
                _clear(staging)
                write_text(staging / PLAN, plan)
            try:
                write(staging)
            except StorageError:
                raise
            except UserError:
                _remove(staging)
                raise
            sync_directory(staging)
            staging.replace(out)
            sync_directory(out.parent)
            (out / LOCK).unlink(missing_ok=True)  # not before: another process would make a new one, and begin there
        except OSError as error:
            raise StorageError(f"cannot prepare images in {out}: {error.strerror or error}") from error


def _hold(lock: Path, held: ExitStack) -> bool:
    """Whether this process has the lock until `held` ends; False where its directory is gone, as its holder has ended.

    Raises:
        BusyError: another process holds it for longer than PATIENCE.
        StorageError: it cannot be made.
    """
    try:
        held.enter_context(locked(lock, PATIENCE))
    except TimeoutError as error:
        raise BusyError(f"{lock.parent} is being written by another process; wait for it") from error
    except StorageError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        return False
    return True


def _clear(staging: Path) -> None:
    """Remove everything but the lock."""
    for entry in staging.iterdir():
        if entry.name != LOCK:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _remove(staging: Path) -> None:
    """Remove the directory, its lock last, as another process may begin there once that is gone."""
    _clear(staging)
    (staging / LOCK).unlink(missing_ok=True)
    with suppress(OSError):  # it has begun
        staging.rmdir()
