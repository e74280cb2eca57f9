"""torch-fidelity's VGG16, CLIP and DINOv2, loaded from files that cannot execute anything.

torch-fidelity itself unpickles VGG16, opens CLIP as TorchScript, and runs code from a repository for DINOv2.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_clip import MODEL_METADATA, MODEL_URLS, FeatureExtractorCLIP, build_model
from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2
from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16
from torchvision.models import VGG16_Weights, VisionTransformer

from gan.errors import UserError
from gan.metrics.extractors.weights import (
    OfficialWeights,
    VerifiedWeights,
    file_sha256,
    load_state_dict,
    mismatch_is_user_error,
    verify,
    weights_hash,
)
from gan.metrics.protocol import ExtractorIdentity

CLIP_NAMES = tuple(MODEL_URLS)
DINOV2_SIZES = {  # name → width, blocks, attention heads; the giant has another kind of block
    "dinov2-vit-s-14": (384, 12, 6),
    "dinov2-vit-b-14": (768, 12, 12),
    "dinov2-vit-l-14": (1024, 24, 16),
}


def official_vgg16() -> OfficialWeights:
    """torchvision's VGG16, trained on ImageNet."""
    return OfficialWeights.from_hub("vgg16", VGG16_Weights.IMAGENET1K_V1.url)


def official_clip(name: str) -> OfficialWeights:
    """OpenAI's release of a CLIP model, whose whole SHA-256 torch-fidelity knows."""
    return OfficialWeights.from_hub(name, MODEL_URLS[name], f"{name}-{MODEL_METADATA[name]['hash']}.pt")


class _WithoutLogits(FeatureExtractorBase):
    """No layer of these networks gives class logits, so no inception score is read from them."""

    layer = ""

    @classmethod
    def get_default_feature_layer_for_metric(cls, metric: str) -> str:
        """The layer for torch-fidelity's `fid`, `kid` or `prc`; KeyError for `isc`."""
        return dict.fromkeys(("fid", "kid", "prc"), cls.layer)[metric]

    def _hold(self, name: str, verified: VerifiedWeights, build: Callable[[], Any]) -> None:
        """Become an extractor of `layer` from the network that `build` makes of verified weights."""
        FeatureExtractorBase.__init__(self, name, [self.layer])
        self.feature_extractor_internal_dtype = torch.float32
        with mismatch_is_user_error(verified), torch.random.fork_rng(devices=[]):
            self.model: Any = build()
        self.requires_grad_(False).eval()


class VGG16Extractor(_WithoutLogits, FeatureExtractorVGG16):
    """VGG16's second fully connected layer after its ReLU `(B, 4096)`, as in Kynkäänniemi et al. 2019.

    Raises:
        UserError: the weights are missing, unknown, or those of another network.
    """

    layer = "fc2_relu"

    def __init__(self, weights: str | Path | None = None, *, expected_sha256: str | None = None) -> None:
        verified = verify(official_vgg16(), weights, expected_sha256=expected_sha256)
        load_state_dict(verified.path)  # proves that the file holds only data
        with mismatch_is_user_error(verified), torch.random.fork_rng(devices=[]):
            super().__init__("vgg16", [self.layer], feature_extractor_weights_path=str(verified.path))
        self.identity = _identity(self, "vgg16", verified, 224)
        self.to(memory_format=torch.channels_last)


class CLIPExtractor(_WithoutLogits, FeatureExtractorCLIP):
    """The image embedding of an OpenAI CLIP model, `(B, 512 to 1024)`.

    The official file is a TorchScript archive, which is opened only when its whole SHA-256 is the published one. Any
    other file must be a plain state dict with the archive's names.

    Raises:
        UserError: the weights are missing, unknown, or those of another network.
    """

    layer = "clip"

    def __init__(self, name: str, weights: str | Path | None = None, *, expected_sha256: str | None = None) -> None:
        verified = verify(official_clip(name), weights, expected_sha256=expected_sha256)
        state_dict = _archived(verified.path) if verified.official else load_state_dict(verified.path)
        self._hold(name, verified, lambda: build_model(dict(state_dict), torch.float32))
        self.resolution = self.model.visual.input_resolution
        self.identity = _identity(self, name, verified, self.resolution)


