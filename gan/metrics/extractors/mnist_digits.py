"""A small network that reads MNIST's digits, the weights of which lie beside this file: the referee of stacked MNIST.

`benchmarks/train_mnist_classifier.py` made them from the 60,000 training digits alone.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from gan.metrics.extractors.weights import OfficialWeights, mismatch_is_user_error, verify, weights_hash
from gan.metrics.protocol import ExtractorIdentity

WEIGHTS = Path(__file__).with_name("mnist_digits-28fb9c07.safetensors")
ACCURACY = 0.9953  # on MNIST's 10,000 test digits
SIDE = 28  # pixels of a digit that the network reads


class MnistNetwork(nn.Module):
    """Digits `(B, 1, 28, 28)` in [0, 1] → logits `(B, 10)`: three convolutions, two linear layers, 98,554 weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_convolution(1, 16), nn.MaxPool2d(2),
            *_convolution(16, 32), nn.MaxPool2d(2),
            *_convolution(32, 64), nn.MaxPool2d(2),
            nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 9, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, 10),
        )  # fmt: skip

    def forward(self, digits: Tensor) -> Tensor:
        return self.layers(digits)

    def features(self, digits: Tensor) -> Tensor:
        """What the last layer reads, `(B, 128)`."""
        return self.layers[:-1](digits)


def _convolution(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU()]


class MnistDigitsExtractor(FeatureExtractorBase):
    """Reads the digit in each of three channels.

    Layers: `features` `(B, 384)`, those of the three digits side by side; `logits` `(B, 1000)`, of the class
    100·red + 10·green + blue: sums of the digits' log probabilities. Images of 32 × 32 are read without their margin of
    2, other sizes than 28 and 32 are resized.

    Raises:
        UserError: the weights are missing, unknown, or those of another network.
    """

    def __init__(self, weights: str | Path | None = None, *, expected_sha256: str | None = None) -> None:
        super().__init__("mnist_digits", ["features", "logits"])
        verified = verify(official_mnist_digits(), weights, expected_sha256=expected_sha256)
        with torch.random.fork_rng(devices=[]):
            self.network = MnistNetwork()
        with mismatch_is_user_error(verified):
            self.network.load_state_dict(load_file(verified.path))
        self.requires_grad_(False).eval()
        name = verified.label(self.name)
        self.identity = ExtractorIdentity(name, weights_hash(self.network), f"margin off, bilinear {SIDE}", "float32")
        _fold(self.network)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """uint8 `(B, 3, H, W)` → both layers, float32."""
        digits = of_side(images.flatten(0, 1)[:, None].float() / 255)  # (3·B, 1, 28, 28)
        features = self.network.features(digits)
        red, green, blue = self.network.layers[-1](features).log_softmax(1).unflatten(0, (-1, 3)).unbind(1)
        logits = red[:, :, None, None] + green[:, None, :, None] + blue[:, None, None, :]  # (B, 10, 10, 10)
        return features.view(len(images), -1), logits.flatten(1)

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
        return torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8)


def _fold(network: MnistNetwork) -> None:
    """Batch norms into the convolutions before them, pooling before ReLU, which it commutes with: half the time."""
    layers = [layer for layer in network.layers if not isinstance(layer, nn.BatchNorm2d | nn.Dropout)]
    norms = iter([layer for layer in network.layers if isinstance(layer, nn.BatchNorm2d)])
    for place, layer in enumerate(layers):
        if isinstance(layer, nn.Conv2d):
            layers[place] = fuse_conv_bn_eval(layer, next(norms))
        elif isinstance(layer, nn.MaxPool2d):
            layers[place - 1 : place + 1] = [layer, nn.ReLU(inplace=True)]
    network.layers = nn.Sequential(*layers)


def official_mnist_digits() -> OfficialWeights:
    """The weights that the repository holds."""
    return OfficialWeights("mnist_digits", WEIGHTS)


def of_side(digits: Tensor) -> Tensor:
    """Digits `(N, 1, R, R)` as `(N, 1, 28, 28)`."""
    margin = digits.shape[-1] - SIDE
    if 0 <= margin <= 4:
        before = margin // 2
        return digits[..., before : before + SIDE, before : before + SIDE]
    return F.interpolate(digits, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
