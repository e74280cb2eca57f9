"""The Inception-v3 that FID, IS and KID are defined by."""

from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch_fidelity.feature_extractor_inceptionv3 import BasicConv2d, FeatureExtractorInceptionV3

from gan.metrics.extractors.weights import (
    load_state_dict,
    mismatch_is_user_error,
    official_inception,
    verify,
    weights_hash,
)
from gan.metrics.protocol import ExtractorIdentity

LAYERS = ["2048", "logits_unbiased"]


class InceptionExtractor(FeatureExtractorInceptionV3):
    """torch-fidelity's Inception-v3 (`inception-v3-compat`), the network that FID, IS and KID are defined by.

    Its convolutions run in channels_last with the batch norms folded into them, equal to 1e-6 relative. The weights
    file is verified before torch-fidelity, which would execute it, gets to open it.

    Raises:
        UserError: the weights are missing, unknown, or those of another network.
    """

    def __init__(self, weights: str | Path | None = None, *, expected_sha256: str | None = None) -> None:
        verified = verify(official_inception(), weights, expected_sha256=expected_sha256)
        load_state_dict(verified.path)  # proves that the file holds only data
        with mismatch_is_user_error(verified), torch.random.fork_rng(devices=[]):
            super().__init__("inception-v3-compat", LAYERS, feature_extractor_weights_path=str(verified.path))
        resize = "bilinear 299, as TensorFlow 1 (no antialias, corners at 0)"
        self.identity = ExtractorIdentity(verified.label("inception"), weights_hash(self), resize, "float32")
        for module in self.modules():
            if isinstance(module, BasicConv2d):
                module.conv, module.bn = fuse_conv_bn_eval(module.conv, module.bn), nn.Identity()
        self.to(memory_format=torch.channels_last)
