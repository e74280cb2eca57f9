"""Networks that turn images into features. The interface is torch-fidelity's `FeatureExtractorBase`:
uint8 `(B, 3, H, W)` → a tuple of features, so its registered extractors work here and ours work there.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch_fidelity
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from gan.errors import NonFiniteError, UserError, nearest
from gan.metrics.weights import (
    OfficialWeights,
    VerifiedWeights,
    load_state_dict,
    official_efficientnet_lite0,
    official_inception,
    verify,
    weights_hash,
)


@dataclass(frozen=True)
class ExtractorIdentity:
    """What makes two extractors give the same features: their name, weights, resizing and arithmetic."""

    name: str
    weights: str  # `weights_hash`
    resize: str
    dtype: str


def identify(extractor: FeatureExtractorBase) -> ExtractorIdentity:
    """The identity of any extractor. Ours carry one, taken before their batch norms were folded."""
    carried = getattr(extractor, "identity", None)
    if isinstance(carried, ExtractorIdentity):
        return carried
    return ExtractorIdentity(extractor.get_name(), weights_hash(extractor), "by the extractor", "float32")


def extract(extractor: FeatureExtractorBase, images: Tensor) -> dict[str, Tensor]:
    """Features by name, in float32, whatever autocast or TF32 setting training has left on.

    Args:
        images: uint8 `(B, 1 or 3, H, W)` on the extractor's device; one channel is repeated to three.

    Raises:
        ValueError: the images are of another type or shape.
        NonFiniteError: a feature is NaN or infinite.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"expected uint8 images (B, 1 or 3, H, W), got {images.dtype} {tuple(images.shape)}")
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False), _full_precision():
        features: dict[str, Tensor] = extractor.convert_features_tuple_to_dict(
            extractor(images.expand(-1, 3, -1, -1).contiguous())
        )
    for name, values in features.items():
        if not values.isfinite().all():
            raise NonFiniteError(f"extractor '{extractor.get_name()}' gave non-finite features '{name}'")
    return features


