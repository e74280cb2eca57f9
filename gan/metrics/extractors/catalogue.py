"""Every extractor by name, and what must be there before it can be built."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from gan.errors import UserError, nearest
from gan.metrics.extractors.efficientnet import EfficientNetLite0Extractor
from gan.metrics.extractors.inception import InceptionExtractor
from gan.metrics.extractors.mnist_digits import MnistDigitsExtractor, official_mnist_digits
from gan.metrics.extractors.registered import (
    CLIP_NAMES,
    DINOV2_SIZES,
    CLIPExtractor,
    DINOv2Extractor,
    VGG16Extractor,
    official_clip,
    official_vgg16,
    verify_dinov2,
)
from gan.metrics.extractors.weights import OfficialWeights, official_efficientnet_lite0, official_inception, verify


def build_extractor(
    name: str,
    *,
    weights: str | Path | None = None,
    device: torch.device | str = "cpu",
    expected_sha256: str | None = None,
    allow_unknown_weights: bool = False,
) -> FeatureExtractorBase:
    """The extractor of that name in `EXTRACTORS`, in evaluation mode on `device`, with the layers for every metric.

    Raises:
        UserError: no such extractor; weights missing, unknown (see `weights.verify`) or of another network.
    """
    require_known(name)
    extractor = EXTRACTORS[name](weights, expected_sha256=expected_sha256, allow_unknown_weights=allow_unknown_weights)
    return extractor.to(device).eval()


def check_available(
    name: str,
    weights: str | Path | None = None,
    *,
    expected_sha256: str | None = None,
    allow_unknown_weights: bool = False,
) -> None:
    """Make sure, before anything is trained, that the extractor's weights are there; download them if they are not.

    Raises:
        UserError: as `build_extractor` would, at the end of training.
    """
    require_known(name)
    if name in OFFICIAL_WEIGHTS:
        official = OFFICIAL_WEIGHTS[name]()
        verify(official, weights, expected_sha256=expected_sha256, allow_unknown_weights=allow_unknown_weights)
    else:
        verify_dinov2(name, weights, expected_sha256, allow_unknown_weights)


def require_known(name: str, key: str = "extractor") -> None:
    """Refuse a name that is not in `EXTRACTORS`; `key` is where it was read."""
    if name not in EXTRACTORS:
        raise UserError(f"{key}: no extractor '{name}'{nearest(name, EXTRACTORS)}")


EXTRACTORS: dict[str, Callable[..., FeatureExtractorBase]] = {
    "inception": InceptionExtractor,
    "efficientnet_lite0": EfficientNetLite0Extractor,
    "mnist_digits": MnistDigitsExtractor,
    "vgg16": VGG16Extractor,
    **{name: partial(CLIPExtractor, name) for name in CLIP_NAMES},
    **{name: partial(DINOv2Extractor, name) for name in DINOV2_SIZES},
}
OFFICIAL_WEIGHTS: dict[str, Callable[[], OfficialWeights]] = {
    "inception": official_inception,
    "efficientnet_lite0": official_efficientnet_lite0,
    "mnist_digits": official_mnist_digits,
    "vgg16": official_vgg16,
    **{name: partial(official_clip, name) for name in CLIP_NAMES},
}
