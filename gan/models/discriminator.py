"""A discriminator is a backbone and a head."""

from torch import Tensor, nn

from gan.models.heads import Head
from gan.models.interface import Backbone


class Discriminator(nn.Module):
    """Images `(B, C, H, W)` in [−1, 1] and labels `(B,)` or None → scores `(B, stages)`.

    Args:
        backbone: images → features `(B, backbone.out_features)`.
        head: (features, labels or None) → scores `(B, head.stages)`.
    """

    def __init__(self, backbone: Backbone, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    @property
    def stages(self) -> int:
        """How many scores the head gives."""
        return self.head.stages

    def features(self, images: Tensor) -> Tensor:
        """The vector v that the head scores, `(B, F)`."""
        return self.backbone(images)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.head(self.features(images), labels)