class InceptionExtractor(FeatureExtractorInceptionV3):
    """torch-fidelity's Inception-v3 (`inception-v3-compat`), the network that FID, IS and KID are defined by.

    Its convolutions run in channels_last, equal to 1e-6 relative. The weights file
    is verified before torch-fidelity, which would execute it, gets to open it.

    Raises:
        UserError: the weights are missing, unknown, or those of another network.
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        layers: Sequence[str] = ("2048", "logits_unbiased"),
        *,
        expected_sha256: str | None = None,
        allow_unknown_weights: bool = False,
    ) -> None:
        verified = verify(
            official_inception(),
            weights,
            expected_sha256=expected_sha256,
            allow_unknown_weights=allow_unknown_weights,
        )
        load_state_dict(verified.path)  # proves that the file holds only data
        with _mismatch_is_user_error(verified), torch.random.fork_rng(devices=[]):
            super().__init__("inception-v3-compat", list(layers), feature_extractor_weights_path=str(verified.path))
        resize = "bilinear 299, as TensorFlow 1 (no antialias, corners at 0)"
        self.identity = ExtractorIdentity(_name("inception", verified), weights_hash(self), resize, "float32")
        self.to(memory_format=torch.channels_last)


class EfficientNetLite0Extractor(FeatureExtractorBase):
    """EfficientNet-Lite0 trained on ImageNet (Tan & Le 2019; TensorFlow's `lite` variant), weights from a package.

    Layers: `features` `(B, 1280)`, pooled, before dropout; `logits` `(B, 1000)`. Images are resized to 224 × 224
    bilinearly, without antialiasing, with half-pixel centres, and normalised to (x − 127) / 128, as in its training.
    Batch norms are folded into the convolutions, which changes features by 2e-6 relative; `fold=False` leaves them.

    Raises:
        UserError: the weights are missing, unknown, or those of another network.
    """

    IMAGE_SIZE = 224

    def __init__(
        self,
        weights: str | Path | None = None,
        layers: Sequence[str] = ("features", "logits"),
        *,
        expected_sha256: str | None = None,
        allow_unknown_weights: bool = False,
        fold: bool = True,
    ) -> None:
        super().__init__("efficientnet_lite0", list(layers))
        verified = verify(
            official_efficientnet_lite0(),
            weights,
            expected_sha256=expected_sha256,
            allow_unknown_weights=allow_unknown_weights,
        )
        with torch.random.fork_rng(devices=[]):
            self.network = EfficientNet.from_name("efficientnet-lite0")
        with _mismatch_is_user_error(verified):
            self.network.load_state_dict(load_state_dict(verified.path))
        self.requires_grad_(False).eval()
        resize = f"bilinear {self.IMAGE_SIZE}, no antialias, half-pixel centres"
        self.identity = ExtractorIdentity(_name(self.name, verified), weights_hash(self.network), resize, "float32")
        if fold:
            _fold_efficientnet(self.network)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """uint8 `(B, 3, H, W)` → the requested layers, float32."""
        size = (self.IMAGE_SIZE, self.IMAGE_SIZE)
        resized = F.interpolate(images.float(), size=size, mode="bilinear", align_corners=False, antialias=False)
        inputs = ((resized - 127) / 128).contiguous(memory_format=torch.channels_last)
        features = self.network.extract_features(inputs).mean(dim=(2, 3))  # (B, 1280)
        outputs = {"features": features}
        if "logits" in self.features_list:
            outputs["logits"] = F.linear(features, self.network._fc.weight, self.network._fc.bias)
        return tuple(outputs[layer] for layer in self.features_list)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        """The names of the layers."""
        return "features", "logits"

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        """The layer for torch-fidelity's `fid`, `kid`, `prc` or `isc`."""
        return {"isc": "logits", "fid": "features", "kid": "features", "prc": "features"}[metric]

    @staticmethod
    def can_be_compiled() -> bool:
        """Whether torch-fidelity may compile it."""
        return True

    @staticmethod
    def get_dummy_input_for_compile() -> Tensor:
        """One small image."""
        return torch.zeros(1, 3, 4, 4, dtype=torch.uint8)


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
        UserError: no such extractor; weights missing, unknown (see `gan.metrics.weights.verify`) or of another network.
    """
    extractor = _find(name)[0](weights, expected_sha256=expected_sha256, allow_unknown_weights=allow_unknown_weights)
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
    official = _find(name)[1]()
    verify(official, weights, expected_sha256=expected_sha256, allow_unknown_weights=allow_unknown_weights)


def register() -> None:
    """Make `efficientnet_lite0` known to torch-fidelity, for `calculate_metrics(feature_extractor=...)`; idempotent."""
    if "efficientnet_lite0" not in FEATURE_EXTRACTORS_REGISTRY:
        torch_fidelity.register_feature_extractor("efficientnet_lite0", _RegisteredEfficientNetLite0)


class _RegisteredEfficientNetLite0(EfficientNetLite0Extractor):
    def __init__(
        self,
        name: str,
        features_list: Sequence[str],
        feature_extractor_weights_path: str | None = None,
        **calculate_metrics_arguments: Any,  # torch-fidelity passes all of its own arguments to every extractor
    ) -> None:
        super().__init__(feature_extractor_weights_path, features_list)
        self.name = name


def _find(name: str) -> tuple[Callable[..., FeatureExtractorBase], Callable[[], OfficialWeights]]:
    if name not in EXTRACTORS:
        raise UserError(f"no extractor '{name}'{nearest(name, EXTRACTORS)}")
    return EXTRACTORS[name], OFFICIAL_WEIGHTS[name]


def _name(name: str, verified: VerifiedWeights) -> str:
    return name if verified.official else f"{name}, custom weights"


@contextmanager
def _mismatch_is_user_error(verified: VerifiedWeights) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # load_state_dict: missing keys, unexpected keys, other shapes
        raise UserError(f"{verified.path}: weights of another network") from error


@contextmanager
def _full_precision() -> Iterator[None]:
    """IEEE float32 products: TF32 or bfloat16 inside a convolution would move features by 1e-3 relative."""
    backends: Any = torch.backends
    switches: list[Any] = [backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul]
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        yield
    finally:
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision


def _fold_efficientnet(network: EfficientNet) -> None:
    """Fold batch norms and symmetric paddings into convolutions, clip in place: fewer passes over memory."""
    pairs = {"_conv_stem": "_bn0", "_conv_head": "_bn1"}
    pairs |= {"_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"}
    for block in list(network.modules()):
        for convolution, batch_norm in pairs.items():
            if hasattr(block, convolution):
                fused = fuse_conv_bn_eval(getattr(block, convolution), getattr(block, batch_norm))
                setattr(block, convolution, fused)
                setattr(block, batch_norm, nn.Identity())
    module: Any  # some are the package's own convolutions
    for module in network.modules():
        if isinstance(module, nn.ReLU6):
            module.inplace = True
        padding = getattr(module, "static_padding", None)
        if isinstance(padding, nn.ZeroPad2d):
            left, right, top, bottom = padding.padding
            if left == right and top == bottom:
                module.padding = (top, left)
                module.static_padding = nn.Identity()


EXTRACTORS: dict[str, Callable[..., FeatureExtractorBase]] = {
    "inception": InceptionExtractor,
    "efficientnet_lite0": EfficientNetLite0Extractor,
}
OFFICIAL_WEIGHTS: dict[str, Callable[[], OfficialWeights]] = {
    "inception": official_inception,
    "efficientnet_lite0": official_efficientnet_lite0,
}
