"""Rejection in the metric of the data: what is removed is all that a stage's score tells of the features, linearly.

Each v_{i+1} is the residual of v_i after its regression on the score D_i, the deflation of partial least squares
(NIPALS; Wold 1975):

    v_{i+1} = v_i − p_i (D_i − E D_i),    p_i = Cov(v_i, D_i) / Var(D_i) = Σ_i w_i / (w_iᵀ Σ_i w_i)                  (1)

with Σ_i the covariance of v_i. So v_{i+1} is uncorrelated with D_1 … D_i, and the scores are what Gram–Schmidt makes of
the centred raw scores S_i = <v, w_i> in the metric of their covariance:

    (I + L)(D − E D) = S − E S,    E D = E S,    Cov(S) = (I + L) diag(Var D) (I + L)ᵀ                               (2)

It is the orthogonal cascade with Cov(S) = W Σ Wᵀ in place of W Wᵀ, and equals it where Σ is a multiple of I and
E v = 0. Σ, which is F × F, is never formed: (2) takes N × N numbers, and p_i, by (I + L) Cov(D, v) = Cov(S, v), another
N × F. Where each sample has weights of its own, S_i = <v, u_i(y)>, (2) holds as it stands.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gan.models.heads.cascade import clamped, unit_factor


class Moments(NamedTuple):
    """Of raw scores S and features v: E S `(N,)`, Cov(S) `(N, N)`, E v `(F,)`, Cov(S, v) `(N, F)`."""

    score_mean: Tensor
    score_covariance: Tensor
    feature_mean: Tensor
    products: Tensor


def batch_moments(raw_scores: Tensor, features: Tensor) -> Moments:
    """The moments of a batch: `(B, N)`, `(B, F)`."""
    score_mean, feature_mean = raw_scores.mean(0), features.mean(0)
    centred = (raw_scores - score_mean).T / len(features)
    return Moments(score_mean, centred @ (raw_scores - score_mean), feature_mean, centred @ (features - feature_mean))


def decorrelated_scores(raw_scores: Tensor, moments: Moments) -> Tensor:
    """Scores D of equation (2), `(B, N)`; over the batch that `moments` are of, they are uncorrelated."""
    triangle, _ = unit_factor(moments.score_covariance)
    return moments.score_mean + _solved(triangle, (raw_scores - moments.score_mean).T).T


def decorrelated_residuals(features: Tensor, raw_scores: Tensor, moments: Moments) -> Tensor:
    """v_1 … v_{N+1} of equation (1), `(B, N + 1, F)`."""
    triangle, variances = unit_factor(moments.score_covariance)
    directions = _solved(triangle, moments.products) / clamped(variances).unsqueeze(1)  # (N, F): p_i
    centred = _solved(triangle, (raw_scores - moments.score_mean).T).T  # (B, N): D − E D
    removed = (centred.unsqueeze(-1) * directions).cumsum(dim=1)  # (B, N, F)
    return features.unsqueeze(1) - torch.nn.functional.pad(removed, (0, 0, 1, 0))


def without_earlier(raw_scores: Tensor) -> Tensor:
    """D of equation (2) for the batch `(B, N)` itself, each column a function of its own raw scores alone.

    The values are those of `decorrelated_scores`; the earlier columns that a column is regressed on are held fixed.
    """
    centred = raw_scores - raw_scores.mean(0)
    with torch.no_grad():
        moments = batch_moments(raw_scores, raw_scores)
        earlier = decorrelated_scores(centred, moments._replace(score_mean=torch.zeros_like(moments.score_mean)))
        scaled = earlier / clamped(earlier.square().sum(0))
    return raw_scores - earlier @ (centred.T @ scaled).tril(-1).T


def _solved(triangle: Tensor, columns: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(triangle, columns, upper=False, unitriangular=True)


class MovingMoments(nn.Module):
    """An exponential average of the moments of past batches, for passes that may not depend on their own batch.

    Before the first batch it is that of uncorrelated raw scores, of which nothing is rejected.

    Args:
        stages: N.
        in_features: F.
        rate: the weight of a new batch; of the n-th at least 1/n, so that the first ones are averaged evenly.
    """

    score_mean: Tensor
    score_covariance: Tensor
    feature_mean: Tensor
    products: Tensor
    batches: Tensor

    def __init__(self, stages: int, in_features: int, rate: float = 0.1) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("score_mean", torch.zeros(stages))
        self.register_buffer("score_covariance", torch.eye(stages))
        self.register_buffer("feature_mean", torch.zeros(in_features))
        self.register_buffer("products", torch.zeros(stages, in_features))
        self.register_buffer("batches", torch.tensor(0))

    def forward(self) -> Moments:
        """The average as it is."""
        return Moments(self.score_mean, self.score_covariance, self.feature_mean, self.products)

    @torch.no_grad()
    def follow(self, moments: Mapping[str, Tensor]) -> None:
        """Take one batch's moments, by the names of `Moments`, into the average."""
        self.batches += 1
        weight = (1 / self.batches).clamp_min(self.rate)
        for name in Moments._fields:
            average = self.get_buffer(name)
            average.lerp_(moments[name].to(average.dtype), weight.to(average.dtype))
