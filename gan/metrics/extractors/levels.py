"""Feature spaces of several levels: how strongly each channel answers in the mean over positions, and how unevenly.

The last features of a classifier know objects; the levels before them know colour, sharpness and texture.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from gan.errors import UserError
from gan.metrics.extractors.efficientnet import EfficientNetLite0Extractor
from gan.metrics.extractors.weights import weights_hash
from gan.metrics.protocol import ExtractorIdentity

LAST_BLOCKS = (2, 4, 10)  # of EfficientNet-Lite0 at strides 4, 8 and 16: 24, 40 and 112 channels
CHANNELS = (64, 96, 128)  # of the random network at strides 1, 2 and 4
SEED = 2020  # of its weights


def moments(levels: Sequence[Tensor]) -> Tensor:
    """Means and standard deviations over positions of levels `(B, C_i, H_i, W_i)`, `(B, 2 Σ C_i)`."""
    statistics = [torch.var_mean(level, dim=(2, 3), correction=0) for level in levels]
    return torch.cat([part for variance, mean in statistics for part in (mean, variance.sqrt())], dim=1)


class EfficientNetLevelsExtractor(EfficientNetLite0Extractor):
    """EfficientNet-Lite0 as far as stride 16: layer `levels` `(B, 352)`, of the strides 4, 8 and 16.

    Raises:
        UserError: as `EfficientNetLite0Extractor`.
    """

    def __init__(self, weights: str | Path | None = None, *, expected_sha256: str | None = None) -> None:
        super().__init__(weights, ["levels"], expected_sha256=expected_sha256)
        self.name = "efficientnet_lite0_levels"
        name = self.identity.name.replace("efficientnet_lite0", self.name)
        self.identity = replace(self.identity, name=name)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """uint8 `(B, 3, H, W)` → `(B, 352)`, float32."""
        network = self.network
        values, levels = network._swish(network._bn0(network._conv_stem(self.inputs(images)))), []
        for index in range(LAST_BLOCKS[-1] + 1):
            values = network._blocks[index](values)
            levels += [values] if index in LAST_BLOCKS else []
        return (moments(levels),)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        """The name of the layer."""
        return ("levels",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        """The layer for torch-fidelity's `fid`, `kid` or `prc`; KeyError for `isc`."""
        return dict.fromkeys(("fid", "kid", "prc"), "levels")[metric]


class RandomConvolutionsExtractor(FeatureExtractorBase):
    """Three random 3 × 3 convolutions with ReLU, strides 1, 2 and 2, on the pixels as they are.

    Nothing is trained and nothing resized. Layer `levels` `(B, 576)`. Weights are normal with variance 2 / fan-in, from
    a fixed seed.

    Raises:
        UserError: weights are given, which it does not take.
    """

    def __init__(self, weights: str | Path | None = None, *, expected_sha256: str | None = None) -> None:
        super().__init__("random_convolutions", ["levels"])
        if weights is not None or expected_sha256 is not None:
            raise UserError("random_convolutions: weights given, which it does not take; its own follow from a seed")
        random = np.random.RandomState(SEED)
        self.filters = nn.ParameterList()
        for inputs, outputs in zip((3, *CHANNELS), CHANNELS, strict=False):
            values = random.standard_normal((outputs, inputs, 3, 3)) * (2 / (9 * inputs)) ** 0.5
            self.filters.append(torch.from_numpy(values).float())
        self.requires_grad_(False).eval()
        self.identity = ExtractorIdentity(self.name, weights_hash(self), "none", "float32")

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """uint8 `(B, 3, H, W)` → `(B, 576)`, float32."""
        values, levels = (images.float() - 127) / 128, []
        for index, filters in enumerate(self.filters):
            values = F.conv2d(values, filters, stride=1 if index == 0 else 2, padding=1).relu()
            levels.append(values)
        return (moments(levels),)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        """The name of the layer."""
        return ("levels",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        """The layer for torch-fidelity's `fid`, `kid` or `prc`; KeyError for `isc`."""
        return dict.fromkeys(("fid", "kid", "prc"), "levels")[metric]

    @staticmethod
    def can_be_compiled() -> bool:
        """Whether torch-fidelity may compile it."""
        return True

    @staticmethod
    def get_dummy_input_for_compile() -> Tensor:
        """One small image."""
        return torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
