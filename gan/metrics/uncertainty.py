"""How far a score would move with other generated images of the same generator, and its limit for infinitely many.

A score T of N images moves by about (1/N) Σ (w_i − 1) ψ_i when image i is counted w_i times; ψ is its influence
function (Efron 1982, chapter 6). Bootstrap weights then cost a sum instead of a new score, and the interval lies
around the score itself: a Fréchet distance recomputed from resampled images is biased upward once more, so that its
plain percentile interval misses (docs/evaluation.md has the simulations).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gan.metrics.accumulators import GaussianStatistics, SplitProbabilities, conditional_probabilities
from gan.metrics.formulas import FrechetTarget
from gan.metrics.reference import kept_rows
from gan.progress import passing

LEVEL = 0.95
ROWS = 4096  # of a block
KERNEL_ROWS = 10_000  # images that a kernel's expectation is taken over, at the most
INFINITY_POINTS = 15  # sample counts from N/10 to N, as in the paper for N = 50,000


def bootstrap_interval(
    value: float, influence: Tensor, replicates: int, seed: int, noise: float = 0.0
) -> tuple[float, float]:
    """95 % percentile interval of a score over `replicates` resamplings of its generated images.

    Args:
        influence: ψ `(N,)`, of mean 0.
        noise: standard deviation of what else is random in the score, such as the subsets of a kernel distance.
    """
    random = np.random.Generator(np.random.PCG64(seed))
    values = influence.cpu().numpy()
    moved = [values[random.integers(len(values), size=len(values))].mean() for _ in range(replicates)]
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(np.array(moved) + noise * random.standard_normal(replicates), [tail, 1 - tail])
    return value + float(low), value + float(high)


def frechet_influence(target: FrechetTarget, features: Tensor) -> Tensor:
    """ψ `(N,)` of the Fréchet distance of features `(N, D)`: 2(μ − μ_r)ᵀc + cᵀ(∂d²/∂Σ)c, less its mean, c = x − μ."""
    mean, covariance = _gaussian(features, target.mean.device)
    gradient = target.gradient(covariance)
    influence = []
    for block in features.split(ROWS):
        centred = block.to(mean.device).double() - mean
        influence.append(2 * centred @ (mean - target.mean) + (centred * (centred @ gradient)).sum(dim=1))
    return _centred(influence)


def inception_influence(logits: Tensor, splits: int, shuffle_seed: int) -> Tensor:
    """ψ `(N,)` of the mean inception score of logits `(N, classes)`."""
    sums = SplitProbabilities(len(logits), splits, shuffle_seed)
    for block in logits.split(ROWS):
        sums.update(block)
    divergences, marginal = sums.divergences()
    weight = divergences.exp() * len(logits) / (sums.sizes * splits)  # of an image of each split
    influence = []
    for block, parts in zip(logits.split(ROWS), sums.split_of.split(ROWS), strict=True):
        conditional, negative_entropy = conditional_probabilities(block)
        cross = torch.xlogy(conditional, marginal[parts]).sum(dim=1)  # Σ_y p log p̄
        influence.append(weight[parts] * (negative_entropy - cross - divergences[parts]))
    return _centred(influence)


def kernel_influence(fake: Tensor, real: Tensor, seed: int) -> Tensor:
    """ψ `(N,)` of the kernel distance: 2 E k(x, X') − 2 E k(x, Y), less its mean, over at most 10,000 X' and Y each.

    They are drawn by `seed`: the first ones of a folder would be its first classes.
    """
    is_column, is_other = (torch.from_numpy(kept_rows(len(rows), KERNEL_ROWS, seed)) for rows in (fake, real))
    is_column = is_column.to(fake.device)
    columns, gamma = fake[is_column].double(), 1 / fake.shape[1]
    others = real[is_other.to(real.device)].double()
    influence = []
    for start in range(0, len(fake), ROWS):
        rows = fake[start : start + ROWS].double()
        within = (rows @ columns.T).mul_(gamma).add_(1).pow_(3)
        own = (rows.square().sum(dim=1) * gamma + 1) ** 3
        among = is_column[start : start + ROWS]  # where an image is left out of its own mean
        means = torch.where(among, (within.sum(dim=1) - own) / (len(columns) - 1), within.mean(dim=1))
        influence.append(2 * means - 2 * (rows @ others.T).mul_(gamma).add_(1).pow_(3).mean(dim=1))
    return _centred(influence)


def frechet_infinity(
    target: FrechetTarget, features: Tensor, seed: int, with_influence: bool = False, progress: bool = False
) -> tuple[float, float, Tensor | None, Tensor | None]:
    """FID∞: the least-squares line of the Fréchet distance over 1/N, at 1/N = 0 (Chong & Forsyth 2020, section 4).

    15 counts from N/10 to N, each with images of its own drawn by `seed`.

    Returns:
        The intercept and the slope, then their influences `(N,)`, or None.
    """
    count = len(features)
    sizes = np.unique(np.linspace(max(2, count // 10), count, INFINITY_POINTS).astype(int))
    if len(sizes) < 2:
        raise ValueError(f"{count} features are too few for a line over sample counts")
    random = np.random.Generator(np.random.PCG64(seed))
    design = np.stack([np.ones(len(sizes)), 1 / sizes], axis=1)
    coefficients = torch.from_numpy(np.linalg.pinv(design))  # (2, points): the line is linear in the distances
    line = torch.zeros(2, dtype=torch.float64)
    influence = torch.zeros(2, count, dtype=torch.float64)
    for point, size in enumerate(passing(sizes, "extrapolation", "counts", progress)):
        drawn = torch.from_numpy(np.sort(random.choice(count, size, replace=False)))
        subset = features[drawn.to(features.device)]
        line += coefficients[:, point] * target.distance(*_gaussian(subset, target.mean.device)).cpu()
        if with_influence:
            moved = frechet_influence(target, subset).cpu() * (count / size)
            influence[:, drawn] += coefficients[:, point, None] * moved
    first, second = (influence[0], influence[1]) if with_influence else (None, None)
    return line[0].item(), line[1].item(), first, second


def _centred(blocks: Sequence[Tensor]) -> Tensor:
    """All blocks `(n,)` after each other, less their mean."""
    values = torch.cat(list(blocks))
    return values - values.mean()


def _gaussian(features: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    statistics = GaussianStatistics(device)
    for block in features.split(ROWS):
        statistics.update(block)
    return statistics.result()
