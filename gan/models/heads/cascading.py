"""The cascade as a head, its control without rejection, and its form with a last stage for what is left."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gan.models.blocks.layers import Embedding
from gan.models.heads.base import AnyRejection, Cascade
from gan.models.heads.cascade import cascade_residuals, cascade_scores_along
from gan.models.heads.stages import Stage


class CascadingRejection(Cascade):
    """N scores, each of what the stages before it could not see (Shin, Yeo, Ko, arXiv:1911.10979).

    t_i = <v_i, u_i>, v_{i+1} = v_i − (t_i/‖u_i‖²) u_i, with u_i = w_i, or w_i + e_i(y) when conditional: the cascade of
    the projection discriminator. D_i = t_i, as the method has it, unless `stage` or `energy` say otherwise.

    Args:
        in_features: F, at least `stages`.
        stages: N. The method's sources do not fix it; 3 is this project's default.
        num_classes: classes of the labels, or None for an unconditional head.
        rejection: `sequential` removes the component along u_i, `orthogonal` the projection on the span of
            u_1 … u_i, `decorrelated` what t_i tells of v_i over the batch (`decorrelation.py`), `none` nothing: N
            independent heads, the control with the same parameters and cost.
        spectral_norm: divide every w_i by its norm (the spectral norm of one row) and every table e_i by its largest
            singular value, which keeps each stage but a square 1-Lipschitz in v when unconditional, unless
            decorrelated.
        rejection_direction: when conditional, what is rejected: `score` the vector u_i(y) that was scored along, so
            that the next stage is blind to nothing but it; `weight` only w_i, so that the classes share one residual.
        embeddings: `per_stage` gives every stage its own e_i; `shared` one e for all, a parameter budget nearer the
            projection head's, at the price of later stages that differ between classes only in what w_i leaves of it.
        bias: add b_i to each score after the cascade. Off by default: a bias moves the loss's margin, not what a stage
            can see.
        stage: what the stages after the first score: `linear` t_i, `magnitude` s_i |t_i| + b_i, `square`
            s_i t_i² + b_i, |s_i| ≤ 1, `mlp` a small network on v_i whose linear part is rejected (`stages.py`).
        energy: whether the last stage scores s ‖v_N‖ + √F b, the norm of what the others leave.
        moments: by whose moments a decorrelated cascade rejects in D's step: `batch`, those of all that is scored
            together, through which gradients go; `average`, those of the moving average, as everywhere else, by which
            no sample's score depends on the others.
    """

    def __init__(
        self,
        in_features: int,
        stages: int = 3,
        num_classes: int | None = None,
        rejection: AnyRejection = "sequential",
        spectral_norm: bool = True,
        rejection_direction: Literal["score", "weight"] = "score",
        embeddings: Literal["per_stage", "shared"] = "per_stage",
        bias: bool = False,
        stage: Stage = "linear",
        energy: bool = False,
        moments: Literal["batch", "average"] = "batch",
    ) -> None:
        super().__init__(in_features, stages, rejection, stage, energy=energy, spectral_norm=spectral_norm)
        if rejection == "decorrelated" and rejection_direction == "weight":
            raise ValueError("rejection_direction: 'weight' found with rejection 'decorrelated'; 'score' accepted")
        vectors = stages - energy
        if stage != "linear" and vectors < 2:
            raise ValueError(f"stage: {stage!r} found with no stage after the first but the energy; 'linear' accepted")
        if rejection != "decorrelated" and moments == "average":
            raise ValueError(f"moments: 'average' found with rejection {rejection!r}; 'batch' accepted")
        self.reads_batch = self.reads_batch and moments == "batch"
        self.num_classes = num_classes
        self.rejects_weight_alone = num_classes is not None and rejection_direction == "weight"
        self.spectral_norm_weights = spectral_norm
        self.weight = nn.Parameter(torch.empty(1 if self.networks is not None else vectors, in_features))
        for row in self.weight.data:  # each stage starts as a linear head would
            nn.init.xavier_uniform_(row.unsqueeze(0))
        self.embeddings = nn.ModuleList()
        if num_classes is not None:
            tables = vectors if embeddings == "per_stage" else 1
            self.embeddings.extend(
                Embedding(num_classes, in_features, spectral_norm=spectral_norm) for _ in range(tables)
            )
        self.bias = nn.Parameter(torch.zeros(stages)) if bias else None

    def forward(self, features: Tensor, labels: Tensor | None = None, of_batch: bool = False) -> Tensor:
        """Scores `(B, N)`, in the dtype of the weights."""
        scores = super().forward(features, labels, of_batch)
        return scores if self.bias is None else scores + self.bias

    def coordinates(self, features: Tensor, labels: Tensor | None = None, of_batch: bool = False) -> Tensor:
        """<v_i, u_i>, `(B, M)`."""
        if self.rejects_weight_alone and self.rejection != "decorrelated":
            along = self._unconditional_weight()
            return cascade_scores_along(features, self.effective_weight(labels), along, self.rejection)
        return super().coordinates(features, labels, of_batch)

    def all_residuals(self, features: Tensor, labels: Tensor | None = None, of_batch: bool = False) -> Tensor:
        """v_1 … v_{M+1}, `(B, M + 1, F)`: what the stages see, and what none of the vectors has."""
        if self.rejects_weight_alone and self.rejection != "decorrelated":
            return cascade_residuals(features, self._unconditional_weight(), self.rejection)
        return super().all_residuals(features, labels, of_batch)

    def effective_weight(self, labels: Tensor | None = None) -> Tensor:
        """The vectors u_i in force: `(M, F)`, or `(B, M, F)` when conditional."""
        weight = self._unconditional_weight()
        if self.num_classes is None:
            return weight
        return weight + torch.stack([embedding(labels) for embedding in self.embeddings], dim=1)

    def _unconditional_weight(self) -> Tensor:
        weight = F.normalize(self.weight, dim=1) if self.spectral_norm_weights else self.weight
        return weight if self.networks is None else torch.cat([weight, self.networks.weight()])


class IndependentHeads(CascadingRejection):
    """N inner products of the same v: the cascade without its rejection, with the same parameters and cost.

    Args:
        in_features, stages, num_classes, spectral_norm: as of `CascadingRejection`.
    """

    def __init__(
        self, in_features: int, stages: int = 3, num_classes: int | None = None, spectral_norm: bool = True
    ) -> None:
        super().__init__(in_features, stages, num_classes, rejection="none", spectral_norm=spectral_norm)


class EnergyCascade(CascadingRejection):
    """A cascade whose last stage scores how much is left, D_N = s ‖v_N‖ + √F b, and not along yet another vector.

    All linear stages together see the N − 1 components along their weights; the norm of the rest sees everything they
    are blind to, and is not linear: it has a difference to find where all means agree. With labels the u_i(y) differ
    between classes and so does what they leave, v_N(y); s and b are shared by all. It is `CascadingRejection` with
    `energy`, by its own name.

    Args:
        in_features: F, at least `stages`.
        stages: N, at least 2: N − 1 stages of a cascade, then the energy.
        num_classes: classes of the labels, or None for an unconditional head.
        rejection: as of `CascadingRejection`; with `none` the last stage scores s ‖v‖ + √F b, the control that has the
            norm without the rejection.
        spectral_norm: as of `CascadingRejection`; the last stage has |s| ≤ 1 whatever is chosen.
        stage: what the stages between the first and the last are, as of `CascadingRejection`.
    """

    def __init__(
        self,
        in_features: int,
        stages: int = 3,
        num_classes: int | None = None,
        rejection: AnyRejection = "sequential",
        *,
        spectral_norm: bool = True,
        stage: Stage = "linear",
    ) -> None:
        super().__init__(in_features, stages, num_classes, rejection, spectral_norm, stage=stage, energy=True)
