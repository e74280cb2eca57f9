"""The distances and scores themselves: pure functions of tensors, computed in float64.

They know nothing of images, extractors or files, and draw from private generators only.
"""

import numpy as np
import torch
from torch import Tensor


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
    dimensions = mean_1.numel()
    if mean_1.shape != mean_2.shape or not covariance_1.shape == covariance_2.shape == (dimensions, dimensions):
        shapes = [tuple(tensor.shape) for tensor in (mean_1, covariance_1, mean_2, covariance_2)]
        raise ValueError(f"Gaussians of different dimensions: {shapes}")
    mean_1, covariance_1, mean_2, covariance_2 = (t.double() for t in (mean_1, covariance_1, mean_2, covariance_2))
    root = _square_root(covariance_1)
    # Σ₁Σ₂ = RRᵀΣ₂ has the eigenvalues of the symmetric RᵀΣ₂R, which eigvalsh finds in real arithmetic.
    symmetric = root.T @ covariance_2 @ root
    # Where Σ₁ or Σ₂ is singular, rounding leaves eigenvalues of about −1e-16 in place of 0.
    eigenvalues = torch.linalg.eigvalsh((symmetric + symmetric.T) / 2).clamp_min(0)
    squared_shift = (mean_1 - mean_2).square().sum()
    return squared_shift + covariance_1.trace() + covariance_2.trace() - 2 * eigenvalues.sqrt().sum()


def _square_root(covariance: Tensor) -> Tensor:
    """R `(D, D)` with RRᵀ = Σ: the Cholesky factor, or where Σ is singular, its symmetric square root."""
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if not failed:
        return factor
    eigenvalues, eigenvectors = torch.linalg.eigh(covariance)
    return (eigenvectors * eigenvalues.clamp_min(0).sqrt()) @ eigenvectors.T


def inception_score(logits: Tensor, splits: int = 10, shuffle_seed: int | None = 2020) -> tuple[Tensor, Tensor]:
    """exp E KL(p(y|x) ‖ p(y)) over `splits` parts of the images (Salimans et al. 2016, section 4).

    The same shuffle and the same parts as torch-fidelity's `isc_features_to_metric`, hence the same numbers.

    Args:
        logits: `(N, classes)`, N ≥ splits.
        shuffle_seed: of the shuffle before the split; None leaves the images in order.

    Returns:
        Mean and population standard deviation over the splits, float64 scalars; the mean is in [1, classes].

    Raises:
        ValueError: fewer images than splits.
    """
    count = logits.shape[0]
    if not 1 <= splits <= count:
        raise ValueError(f"{count} images cannot be cut into {splits} splits")
    if shuffle_seed is not None:
        order = np.random.RandomState(shuffle_seed).permutation(count)
        logits = logits[torch.from_numpy(order).to(logits.device)]
    log_probabilities = logits.double().log_softmax(dim=1)
    scores = []
    for split in range(splits):
        log_conditional = log_probabilities[split * count // splits : (split + 1) * count // splits]
        conditional = log_conditional.exp()
        log_marginal = conditional.mean(dim=0, keepdim=True).log()
        # a class that no image can have is 0 · (−∞ − −∞); its term of the divergence is 0
        divergence = torch.where(conditional > 0, conditional * (log_conditional - log_marginal), 0.0).sum(dim=1)
        scores.append(divergence.mean().exp())
    stacked = torch.stack(scores)
    return stacked.mean(), stacked.std(correction=0)


def kernel_distance(
    features_1: Tensor,
    features_2: Tensor,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
    degree: int = 3,
    gamma: float | None = None,
    constant: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Unbiased squared maximum mean discrepancy with kernel k(x, y) = (γ xᵀy + c)^degree (Bińkowski et al. 2018).

    The subsets are those of torch-fidelity's `kid_features_to_metric`. That function computes in the type of its
    input, so the two agree to rounding for float64 features, and to about 1e-4 relative for float32 ones.

    Args:
        features_1, features_2: `(N₁, D)`, `(N₂, D)`; subset_size rows of each are drawn, without replacement.
        gamma: γ; 1/D when None. constant: c.

    Returns:
        Mean and population standard deviation over the subsets, float64 scalars; the mean may be slightly negative.

    Raises:
        ValueError: the dimensions differ, or a subset is smaller than 2 or larger than a set.
    """
    if features_1.shape[1] != features_2.shape[1]:
        raise ValueError(f"features of {features_1.shape[1]} and {features_2.shape[1]} dimensions")
    if not 2 <= subset_size <= min(len(features_1), len(features_2)):
        raise ValueError(f"subsets of {subset_size} from {len(features_1)} and {len(features_2)} features")
    scale = 1 / features_1.shape[1] if gamma is None else gamma
    generator = np.random.RandomState(seed)
    distances = []
    for _ in range(subsets):
        first, second = (_draw(features, subset_size, generator) for features in (features_1, features_2))
        distances.append(_squared_discrepancy(first, second, degree, scale, constant))
    stacked = torch.stack(distances)
    return stacked.mean(), stacked.std(correction=0)


def _draw(features: Tensor, size: int, generator: np.random.RandomState) -> Tensor:
    rows = generator.choice(len(features), size, replace=False)
    return features[torch.from_numpy(rows).to(features.device)].double()


def _squared_discrepancy(first: Tensor, second: Tensor, degree: int, gamma: float, constant: float) -> Tensor:
    """The U-statistic of Gretton et al. 2012, equation 3, of two `(m, D)` sets: diagonals of k(x, x) are left out."""
    size = first.shape[0]
    within = torch.zeros((), dtype=first.dtype, device=first.device)
    for features in (first, second):
        kernel = torch.mm(features, features.T).mul_(gamma).add_(constant).pow_(degree)
        within += kernel.sum() - kernel.trace()
    between = torch.mm(first, second.T).mul_(gamma).add_(constant).pow_(degree).sum()
    return within / (size * (size - 1)) - 2 * between / size**2
