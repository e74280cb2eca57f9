"""Every extractor by name."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from gan.errors import UserError, nearest
from gan.metrics.extractors.efficientnet import EfficientNetLite0Extractor
from gan.metrics.extractors.inception import InceptionExtractor
from gan.metrics.extractors.levels import EfficientNetLevelsExtractor, RandomConvolutionsExtractor
from gan.metrics.extractors.mnist_digits import MnistDigitsExtractor
from gan.metrics.extractors.registered import (
    CLIP_NAMES,
    DINOV2_SIZES,
    CLIPExtractor,
    DINOv2Extractor,
    VGG16Extractor,
)
from gan.metrics.extractors.resizing import use_antialiased


def build_extractor(
    name: str,
    *,
    weights: str | Path | None = None,
    device: torch.device | str = "cpu",
    expected_sha256: str | None = None,
    resize: str = "extractor",
) -> FeatureExtractorBase:
    """The extractor of that name in `EXTRACTORS`, in evaluation mode on `device`, with the layers for every metric.

    Args:
        resize: `extractor` for its own way, or `antialiased` (see `resizing`).

    Raises:
        UserError: no such extractor; weights missing, unknown (see `weights.verify`) or of another network.
    """
    require_known(name)
    extractor = EXTRACTORS[name](weights, expected_sha256=expected_sha256)
    if resize == "antialiased":
        use_antialiased(extractor)
    return extractor.to(device).eval()


def require_known(name: str, key: str = "extractor") -> None:
    """Refuse a name that is not in `EXTRACTORS`; `key` is where it was read."""
    if name not in EXTRACTORS:
        raise UserError(f"{key}: no extractor '{name}'{nearest(name, EXTRACTORS)}")


EXTRACTORS: dict[str, Callable[..., FeatureExtractorBase]] = {
    "inception": InceptionExtractor,
    "efficientnet_lite0": EfficientNetLite0Extractor,
    "efficientnet_lite0_levels": EfficientNetLevelsExtractor,
    "random_convolutions": RandomConvolutionsExtractor,
    "mnist_digits": MnistDigitsExtractor,
    "vgg16": VGG16Extractor,
    **{name: partial(CLIPExtractor, name) for name in CLIP_NAMES},
    **{name: partial(DINOv2Extractor, name) for name in DINOV2_SIZES},
}
