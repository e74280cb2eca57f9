"""Which images can be scored, and the one rule by which generated values become pixels."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gan.errors import NonFiniteError, UserError

Pixels = NDArray[np.uint8]  # (N, H, W, C)
Labels = NDArray[np.int64]  # (N,)


def to_uint8(images: Tensor) -> Tensor:
    """Images as an image file would hold them: uint8 stays, float x in [−1, 1] becomes round((x + 1) · 127.5).

    Rounding is to nearest (halves to even), in float32; values beyond [−1, 1] are clipped.

    Raises:
        NonFiniteError: NaN or infinity.
        ValueError: another type.
    """
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise ValueError(f"expected images of uint8 or float, got {images.dtype}")
    if not images.isfinite().all():
        raise NonFiniteError("the generated images hold NaN or infinity")
    return rounded(images)


def rounded(images: Tensor) -> Tensor:
    """`to_uint8` of floats, unchecked, in operations that TorchScript compiles too."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


@dataclass
class ArraySampler:
    """n → the next n of uint8 images `(N, H, W, C)`, as `(n, C, H, W)`, each once."""

    images: np.ndarray
    position: int = 0

    def __call__(self, count: int) -> Tensor:
        # This is a copy, because a memory map may be read-only, which tensors cannot be.
        batch = torch.from_numpy(np.array(self.images[self.position : self.position + count]))
        self.skip(count)
        return batch.permute(0, 3, 1, 2)

    def skip(self, count: int) -> None:
        """Pass over `count` images without reading them."""
        self.position += count


def of_size(sample: Callable[[int], Tensor], height_width: tuple[int, ...]) -> Callable[[int], Tensor]:
    """`sample`, refusing images of another size: resizing them silently would change the protocol.

    Raises (when called):
        UserError: the size is not `height_width`.
        ValueError: not `(n, C, H, W)`.
    """

    def checked(count: int) -> Tensor:
        images = sample(count)
        if images.ndim != 4:
            raise ValueError(f"expected images (n, C, H, W), got {tuple(images.shape)}")
        if tuple(images.shape[2:]) != height_width:
            size, reference_size = ("×".join(map(str, s)) for s in (images.shape[2:], height_width))
            raise UserError(f"images are {size}, the reference is {reference_size}: bring them to one size first")
        return images

    return checked


def check_images(images: np.ndarray) -> None:
    """Refuse anything but at least 2 uint8 images `(N, H, W, 1 or 3)`.

    Raises:
        UserError: with what was found.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise UserError(f"expected uint8 images (N, H, W, 1 or 3), got {images.dtype} {images.shape}")
    if len(images) < 2:
        raise UserError(f"an evaluation needs at least 2 images, got {len(images)}")
