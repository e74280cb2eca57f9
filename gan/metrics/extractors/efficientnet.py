"""EfficientNet-Lite0, whose weights come inside a package: features without any download."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch_fidelity
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from gan.metrics.extractors.weights import (
    load_state_dict,
    mismatch_is_user_error,
    official_efficientnet_lite0,
    verify,
    weights_hash,
)
from gan.metrics.protocol import ExtractorIdentity


class EfficientNetLite0Extractor(FeatureExtractorBase):
    """EfficientNet-Lite0 trained on ImageNet (Tan & Le 2019; TensorFlow's `lite` variant), weights from a package.

    Layers: `features` `(B, 1280)`, pooled, before dropout; `logits` `(B, 1000)`. Images are resized to 224 × 224
    bilinearly, without antialiasing, with half-pixel centres, and normalised to (x − 127) / 128, as in its training.
    Batch norms are folded into the convolutions, which changes features by 2e-6 relative.

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
    ) -> None:
        super().__init__("efficientnet_lite0", list(layers))
        verified = verify(official_efficientnet_lite0(), weights, expected_sha256=expected_sha256)
        with torch.random.fork_rng(devices=[]):
            self.network = EfficientNet.from_name("efficientnet-lite0")
        with mismatch_is_user_error(verified):
            self.network.load_state_dict(load_state_dict(verified.path))
        self.requires_grad_(False).eval()
        resize = f"bilinear {self.IMAGE_SIZE}, no antialias, half-pixel centres"
        self.identity = ExtractorIdentity(verified.label(self.name), weights_hash(self.network), resize, "float32")
        _fold_efficientnet(self.network)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """uint8 `(B, 3, H, W)` → the requested layers, float32."""
        features = self.network.extract_features(self.inputs(images)).mean(dim=(2, 3))  # (B, 1280)
        outputs = {"features": features}
        if "logits" in self.features_list:
            outputs["logits"] = F.linear(features, self.network._fc.weight, self.network._fc.bias)
        return tuple(outputs[layer] for layer in self.features_list)

    def inputs(self, images: Tensor) -> Tensor:
        """What the network reads, `(B, 3, 224, 224)`."""
        resized = self.resize(images.float(), (self.IMAGE_SIZE, self.IMAGE_SIZE))
        return ((resized - 127) / 128).contiguous(memory_format=torch.channels_last)

    def resize(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """Bilinear, without antialiasing, with half-pixel centres."""
        return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=False)

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
