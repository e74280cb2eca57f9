"""Heads of one score: linear, projection, auxiliary classifier."""

from torch import Tensor

from gan.models.blocks.layers import Embedding, Linear
from gan.models.blocks.precision import without_autocast
from gan.models.heads.interface import Head


class LinearHead(Head):
    """One inner product, g (<v, w> + b): the head of an unconditional GAN.

    Args:
        in_features: F.
        bias: whether to add b.
        spectral_norm: divide w by its norm.
        gain: g. With 1/√N it is the head that a cascade of N stages comes to if w_1 points along the difference of the
            means (docs/cascading_rejection.md): a control of what is margin and what is rejection.
    """

    def __init__(self, in_features: int, *, bias: bool = True, spectral_norm: bool = True, gain: float = 1.0) -> None:
        super().__init__()
        if gain <= 0:
            raise ValueError(f"gain: {gain} found, above 0 accepted")
        self.linear = Linear(in_features, 1, bias=bias, spectral_norm=spectral_norm)
        self.gain = gain

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        with without_autocast(features):
            return self.gain * self.linear(features.to(self.linear.weight.dtype))


class ProjectionHead(Head):
    """The projection discriminator, <v, w> + b + <v, e(y)> (Miyato & Koyama 2018, arXiv:1802.05637).

    Args:
        in_features: F.
        num_classes: rows of the embedding table e.
        bias: whether to add b.
        spectral_norm: divide w and the table by their largest singular values.
    """

    labels = "required"

    def __init__(self, in_features: int, num_classes: int, *, bias: bool = True, spectral_norm: bool = True) -> None:
        super().__init__()
        self.linear = Linear(in_features, 1, bias=bias, spectral_norm=spectral_norm)
        self.embedding = Embedding(num_classes, in_features, spectral_norm=spectral_norm)

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        with without_autocast(features):
            features = features.to(self.linear.weight.dtype)
            projection = (features * self.embedding(labels)).sum(dim=1, keepdim=True)
            return self.linear(features) + projection


class AuxiliaryClassifierHead(Head):
    """AC-GAN's head: one score, <v, w> + b, and class logits for a loss of their own (Odena, Olah, Shlens 2017).

    The score itself does not depend on labels; `objective.regularizers.classification` trains the logits.

    Args:
        in_features: F.
        num_classes: K.
        spectral_norm: divide w and the classifier's matrix by their largest singular values.
    """

    labels = "required"
    classifies = True

    def __init__(self, in_features: int, num_classes: int, *, spectral_norm: bool = True) -> None:
        super().__init__()
        self.linear = Linear(in_features, 1, spectral_norm=spectral_norm)
        self.classifier = Linear(in_features, num_classes, spectral_norm=spectral_norm)

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        with without_autocast(features):
            return self.linear(features.to(self.linear.weight.dtype))

    def class_logits(self, features: Tensor) -> Tensor:
        """`(B, K)`."""
        with without_autocast(features):
            return self.classifier(features.to(self.classifier.weight.dtype))
