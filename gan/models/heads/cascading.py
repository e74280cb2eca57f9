"""The cascade as a head, its control without rejection, and its form with a last stage for what is left."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gan.models.blocks.layers import Embedding
from gan.models.blocks.precision import without_autocast
from gan.models.heads.cascade import Rejection, cascade_residuals, cascade_scores, cascade_scores_along
from gan.models.heads.interface import Head


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
        rejection_direction: when conditional, what is rejected: `score` the vector u_i(y) that was scored along, so
            that the next stage is blind to nothing but it; `weight` only w_i, so that the classes share one residual.
        embeddings: `per_stage` gives every stage its own e_i; `shared` one e for all, a parameter budget nearer the
            projection head's, at the price of later stages that differ between classes only in what w_i leaves of it.
        bias: add b_i to each score after the cascade. Off by default: a bias moves the loss's margin, not what a stage
            can see.
    """

    labels = "optional"

    def __init__(
        self,
        in_features: int,
        stages: int = 3,
        num_classes: int | None = None,
        rejection: Rejection = "sequential",
        spectral_norm: bool = True,
        rejection_direction: Literal["score", "weight"] = "score",
        embeddings: Literal["per_stage", "shared"] = "per_stage",
        bias: bool = False,
    ) -> None:
        super().__init__()
        if not 1 <= stages <= in_features:
            raise ValueError(f"stages: {stages} found, 1 to {in_features} (the number of features) accepted")
        if rejection not in ("sequential", "orthogonal", "none"):
            raise ValueError(f"rejection: {rejection!r} found, 'sequential', 'orthogonal' or 'none' accepted")
        self.stages = stages
        self.num_classes = num_classes
        self.rejection: Rejection = rejection
        self.rejects_weight_alone = num_classes is not None and rejection_direction == "weight"
        self.spectral_norm_weights = spectral_norm
        self.weight = nn.Parameter(torch.empty(stages, in_features))
        for row in self.weight.data:  # each stage starts as a linear head would
            nn.init.xavier_uniform_(row.unsqueeze(0))
        self.embeddings = nn.ModuleList()
        if num_classes is not None:
            tables = stages if embeddings == "per_stage" else 1
            self.embeddings.extend(
                Embedding(num_classes, in_features, spectral_norm=spectral_norm) for _ in range(tables)
            )
        self.bias = nn.Parameter(torch.zeros(stages)) if bias else None

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Scores `(B, N)`, in the dtype of the weights."""
        if self.rejects_weight_alone:
            along = self._unconditional_weight()
            scores = cascade_scores_along(features, self.effective_weight(labels), along, self.rejection)
        else:
            scores = cascade_scores(features, self.effective_weight(labels), self.rejection)
        return scores if self.bias is None else scores + self.bias

    def residuals(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """The vectors v_1 … v_N that the stages score, `(B, N, F)`."""
        return self.all_residuals(features, labels)[:, :-1]

    def all_residuals(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """v_1 … v_{N+1}, `(B, N + 1, F)`: what the stages score, and what none of them has seen."""
        along = self._unconditional_weight() if self.rejects_weight_alone else self.effective_weight(labels)
        return cascade_residuals(features, along, self.rejection)

    def effective_weight(self, labels: Tensor | None = None) -> Tensor:
        """The vectors u_i in force: `(N, F)`, or `(B, N, F)` when conditional."""
        weight = self._unconditional_weight()
        if self.num_classes is None:
            return weight
        return weight + torch.stack([embedding(labels) for embedding in self.embeddings], dim=1)

    def _unconditional_weight(self) -> Tensor:
        return F.normalize(self.weight, dim=1) if self.spectral_norm_weights else self.weight


class IndependentHeads(CascadingRejection):
    """N inner products of the same v: the cascade without its rejection, with the same parameters and cost.

    Args:
        in_features, stages, num_classes, spectral_norm: as of `CascadingRejection`.
    """

    def __init__(
        self, in_features: int, stages: int = 3, num_classes: int | None = None, spectral_norm: bool = True
    ) -> None:
        super().__init__(in_features, stages, num_classes, rejection="none", spectral_norm=spectral_norm)


class EnergyCascade(Head):
    """A cascade whose last stage scores how much is left, D_N = s ‖v_N‖ + √F b, and not along yet another direction.

    All linear stages together see the N − 1 components along their weights; the norm of the rest sees everything they
    are blind to, and is not linear: it has a difference to find where all means agree.

    Args:
        in_features: F, more than `stages`.
        stages: N, at least 2: N − 1 stages of a cascade, then the energy.
        rejection: of the cascade, as of `CascadingRejection`; with `none` the last stage scores s ‖v‖ + √F b, the
            control that has the norm without the rejection.
        spectral_norm: of the cascade, as of `CascadingRejection`; the last stage has |s| ≤ 1, so that it is 1-Lipschitz
            in v whatever is chosen.
    """

    def __init__(
        self, in_features: int, stages: int = 3, rejection: Rejection = "sequential", *, spectral_norm: bool = True
    ) -> None:
        super().__init__()
        if not 2 <= stages <= in_features:
            raise ValueError(f"stages: {stages} found, 2 to {in_features} (the number of features) accepted")
        self.stages = stages
        self.cascade = CascadingRejection(in_features, stages - 1, rejection=rejection, spectral_norm=spectral_norm)
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.bias = nn.Parameter(torch.zeros(()))  # in units of √F, the order of ‖v‖: the rate of learning fits both

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Scores `(B, N)`, in the dtype of the weights."""
        scores = self.cascade(features)
        with without_autocast(features):
            left = self.all_residuals(features)[:, -1]
            # a norm whose gradient at 0 is 0, not NaN
            norm = (left.square().sum(1, keepdim=True) + torch.finfo(left.dtype).tiny).sqrt()
            energy = self.scale / self.scale.abs().clamp_min(1) * norm + features.shape[1] ** 0.5 * self.bias
            return torch.cat([scores, energy], dim=1)

    def all_residuals(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """v_1 … v_N, `(B, N, F)`: what the linear stages score, and what the last one does."""
        return self.cascade.all_residuals(features)
