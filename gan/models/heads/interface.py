"""What a head is."""

from typing import Literal

from torch import Tensor, nn


class Head(nn.Module):
    """What every head states of itself: how many scores it gives, what it does with labels, what it trains on."""

    stages: int = 1
    labels: Literal["ignored", "optional", "required"] = "ignored"
    learns_directions: bool = False  # whether `direction_scores` joins the discriminator's loss
    classifies: bool = False  # whether it has `class_logits`

    def direction_scores(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Of a head that learns directions: slices `(B, N)` that only the directions receive a gradient from."""
        raise TypeError(f"{type(self).__name__} learns no directions")

    def class_logits(self, features: Tensor) -> Tensor:
        """Of a head that classifies: logits `(B, K)`."""
        raise TypeError(f"{type(self).__name__} does not classify")
