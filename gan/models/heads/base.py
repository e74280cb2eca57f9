"""What all cascades share."""

from typing import Literal, get_args

import torch
from torch import Tensor

from gan.models.blocks.precision import without_autocast
from gan.models.heads.cascade import Rejection, cascade_residuals, cascade_scores, inner_products
from gan.models.heads.decorrelation import (
    Moments,
    MovingMoments,
    batch_moments,
    decorrelated_residuals,
    decorrelated_scores,
)
from gan.models.heads.interface import Head
from gan.models.heads.stages import Curves, Energy, Networks, Stage

AnyRejection = Literal[Rejection, "decorrelated"]


class Cascade(Head):
    """Stage i scores what the earlier ones have left of v, along a vector u_i or by what it makes of it.

    A cascade says what its u_i are, `effective_weight`; the rest follows. What is rejected is the coordinate
    t_i = <v_i, u_i>, by (1) and (2) of `cascade.py` or those of `decorrelation.py`, whose moments are those of a moving
    average in `forward`, and the batch's own in `batch_scores` where the cascade `reads_batch`. What is scored is t_i,
    or for the later stages what `stages.py` makes of t_i or v_i; with `energy` the last stage has no u_i and scores the
    norm of what is left.

    Args:
        in_features: F.
        stages: N; there are M = N vectors u_i, or N − 1 with `energy`.
        rejection: what each stage removes before the next one looks.
        stage: what the stages after the first are.
        energy: whether the last stage scores the norm of what the others leave.
        spectral_norm: of the networks of `mlp` stages.
    """

    labels: Literal["optional", "required"] = "optional"
    rejections: tuple[str, ...] = (*get_args(Rejection), "decorrelated")  # that it accepts
    kinds: tuple[str, ...] = get_args(Stage)  # of stages that it accepts

    def __init__(
        self,
        in_features: int,
        stages: int,
        rejection: AnyRejection,
        stage: Stage = "linear",
        *,
        energy: bool = False,
        spectral_norm: bool = True,
    ) -> None:
        super().__init__()
        least = 2 if energy else 1
        if not least <= stages <= in_features:
            raise ValueError(f"stages: {stages} found, {least} to {in_features} (the number of features) accepted")
        for key, found, accepted in (("rejection", rejection, self.rejections), ("stage", stage, self.kinds)):
            if found not in accepted:
                raise ValueError(f"{key}: {found!r} found; accepted: {', '.join(accepted)}")
        vectors = stages - energy
        self.in_features = in_features
        self.stages = stages
        self.rejection: AnyRejection = rejection
        self.stage: Stage = stage
        self.moments = MovingMoments(vectors, in_features) if rejection == "decorrelated" else None
        self.reads_batch = rejection == "decorrelated"
        self.curves = Curves(vectors - 1, stage) if stage in ("magnitude", "square") and vectors > 1 else None
        self.networks = (
            Networks(vectors - 1, in_features, spectral_norm=spectral_norm) if stage == "mlp" and vectors > 1 else None
        )
        self.energy = Energy() if energy else None

    def effective_weight(self, labels: Tensor | None = None) -> Tensor:
        """The vectors u_i in force: `(M, F)`, or `(B, M, F)` when conditional."""
        raise NotImplementedError

    def forward(self, features: Tensor, labels: Tensor | None = None, of_batch: bool = False) -> Tensor:
        """Scores `(B, N)`, in the dtype of the weights; `of_batch` says whose moments a decorrelated cascade reads."""
        scores = self.coordinates(features, labels, of_batch)
        if self.curves is not None:
            scores = self.curves(scores)
        if self.networks is None and self.energy is None:
            return scores
        vectors = self.all_residuals(features, labels, of_batch)
        with without_autocast(features):
            if self.networks is not None:
                scores = self.networks(scores, vectors[:, :-1])
            return scores if self.energy is None else torch.cat([scores, self.energy(vectors[:, -1])], dim=1)

    def batch_scores(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Scores `(B, N)` by the batch's own moments: the t_i of a decorrelated cascade are uncorrelated in it."""
        scores: Tensor = self(features, labels, True) if self.reads_batch else self(features, labels)
        return scores

    def coordinates(self, features: Tensor, labels: Tensor | None = None, of_batch: bool = False) -> Tensor:
        """The t_i, `(B, M)`."""
        weights = self.effective_weight(labels)
        if self.rejection != "decorrelated":
            return cascade_scores(features, weights, self.rejection)
        raw_scores, moments = self._raw_scores(features, weights, of_batch)
        with without_autocast(features):
            return decorrelated_scores(raw_scores, moments)

    def residuals(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """The vectors v_1 … v_M that the stages see, `(B, M, F)`."""
        return self.all_residuals(features, labels)[:, :-1]

    def all_residuals(self, features: Tensor, labels: Tensor | None = None, of_batch: bool = False) -> Tensor:
        """v_1 … v_{M+1}, `(B, M + 1, F)`: what the stages see, and what none of the vectors has."""
        weights = self.effective_weight(labels)
        if self.rejection != "decorrelated":
            return cascade_residuals(features, weights, self.rejection)
        raw_scores, moments = self._raw_scores(features, weights, of_batch)
        with without_autocast(features):
            return decorrelated_residuals(features.to(weights.dtype), raw_scores, moments)

    @torch.no_grad()
    def batch_statistics(self, features: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """The batch's moments, of a decorrelated cascade."""
        if self.moments is None:
            return {}
        _, moments = self._raw_scores(features, self.effective_weight(labels), True)
        return {f"head/{name}": value for name, value in moments._asdict().items()}

    def follow(self, means: dict[str, Tensor]) -> None:
        """Take the moments out of `means` and into the moving average."""
        if self.moments is not None:
            self.moments.follow({name: means.pop(f"head/{name}") for name in Moments._fields})

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, stages={self.stages}, rejection={self.rejection}, stage={self.stage}"

    def _raw_scores(self, features: Tensor, weights: Tensor, of_batch: bool) -> tuple[Tensor, Moments]:
        """<v, u_i> `(B, M)`, and the moments to reject by."""
        assert self.moments is not None
        with without_autocast(features):
            features = features.to(weights.dtype)
            raw_scores = inner_products(features, weights)
            return raw_scores, batch_moments(raw_scores, features) if of_batch else self.moments()