class DINOv2Extractor(_WithoutLogits, FeatureExtractorDinoV2):
    """The class token of a DINOv2 vision transformer (Oquab et al. 2023), `(B, 384 to 1024)`, at 224 × 224.

    torchvision's transformer with the release's weights: its layer scales are multiplied into the projections before
    them, its position embeddings resampled to 16 × 16 as its own code does (bicubic, scale (16 + 0.1)/37).
    The release has no digest to check a download by, so its file has to be given with one.

    Raises:
        UserError: no weights are given, their digest is not the one given, or they are those of another network.
    """

    layer = "dinov2"

    def __init__(self, name: str, weights: str | Path | None = None, *, expected_sha256: str | None = None) -> None:
        verified = verify_dinov2(name, weights, expected_sha256)
        state_dict = load_state_dict(verified.path)
        self._hold(name, verified, lambda: _vision_transformer(name, state_dict))
        self.identity = _identity(self, name, verified, 224)


def _vision_transformer(name: str, state_dict: dict[str, Tensor]) -> nn.Module:
    width, blocks, heads = DINOV2_SIZES[name]
    model = VisionTransformer(224, 14, blocks, heads, width, 4 * width)
    model.heads = nn.Identity()
    model.load_state_dict(dinov2_to_torchvision(state_dict, blocks))
    return model


def verify_dinov2(name: str, weights: str | Path | None, expected_sha256: str | None) -> VerifiedWeights:
    """The file given, if its digest is the one given."""
    if weights is None:
        raise UserError(f"{name}: no weights given; accepted: --weights FILE with --weights-sha256 DIGEST")
    path = Path(weights)
    digest = file_sha256(path)
    if expected_sha256 is None:
        raise UserError(f"{path}: SHA-256 is {digest}; to accept it, give it as --weights-sha256")
    if not (len(expected_sha256) >= 8 and digest.startswith(expected_sha256.lower())):
        raise UserError(f"{path}: SHA-256 is {digest}, expected {expected_sha256} (at least 8 digits)")
    return VerifiedWeights(path, official=False)


def dinov2_to_torchvision(weights: dict[str, Tensor], blocks: int) -> dict[str, Tensor]:
    """The state dict of torchvision's `VisionTransformer`, without head, for a DINOv2 release's.

    Raises:
        KeyError, RuntimeError: it is not such a release.
    """
    named = {
        "class_token": weights["cls_token"],
        "encoder.pos_embedding": _resampled(weights["pos_embed"]),
        "conv_proj.weight": weights["patch_embed.proj.weight"],
        "conv_proj.bias": weights["patch_embed.proj.bias"],
    }
    for kind in ("weight", "bias"):
        named[f"encoder.ln.{kind}"] = weights[f"norm.{kind}"]
        for index in range(blocks):
            theirs, ours = f"blocks.{index}", f"encoder.layers.encoder_layer_{index}"
            named[f"{ours}.ln_1.{kind}"] = weights[f"{theirs}.norm1.{kind}"]
            named[f"{ours}.ln_2.{kind}"] = weights[f"{theirs}.norm2.{kind}"]
            named[f"{ours}.self_attention.in_proj_{kind}"] = weights[f"{theirs}.attn.qkv.{kind}"]
            named[f"{ours}.mlp.0.{kind}"] = weights[f"{theirs}.mlp.fc1.{kind}"]
            # x + γ ⊙ (W h + b) = x + (γ ⊙ W) h + γ ⊙ b
            for target, source, scale in (("self_attention.out_proj", "attn.proj", "ls1"), ("mlp.3", "mlp.fc2", "ls2")):
                gamma, values = weights[f"{theirs}.{scale}.gamma"], weights[f"{theirs}.{source}.{kind}"]
                named[f"{ours}.{target}.{kind}"] = gamma[:, None] * values if kind == "weight" else gamma * values
    return named


def _resampled(positions: Tensor) -> Tensor:
    """Position embeddings `(1, 1 + M², D)` → `(1, 1 + 16², D)`."""
    side = round((positions.shape[1] - 1) ** 0.5)
    grid = positions[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    scale = (16 + 0.1) / side
    resampled = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic", antialias=False)
    return torch.cat([positions[:, :1], resampled.flatten(2).transpose(1, 2)], dim=1)


def _archived(path: Path) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        tensors: dict[str, Tensor] = torch.jit.load(path, map_location="cpu").state_dict()
    return tensors


def _identity(extractor: nn.Module, name: str, verified: VerifiedWeights, size: int) -> ExtractorIdentity:
    resize = f"bilinear {size}, as TensorFlow 1 (no antialias, corners at 0)"
    return ExtractorIdentity(verified.label(name), weights_hash(extractor), resize, "float32")
