"""Features of many images, in an array that may lie on disk; pixels themselves as the plainest features."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from gan.errors import StorageError, UserError, nearest
from gan.files import atomic_path, read_array
from gan.metrics.extractors.catalogue import EXTRACTORS, build_extractor
from gan.metrics.extractors.interface import extract, identify
from gan.metrics.images import ArraySampler, to_uint8
from gan.metrics.protocol import ExtractorIdentity
from gan.progress import passing_bar

Features = NDArray[np.float32]  # (N, F)

FORMAT = 1  # of a cached file


class PixelExtractor(FeatureExtractorBase):
    """The pixels in [−1, 1] as features `(B, 3·h·w)`; what is larger than 16 × 16 is averaged down to it."""

    LARGEST = 16

    def __init__(self) -> None:
        super().__init__("pixels", ["pixels"])
        self.identity = ExtractorIdentity("pixels", "none", f"area, at most {self.LARGEST}", "float32")

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """uint8 `(B, 3, H, W)` → float32 `(B, F)`."""
        values = images.float() / 127.5 - 1
        if max(images.shape[2:]) > self.LARGEST:
            values = F.adaptive_avg_pool2d(values, self.LARGEST)
        return (values.flatten(1),)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        """The only layer."""
        return ("pixels",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        """The only layer, whatever the metric."""
        return "pixels"


def audit_extractor(
    name: str,
    weights: str | Path | None,
    device: torch.device,
    expected_sha256: str | None = None,
    resize: str = "extractor",
) -> FeatureExtractorBase:
    """`pixels`, or any extractor of the metrics, on `device`; the arguments are those of `build_extractor`.

    Raises:
        UserError: no such extractor, or its weights cannot be had.
    """
    if name == "pixels":
        return PixelExtractor().to(device).eval()
    if name not in EXTRACTORS:
        raise UserError(f"--extractor: no {name!r}{nearest(name, [*EXTRACTORS, 'pixels'])}")
    return build_extractor(name, weights=weights, device=device, expected_sha256=expected_sha256, resize=resize)


def feature_batches(
    extractor: FeatureExtractorBase,
    sample: Callable[[int], Tensor],
    count: int,
    batch_size: int,
    device: torch.device,
    description: str,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of `count` images and their features, both on the CPU: uint8 `(b, C, H, W)` and float32 `(b, F)`.

    `sample(n)` gives the next n images, uint8 or float in [−1, 1]. The features are the extractor's for distances.
    """
    layer = extractor.get_default_feature_layer_for_metric("fid")
    with passing_bar(count, description, "images") as bar:
        for start in range(0, count, batch_size):
            images = to_uint8(sample(min(batch_size, count - start)))
            features = extract(extractor, images.to(device))[layer]
            yield images.cpu(), features.float().cpu()
            bar.update(len(images))


def real_features(
    extractor: FeatureExtractorBase,
    images: np.ndarray,
    content: str,
    directory: Path,
    batch_size: int,
    device: torch.device,
) -> Features:
    """Features of uint8 images `(N, H, W, C)`, memory-mapped from a file that later audits find again.

    Args:
        content: a hash of exactly these images in this order.
        directory: where the file lies; written whole or not at all.

    Raises:
        StorageError: the directory cannot be written.
    """
    key = json.dumps([FORMAT, content, len(images), asdict(identify(extractor))])
    path = directory / f"features-{hashlib.sha256(key.encode()).hexdigest()[:24]}.npy"
    found = _open(path, len(images))
    if found is not None:
        return found
    with atomic_path(path) as temporary:
        array: np.memmap | None = None
        start = 0
        sample, said = ArraySampler(images), "features of real images"
        for _, features in feature_batches(extractor, sample, len(images), batch_size, device, said):
            if array is None:
                shape = (len(images), features.shape[1])
                array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
            array[start : start + len(features)] = features.numpy()
            start += len(features)
        if array is not None:
            array.flush()
    found = _open(path, len(images))
    if found is None:
        raise StorageError(f"cannot read back {path}, which was just written")
    return found


def _open(path: Path, count: int) -> Features | None:
    """The array in `path`; None when there is none or it is damaged."""
    try:
        array = read_array(path, mapped=True)
    except (OSError, ValueError):
        return None
    fits = array.ndim == 2 and len(array) == count and array.dtype == np.float32
    return array if fits else None
