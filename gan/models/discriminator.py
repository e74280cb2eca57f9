"""A discriminator is a backbone and a head."""

import torch
from torch import Tensor, nn

from gan.models.heads import Head
from gan.models.interface import Backbone


class Discriminator(nn.Module):
    """Images `(B, C, H, W)` in [−1, 1] and labels `(B,)` or None → scores `(B / packing, stages)`.

    Args:
        backbone: images `(B, packing · C, H, W)` → features `(B, backbone.out_features)`.
        head: (features, labels or None) → scores `(B, head.stages)`.
        packing: how many images in a row are judged as one, over their channels (PacGAN: Lin et al. 2018,
            arXiv:1712.04086).
    """

    def __init__(self, backbone: Backbone, head: Head, packing: int = 1) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.packing = packing

    @property
    def stages(self) -> int:
        """How many scores the head gives."""
        return self.head.stages

    @property
    def normalises_batches(self) -> bool:
        """Whether what the backbone makes of an image depends on the others of its batch."""
        return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.backbone.modules())

    def features(self, images: Tensor) -> Tensor:
        """The vectors v that the head scores, `(B / packing, F)`."""
        if self.packing > 1:
            images = images.unflatten(0, (-1, self.packing)).flatten(1, 2)  # (B / m, m · C, H, W)
        return self.backbone(images)

    def features_of_both(self, images: Tensor, real_count: int) -> Tensor:
        """Features of `real_count` real images and of the fakes behind them, each kind normalised by its own batch.

        One pass, but for a backbone that normalises batches: as published, that is given either kind alone.
        """
        if not self.normalises_batches:
            return self.features(images)
        return torch.cat([self.features(part) for part in images.tensor_split([real_count])])

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.head(self.features(images), labels)
