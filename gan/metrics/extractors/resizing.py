"""Another resizing than an extractor's own: antialiased bicubic, as clean-fid has it (Parmar et al. 2022)."""

from dataclasses import replace
from types import FunctionType, MethodType
from typing import Any, Protocol, runtime_checkable

from torch import Tensor
from torch.nn import functional as F
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from gan.errors import UserError
from gan.metrics.extractors.interface import identify

THEIRS = interpolate_bilinear_2d_like_tensorflow1x.__name__


@runtime_checkable
class Resizes(Protocol):
    """An extractor of ours that can be told how to resize: float images `(B, 3, H, W)` and (height, width) → images."""

    def resize(self, images: Tensor, size: tuple[int, int]) -> Tensor: ...


def antialiased(images: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Float images in [0, 255], as Pillow's bicubic resizing of float images gives them, clipped to that range.

    Args:
        align_corners: False, as it takes the place of a function that has it.
    """
    resized = F.interpolate(images.float(), size, mode="bicubic", align_corners=align_corners, antialias=True)
    return resized.clamp(0, 255)


def use_antialiased(extractor: FeatureExtractorBase) -> None:
    """Make an extractor resize by `antialiased`, and its identity say so.

    Raises:
        UserError: it reads images in another way than by resizing them to one size.
    """
    found: Any = extractor
    if isinstance(extractor, Resizes):
        found.resize, size = antialiased, found.IMAGE_SIZE
    elif THEIRS in type(extractor).forward.__globals__:
        size = getattr(extractor, "resolution", None) or found.INPUT_IMAGE_SIZE
        found.forward = MethodType(_resizing_by_ours(type(extractor).forward), extractor)
    else:
        name = identify(extractor).name
        raise UserError(f"resize: antialiased found; extractor '{name}' has its own way, accepted: extractor")
    found.identity = replace(identify(extractor), resize=f"bicubic {size}, antialiased, as clean-fid")


def _resizing_by_ours(forward: FunctionType) -> FunctionType:
    """torch-fidelity's `forward`, of the same code, in which the name of its resizing means ours."""
    names = {**forward.__globals__, THEIRS: antialiased}
    return FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__)
