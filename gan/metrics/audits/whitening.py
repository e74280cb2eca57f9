"""Whitening of features: f̃ = (f − μ) U Λ^{-1/2}, the first k columns (Su et al., arXiv:2103.15316, equation 6)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gan.errors import UserError
from gan.metrics.accumulators import GaussianStatistics

BLOCK = 4096  # features at a time
NOISE = 1e-7  # of the largest variance: below, a float32 feature holds rounding only


@dataclass(frozen=True)
class Whitening:
    """The map to features of unit covariance, most variable direction first.

    mean `(F,)`, projection `(F, k)` and variances `(rank,)`, the eigenvalues of the covariance in falling order, are
    float64 on the CPU.
    """

    mean: Tensor
    projection: Tensor
    variances: Tensor

    @property
    def components(self) -> int:
        """How many columns are kept, k."""
        return self.projection.shape[1]

    @property
    def variance_share(self) -> float:
        """The share of the features' variance that lies in the columns kept."""
        return float(self.variances[: self.components].sum() / self.variances.sum())

    def transform(self, features: np.ndarray) -> Tensor:
        """Features `(N, F)` → `(N, k)` float32, block by block."""
        whitened = torch.empty(len(features), self.components)
        for start in range(0, len(features), BLOCK):
            block = _float64(features[start : start + BLOCK])
            whitened[start : start + BLOCK] = ((block - self.mean) @ self.projection).float()
        return whitened


def fit_whitening(features: np.ndarray, components: int | None = None, variance: float | None = None) -> Whitening:
    """The whitening of features `(N, F)`, read block by block.

    Args:
        components: keep so many columns, or all that there are if those are fewer; all when None.
        variance: keep as few as hold this share of the variance, in (0, 1]; not together with `components`.

    Raises:
        UserError: fewer than 2 features, all the same, or an argument out of range.
    """
    if components is not None and variance is not None:
        raise UserError("whitening: components and variance found; accepted: one of them")
    if components is not None and components < 1:
        raise UserError(f"whitening: {components} components found; accepted: at least 1")
    if variance is not None and not 0 < variance <= 1:
        raise UserError(f"whitening: variance share {variance} found; accepted: above 0, at most 1")
    if len(features) < 2:
        raise UserError(f"whitening: {len(features)} images found; accepted: at least 2")
    statistics = GaussianStatistics()
    for start in range(0, len(features), BLOCK):
        statistics.update(_float64(features[start : start + BLOCK]))
    mean, covariance = statistics.result()
    eigenvalues, vectors = torch.linalg.eigh(covariance)  # ascending
    eigenvalues, vectors = eigenvalues.flip(0), vectors.flip(1)
    rank = int((eigenvalues > NOISE * eigenvalues[0]).sum()) if eigenvalues[0] > 0 else 0
    rank = min(rank, len(features) - 1)
    if not rank:
        raise UserError("whitening: all features are the same; accepted: images that differ")
    variances = eigenvalues[:rank]
    kept = min(rank, components or rank)
    if variance is not None:
        shares = variances.cumsum(0) / variances.sum()
        kept = min(rank, int((shares < variance - 1e-12).sum()) + 1)
    return Whitening(mean, vectors[:, :kept] * variances[:kept].rsqrt(), variances)


def _float64(features: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(features, dtype=np.float64))
