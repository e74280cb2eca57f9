"""Scores that look at directions of features alone, every one of length 1."""

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 2048  # rows: 32 MB of similarities
BANDWIDTH = 10.0


def clip_discrepancy(fake: Tensor, real: Tensor) -> float:
    """CMMD: 1000 (E k(x, x') + E k(y, y') − 2 E k(x, y)), k(a, b) = exp(−‖a − b‖²/(2·10²)) of unit features.

    Jayasumana et al. 2024 (arXiv:2401.09603), who take CLIP's features. All pairs count, each row with itself too, so
    that it is never negative; 0 for equal sets.

    Args:
        fake, real: features `(N, D)` and `(M, D)`.

    Raises:
        ValueError: the dimensions differ.
    """
    if fake.shape[1] != real.shape[1]:
        raise ValueError(f"features of {fake.shape[1]} and {real.shape[1]} dimensions")
    x, y = unit(fake), unit(real)
    return 1000 * (_mean_kernel(x, x) + _mean_kernel(y, y) - 2 * _mean_kernel(x, y))


def discrepancy_influence(fake: Tensor, real: Tensor) -> Tensor:
    """ψ `(N,)` of CMMD, less its mean: 2000 (E k(x, X') − E k(x, Y))."""
    x, y = unit(fake), unit(real)
    influence = torch.cat(
        [2000 * (_kernel(rows, x).mean(dim=1) - _kernel(rows, y).mean(dim=1)) for rows in x.split(BLOCK)]
    )
    return influence - influence.mean()


def vendi_score(features: Tensor) -> float:
    """exp(−Σ_i λ_i log λ_i), λ the eigenvalues of K/N, K the cosines of features `(N, D)`; between 1 and min(N, D).

    The effective number of different images (Friedman & Dieng 2022, arXiv:2210.02410). The D × D product has the same
    eigenvalues as K but for zeros, and is taken where it is the smaller.
    """
    rows = unit(features)
    product = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
    eigenvalues = torch.linalg.eigvalsh(product / len(rows)).clamp_min(0)
    return float(torch.special.entr(eigenvalues).sum().exp())


def unit(features: Tensor) -> Tensor:
    """Rows of length 1, in float64."""
    return F.normalize(features.double(), dim=1)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return ((x @ y.T - 1) / BANDWIDTH**2).exp()  # ‖a − b‖² = 2 − 2 aᵀb


def _mean_kernel(x: Tensor, y: Tensor) -> float:
    return sum(float(_kernel(rows, y).sum()) for rows in x.split(BLOCK)) / (len(x) * len(y))
