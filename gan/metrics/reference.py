"""Statistics of the real images, and their cache on disk: a file is used only for exactly what it was computed from."""

import hashlib
import json
import os
import warnings
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gan.errors import StorageError, UserError
from gan.files import atomic_path
from gan.metrics.protocol import ExtractorIdentity, ReferenceIdentity

CACHE_BYTES = 4 * 2**30  # that a cache may take: ten references of 50,000 features in 2,048 dimensions
FORMAT = 1  # raise it whenever the file's content or the way it is computed changes


@dataclass(frozen=True)
class ReferenceStatistics:
    """What generated images are compared with.

    mean `(D,)` and covariance `(D, D)` are float64; features `(K, D)` float32 are those that metrics of features read,
    None when they were not asked for; labels `(K,)` int64 are theirs, None without classes. All are on the CPU.
    """

    identity: ReferenceIdentity
    extractor: ExtractorIdentity
    layer: str
    mean: Tensor
    covariance: Tensor
    features: Tensor | None
    labels: Tensor | None = None
    class_names: tuple[str, ...] = ()


def content_hash(images: np.ndarray) -> str:
    """SHA-256 over the shape and bytes of uint8 images `(N, H, W, C)`, read in pieces: 64 hex digits."""
    digest = hashlib.sha256(f"{images.dtype} {images.shape}\n".encode())
    for start in range(0, len(images), 1024):
        digest.update(np.ascontiguousarray(images[start : start + 1024]).data)
    return digest.hexdigest()


def kept_rows(count: int, limit: int, seed: int) -> np.ndarray:
    """Which of `count` rows of features are kept, as `(count,)` bool: all, or `limit` of them drawn by `seed`."""
    kept = np.ones(count, dtype=bool)
    if count > limit:
        kept[:] = False
        kept[np.random.RandomState(seed).choice(count, limit, replace=False)] = True
    return kept


def require_fitting(
    reference: ReferenceStatistics, extractor: ExtractorIdentity, layer: str, features: int | None
) -> None:
    """Check that a reference was measured as generated images will be, and has the number of `features` needed.

    Raises:
        UserError: another extractor or layer; fewer features, or none.
    """
    if (reference.extractor, reference.layer) != (extractor, layer):
        measured, wanted = (
            f"'{one.name}' ({one.weights[:8]}, {one.dtype}, layer {at})"
            for one, at in ((reference.extractor, reference.layer), (extractor, layer))
        )
        raise UserError(f"the reference was measured with extractor {measured}, not with {wanted}")
    if features is not None and (reference.features is None or len(reference.features) != features):
        raise UserError(f"{features} reference features are needed; compute the reference with this evaluator")


@dataclass(frozen=True)
class CacheKey:
    """Everything that the statistics depend on."""

    identity: ReferenceIdentity
    extractor: ExtractorIdentity
    layer: str
    features_limit: int
    seed: int
    format: int = FORMAT

    def text(self) -> str:
        """As canonical JSON. The name and split of the set are left out: they are labels, its content is its hash."""
        values = asdict(self)
        del values["identity"]["name"], values["identity"]["split"]
        return json.dumps(values, sort_keys=True)

    def path(self, directory: Path) -> Path:
        """Where these statistics are cached."""
        return directory / f"reference-{hashlib.sha256(self.text().encode()).hexdigest()[:24]}.npz"


def load_statistics(directory: Path, key: CacheKey, with_features: bool) -> ReferenceStatistics | None:
    """The cached statistics; None when there are none, when they are damaged, or lack the features wanted."""
    try:
        # The archive's checksums are verified as its members are read; pickles are refused.
        with key.path(directory).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if str(archive["key"]) != key.text():
                return None
            mean, covariance = torch.from_numpy(archive["mean"]), torch.from_numpy(archive["covariance"])
            features = torch.from_numpy(archive["features"]) if with_features else None
    except Exception:  # A damaged archive raises almost anything; whatever cannot be read is computed again.
        return None
    dimensions = len(mean)
    if mean.dtype != torch.float64 or not dimensions or covariance.shape != (dimensions, dimensions):
        return None
    if features is not None and features.shape != (min(key.identity.count, key.features_limit), dimensions):
        return None
    with suppress(OSError):  # One that is read-only, or that others own, serves as well.
        os.utime(key.path(directory))
    return ReferenceStatistics(key.identity, key.extractor, key.layer, mean, covariance, features)


def save_statistics(directory: Path, key: CacheKey, statistics: ReferenceStatistics, limit: int = CACHE_BYTES) -> None:
    """Write the statistics whole or not at all; a cache that cannot be written costs a warning, not the evaluation.

    Others of the directory, those used longest ago first, are removed until all together take at most `limit` bytes.
    """
    arrays = {"mean": statistics.mean.numpy(), "covariance": statistics.covariance.numpy()}
    if statistics.features is not None:
        arrays["features"] = statistics.features.numpy()
    try:
        with atomic_path(key.path(directory)) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, key=np.array(key.text()), **arrays)
    except StorageError as error:
        warnings.warn(f"reference statistics are not cached: {error}", stacklevel=2)
    else:
        _clear(directory, key.path(directory), limit)


def _clear(directory: Path, newest: Path, limit: int) -> None:
    """Remove files of this cache other than `newest`; another process may be doing the same."""
    found = []
    for path in directory.glob("reference-*.npz"):
        with suppress(OSError):
            status = path.stat()
            found.append((path == newest, status.st_mtime_ns, status.st_size, path))
    size = sum(one[2] for one in found)
    for is_newest, _, own, path in sorted(found):
        if size > limit and not is_newest:
            with suppress(OSError):
                path.unlink()
                size -= own
