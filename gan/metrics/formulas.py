"""The distances and scores themselves: pure functions of tensors, computed in float64.

They know nothing of images, extractors or files, and draw from private generators only.
"""

import math

import numpy as np
import torch
from torch import Tensor

from gan.metrics.accumulators import SplitProbabilities


def frechet_distance(mean_1: Tensor, covariance_1: Tensor, mean_2: Tensor, covariance_2: Tensor) -> Tensor:
    """Squared 2-Wasserstein distance between two Gaussians (Heusel et al. 2017, equation 6; Dowson & Landau 1982).

    d² = ‖μ₁ − μ₂‖² + tr Σ₁ + tr Σ₂ − 2 tr √(Σ₁Σ₂)

    Args:
        mean_1, mean_2: `(D,)`.
        covariance_1, covariance_2: `(D, D)`, symmetric, positive semi-definite; they may be singular.

    Returns:
        A float64 scalar, ≥ 0 up to rounding.

    Raises:
        ValueError: the shapes do not agree.
    """
    return FrechetTarget(mean_1, covariance_1).distance(mean_2, covariance_2)


class FrechetTarget:
    """One Gaussian, mean `(D,)` and covariance `(D, D)`, that others are measured from; factored once.

    Raises:
        ValueError: the shapes do not agree.
    """

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        self.mean, self.covariance = mean.double(), covariance.double()
        self._check(mean, covariance)
        self.root = _square_root(self.covariance)

    def distance(self, mean: Tensor, covariance: Tensor) -> Tensor:
        """`frechet_distance` to the Gaussian with `mean` `(D,)` and `covariance` `(D, D)`."""
        self._check(mean, covariance)
        mean, covariance = mean.double(), covariance.double()
        # Where Σ₁ or Σ₂ is singular, rounding leaves eigenvalues of about −1e-16 in place of 0.
        eigenvalues = torch.linalg.eigvalsh(self._symmetric(covariance)).clamp_min(0)
        squared_shift = (self.mean - mean).square().sum()
        return squared_shift + self.covariance.trace() + covariance.trace() - 2 * eigenvalues.sqrt().sum()

    def gradient(self, covariance: Tensor) -> Tensor:
        """∂d²/∂Σ = I − R (RᵀΣR)^(−1/2) Rᵀ at Σ `(D, D)`, with the pseudo-inverse where it is singular."""
        eigenvalues, vectors = torch.linalg.eigh(self._symmetric(covariance.double()))
        kept = eigenvalues > eigenvalues[-1] * 1e-10
        inverse_roots = torch.where(kept, eigenvalues.clamp_min(1e-300).rsqrt(), 0.0)
        rotated = self.root @ vectors
        return torch.eye(len(vectors), dtype=torch.float64, device=vectors.device) - (
            (rotated * inverse_roots) @ rotated.T
        )

    def _symmetric(self, covariance: Tensor) -> Tensor:
        """RᵀΣR has the eigenvalues of Σ₁Σ = RRᵀΣ, and real arithmetic finds them."""
        product = self.root.T @ covariance @ self.root
        return (product + product.T) / 2

    def _check(self, mean: Tensor, covariance: Tensor) -> None:
        dimensions = self.mean.numel()
        if mean.shape != (dimensions,) or covariance.shape != (dimensions, dimensions):
            shapes = [tuple(tensor.shape) for tensor in (self.mean, self.covariance, mean, covariance)]
            raise ValueError(f"Gaussians of different dimensions: {shapes}")


def _square_root(covariance: Tensor) -> Tensor:
    """R `(D, D)` with RRᵀ = Σ: the Cholesky factor, or where Σ is singular, its symmetric square root."""
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if not failed:
        return factor
    eigenvalues, eigenvectors = torch.linalg.eigh(covariance)
    return (eigenvectors * eigenvalues.clamp_min(0).sqrt()) @ eigenvectors.T


def inception_score(sums: SplitProbabilities) -> tuple[Tensor, Tensor]:
    """exp E KL(p(y|x) ‖ p(y)) over the parts of the images that were summed up (Salimans et al. 2016, section 4).

    The same shuffle and the same parts as torch-fidelity's `isc_features_to_metric`, hence the same numbers.

    Returns:
        Mean and population standard deviation over the splits, float64 scalars; the mean is in [1, classes].

    Raises:
        ValueError: not all images were seen.
    """
    scores = sums.divergences()[0].exp()
    return scores.mean(), scores.std(correction=0)


def kernel_distance(
    features_1: Tensor, features_2: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> tuple[Tensor, Tensor]:
    """Unbiased squared maximum mean discrepancy with kernel k(x, y) = (xᵀy/D + 1)³ (Bińkowski et al. 2018).

    The subsets are those of torch-fidelity's `kid_features_to_metric`. That function computes in the type of its
    input, so the two agree to rounding for float64 features, and to about 1e-4 relative for float32 ones.

    Args:
        features_1, features_2: `(N₁, D)`, `(N₂, D)`; subset_size rows of each are drawn, without replacement.

    Returns:
        Mean and population standard deviation over the subsets, float64 scalars; the mean may be slightly negative.

    Raises:
        ValueError: the dimensions differ, or a subset is smaller than 2 or larger than a set.
    """
    if features_1.shape[1] != features_2.shape[1]:
        raise ValueError(f"features of {features_1.shape[1]} and {features_2.shape[1]} dimensions")
    if not 2 <= subset_size <= min(len(features_1), len(features_2)):
        raise ValueError(f"subsets of {subset_size} from {len(features_1)} and {len(features_2)} features")
    generator = np.random.RandomState(seed)
    # The room for one subset is used again: allocating it anew each time leaves holes in memory.
    drawn = torch.empty(2, subset_size, features_1.shape[1], dtype=torch.float64, device=features_1.device)
    kernel = drawn.new_empty(subset_size, subset_size)
    distances = []
    for _ in range(subsets):
        for features, subset in zip((features_1, features_2), drawn, strict=True):
            rows = generator.choice(len(features), subset_size, replace=False)
            subset.copy_(features[torch.from_numpy(rows).to(features.device)])
        distances.append(_squared_discrepancy(drawn[0], drawn[1], kernel))
    stacked = torch.stack(distances)
    return stacked.mean(), stacked.std(correction=0)


def _squared_discrepancy(first: Tensor, second: Tensor, kernel: Tensor) -> Tensor:
    """The U-statistic of Gretton et al. 2012, equation 3, of two `(m, D)` sets: diagonals of k(x, x) are left out.

    `kernel` `(m, m)` is overwritten.
    """

    def evaluate(one: Tensor, other: Tensor) -> Tensor:
        return torch.mm(one, other.T, out=kernel).mul_(1 / one.shape[1]).add_(1.0).pow_(3)

    size = first.shape[0]
    within = first.new_zeros(())
    for features in (first, second):
        values = evaluate(features, features)
        within += values.sum() - values.trace()
    return within / (size * (size - 1)) - 2 * evaluate(first, second).sum() / size**2


def divergence_from_uniform(counts: Tensor) -> Tensor:
    """KL(p ‖ uniform) = log n + Σ_i p_i log p_i in nats, p the shares of counts `(n,)`, nothing added to any."""
    shares = counts.double() / counts.sum()
    return math.log(len(counts)) + torch.xlogy(shares, shares).sum()
