"""What a head is."""

from typing import Any, Literal

from torch import Tensor, nn


class Head(nn.Module):
    """What every head states of itself: how many scores it gives, what it does with labels, what it trains on."""

    stages: int = 1
    labels: Literal["ignored", "optional", "required"] = "ignored"
    learns_directions: bool = False  # whether `direction_scores` joins the discriminator's loss
    classifies: bool = False  # whether it has `class_logits`
    num_classes: int | None = None  # of the labels of a head whose labels are optional

    def __init__(self) -> None:
        super().__init__()
        self.register_forward_pre_hook(_check, with_kwargs=True)

    @property
    def takes_labels(self) -> bool:
        """Whether this head, as it was built, scores features and labels together."""
        return self.labels == "required" or (self.labels == "optional" and self.num_classes is not None)

    def batch_scores(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Scores `(B, N)` of D's step, of its real and fake samples together.

        Those of `forward`, unless a head reads statistics of the whole batch: of this one here, a moving average of
        them in `forward`.
        """
        scores: Tensor = self(features, labels)
        return scores

    def batch_statistics(self, features: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """What the moving average takes of a batch, by names that begin with `head/`; empty for most heads."""
        return {}

    def follow(self, means: dict[str, Tensor]) -> None:
        """At the end of D's step: take out of `means` the `batch_statistics`, averaged over all parts of the batch."""

    def direction_scores(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Of a head that learns directions: slices `(B, N)` that only the directions receive a gradient from."""
        raise TypeError(f"{type(self).__name__} learns no directions")

    def class_logits(self, features: Tensor) -> Tensor:
        """Of a head that classifies: logits `(B, K)`."""
        raise TypeError(f"{type(self).__name__} does not classify")


def _check(head: Head, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
    """Refuse what a head cannot score.

    Raises:
        ValueError: features that are not vectors, labels that are missing, or that the head was not built for.
    """
    features: Tensor = arguments[0] if arguments else named["features"]
    labels: Tensor | None = arguments[1] if len(arguments) > 1 else named.get("labels")
    name = type(head).__name__
    if features.dim() != 2:
        raise ValueError(f"features: {tuple(features.shape)} found, (B, F) accepted; {name} scores vectors, not maps")
    if head.takes_labels and labels is None:
        raise ValueError(f"labels: none found, (B,) class numbers accepted; {name} was built for them")
    if labels is not None and not head.takes_labels:
        how = "ignores them" if head.labels == "ignored" else "was built without num_classes"
        raise ValueError(f"labels: {tuple(labels.shape)} found, none accepted; {name} {how}")
