"""Differentiable augmentation of what the discriminator sees, real and fake alike, with a fixed or adaptive rate.

Operations are those of DiffAugment (Zhao et al. 2020, arXiv:2006.10738, section 3), each applied to an image with
probability p, and the transforms of ADA, each of whose parts is (`ada.py`). The adaptive p follows ADA (Karras et al.
2020, arXiv:2006.06676, section 3).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gan.objectives import ada

Operation = Literal["color", "translation", "cutout", "ada_geometry", "ada_color"]


class Augmentation(nn.Module):
    """Images `(B, C, H, W)` in [−1, 1] → the same, augmented; no operations leave them as they are.

    Args:
        operations: names of the table, in this order.
        probability: p, or its start when adaptive.
        shares: of p with which an operation is applied, by its name, 1 where none is given.
        target: of r = E[sign Σ_i λ_i D_i(x)] on reals, which an adaptive p is steered by; None keeps p fixed.
        images_to_full: how many real images an adaptive p takes from 0 to 1 at the fastest.
    """

    probability: Tensor
    sign_sum: Tensor
    UPDATE_EVERY = 4  # The probability moves every so many discriminator steps, as published.

    def __init__(
        self,
        operations: Sequence[Operation] = (),
        probability: float = 1.0,
        target: float | None = None,
        images_to_full: int = 500_000,
        shares: Mapping[Operation, float] | None = None,
    ) -> None:
        super().__init__()
        self.operations = tuple(operations)
        self.shares = dict(shares or {})
        self.target = target
        self.images_to_full = images_to_full
        self.observed = 0
        self.register_buffer("probability", torch.tensor(probability))
        self.register_buffer("sign_sum", torch.zeros(()))

    def forward(self, images: Tensor, random: torch.Generator) -> Tensor:
        for name in self.operations:
            images = OPERATIONS[name](images, random, self.probability * self.shares.get(name, 1.0))
        return images

    @torch.no_grad()
    def follow(self, sign: Tensor, images: int) -> None:
        """Adapt p to r of a discriminator's step on so many augmented reals; nothing waits for the device."""
        if self.target is None:
            return
        self.sign_sum += sign
        self.observed += 1
        if self.observed % self.UPDATE_EVERY == 0:
            step = images * self.UPDATE_EVERY / self.images_to_full
            direction = (self.sign_sum / self.UPDATE_EVERY - self.target).sign()
            self.probability.add_(step * direction).clamp_(0, 1)
            self.sign_sum.zero_()

    def get_extra_state(self) -> int:
        return self.observed

    def set_extra_state(self, state: int) -> None:
        self.observed = state


def color(images: Tensor, random: torch.Generator) -> Tensor:
    """Brightness ± ½, saturation × [0, 2], contrast × [½, 1½]."""
    images = images + (_uniform(images, random) - 0.5)
    grey = images.mean(dim=1, keepdim=True)
    images = grey + (images - grey) * (2 * _uniform(images, random))
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (images - mean) * (_uniform(images, random) + 0.5)


def translation(images: Tensor, random: torch.Generator) -> Tensor:
    """A shift by up to an eighth of the side in both directions; what enters is 0."""
    return translate(images, random, 0.125)


def cutout(images: Tensor, random: torch.Generator) -> Tensor:
    """A square of half the side is set to 0, its centre uniform over the image."""
    batch, _, height, width = images.shape
    device = images.device
    inside = []
    for size in (height, width):
        half = size // 4
        # Centres go from 0 to the size, which is included because the middle of an even square lies between pixels.
        centre = torch.randint(size + 1, (batch, 1), generator=random, device=device)
        place = torch.arange(size, device=device)
        inside.append((place >= centre - half) & (place < centre + half))  # (B, size)
    hole = inside[0].unsqueeze(2) & inside[1].unsqueeze(1)  # (B, H, W)
    return images.masked_fill(hole.unsqueeze(1), 0)


def translate(images: Tensor, random: torch.Generator, share: float) -> Tensor:
    """Shift each image by whole pixels, up to `share` of the side either way; what enters is 0."""
    batch, _, height, width = images.shape
    device = images.device
    down, right = round(share * height), round(share * width)
    rows = torch.randint(-down, down + 1, (batch, 1), generator=random, device=device)
    columns = torch.randint(-right, right + 1, (batch, 1), generator=random, device=device)
    y = torch.arange(height, device=device) - rows + down  # (B, H), rows of the padded image
    x = torch.arange(width, device=device) - columns + right  # (B, W), its columns
    padded = F.pad(images, (right, right, down, down)).permute(0, 2, 3, 1)  # (B, H + 2d, W + 2r, C)
    index = torch.arange(batch, device=device)[:, None, None]
    return padded[index, y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)


def flip(images: Tensor, random: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability ½."""
    return torch.where(_uniform(images, random) < 0.5, images.flip(3), images)


def _uniform(images: Tensor, random: torch.Generator) -> Tensor:
    """One number in [0, 1) an image, `(B, 1, 1, 1)`."""
    return torch.rand(len(images), 1, 1, 1, generator=random, device=images.device)


def chosen(operation: Callable[[Tensor, torch.Generator], Tensor]) -> Callable[..., Tensor]:
    """`operation`, applied to an image with a probability."""

    def apply(images: Tensor, random: torch.Generator, probability: Tensor) -> Tensor:
        changed = operation(images, random)
        return torch.where(_uniform(images, random) < probability, changed, images)

    return apply


OPERATIONS: dict[str, Callable[[Tensor, torch.Generator, Tensor], Tensor]] = {
    "color": chosen(color),
    "translation": chosen(translation),
    "cutout": chosen(cutout),
    "ada_geometry": ada.geometry,
    "ada_color": ada.colours,
}
