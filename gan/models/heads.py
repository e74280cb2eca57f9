"""Heads: feature vectors `(B, F)` and labels `(B,)` or None → scores `(B, stages)`.

A head is the last layer of a discriminator; every column of its scores receives an adversarial loss of its own.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gan.models.cascade import Rejection, cascade_residuals, cascade_scores
from gan.models.layers import Embedding, Linear
from gan.models.precision import without_autocast


class Head(nn.Module):
    """What every head states of itself: how many scores it gives, and what it does with labels."""

    stages: int = 1
    labels: Literal["ignored", "optional", "required"] = "ignored"


class LinearHead(Head):
    """One inner product, <v, w> + b: the head of an unconditional GAN.

    Args:
        in_features: F.
        bias: whether to add b.
        spectral_norm: divide w by its norm.
    """

    def __init__(self, in_features: int, *, bias: bool = True, spectral_norm: bool = True) -> None:
        super().__init__()
        self.linear = Linear(in_features, 1, bias=bias, spectral_norm=spectral_norm)

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        with without_autocast(features):
            return self.linear(features.to(self.linear.weight.dtype))


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


class CascadingRejection(Head):
    """N scores, each of what the stages before it could not see (Shin, Yeo, Ko, arXiv:1911.10979).

    D_i = <v_i, u_i>, v_{i+1} = v_i − (D_i/‖u_i‖²) u_i, with u_i = w_i, or w_i + e_i(y) when conditional: the cascade of
    the projection discriminator. The arithmetic is in `cascade.py`.

    Args:
        in_features: F, at least `stages`.
        stages: N. The method's sources do not fix it; 3 is this project's default.
        num_classes: classes of the labels, or None for an unconditional head.
        rejection: `sequential` removes the component along u_i, `orthogonal` the projection on the span of
            u_1 … u_i, `none` nothing: N independent linear heads, the control with the same parameters and cost.
        spectral_norm: divide every w_i by its norm (the spectral norm of one row) and every table e_i by its largest
            singular value, which keeps each stage 1-Lipschitz in v when unconditional.
    """

    labels = "optional"

    def __init__(
        self,
        in_features: int,
        stages: int = 3,
        num_classes: int | None = None,
        rejection: Rejection = "sequential",
        spectral_norm: bool = True,
    ) -> None:
        super().__init__()
        if not 1 <= stages <= in_features:
            raise ValueError(f"stages: {stages} found, 1 to {in_features} (the number of features) accepted")
        if rejection not in ("sequential", "orthogonal", "none"):
            raise ValueError(f"rejection: {rejection!r} found, 'sequential', 'orthogonal' or 'none' accepted")
        self.stages = stages
        self.conditional = num_classes is not None
        self.rejection: Rejection = rejection
        self.spectral_norm_weights = spectral_norm
        self.weight = nn.Parameter(torch.empty(stages, in_features))
        for row in self.weight.data:  # each stage starts as a linear head would
            nn.init.xavier_uniform_(row.unsqueeze(0))
        self.embeddings = nn.ModuleList()
        if num_classes is not None:
            self.embeddings.extend(
                Embedding(num_classes, in_features, spectral_norm=spectral_norm) for _ in range(stages)
            )

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Scores `(B, N)`, in the dtype of the weights."""
        return cascade_scores(features, self.effective_weight(labels), self.rejection)

    def residuals(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """The vectors v_1 … v_N that the stages score, `(B, N, F)`."""
        return cascade_residuals(features, self.effective_weight(labels), self.rejection)[:, :-1]

    def effective_weight(self, labels: Tensor | None = None) -> Tensor:
        """The vectors u_i in force: `(N, F)`, or `(B, N, F)` when conditional."""
        weight = F.normalize(self.weight, dim=1) if self.spectral_norm_weights else self.weight
        if not self.conditional:
            return weight
        return weight + torch.stack([embedding(labels) for embedding in self.embeddings], dim=1)


HEADS: dict[str, type[Head]] = {
    "linear": LinearHead,
    "projection": ProjectionHead,
    "cascading_rejection": CascadingRejection,
}
