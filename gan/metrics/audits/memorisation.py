"""Does a generator copy? Distances to the nearest training image, generated images against held-out ones."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import betabinom, binomtest, mannwhitneyu, norm, rankdata
from torch import Tensor

from gan.metrics.audits.data_copying import DataCopying, data_copying
from gan.metrics.audits.neighbours import Neighbours, nearest_neighbours
from gan.metrics.reference import kept_rows

Distances = NDArray[np.float64]  # (n,), of each image to its nearest neighbour

LEVEL = 0.95  # of intervals
ROUNDING = 6  # decimals: a float32 cosine of an image with its own copy is 1 to about 1e-7
SUSPICIOUS = 0.01  # p-value, of the three tests together
REPEATS = 0.1  # share of generated images
NEXT = 4  # further neighbours that a distance is set against
SEED = 2020  # of the images that are compared with each other, as of the metrics' draws


@dataclass(frozen=True)
class Closeness:
    """How often a generated image is closer to its nearest neighbour than a held-out image is to its own.

    probability is P(d_generated < d_held_out) + P(=)/2, with its 95 % interval; 0.5 means no closer, 1 always closer.
    median_ratio is that of the median distances, generated over held-out; p_value is the one-sided one of Mann and
    Whitney for "no closer".
    """

    probability: float
    low: float
    high: float
    median_ratio: float
    p_value: float


@dataclass(frozen=True)
class Duplicates:
    """Generated images that are nearer to a training image than nearly all held-out images are.

    count of `generated` images lie within `threshold`, as do `held_out_count` of the held-out ones; share has a 95 %
    interval. Were the generated images as far as held-out ones, `expected` would be the share, and `p_value` the
    probability of so many or more.
    """

    count: int
    generated: int
    share: float
    low: float
    high: float
    threshold: float
    held_out_count: int
    expected: float
    p_value: float


@dataclass(frozen=True)
class Memorisation:
    """An audit's outcome.

    `duplicates` are by distance. `relative_duplicates` are by that distance over the mean distance to the next four
    training images: a copy of one image stands out among its neighbours, however near or far those are.
    `repeats` counts generated images that are near-duplicates of another generated one, against held-out images among
    as many of themselves. Each image of a pair counts and pairs are not independent: its p-value is not to be used.
    `copying` compares distances within cells.
    """

    closeness: Closeness
    duplicates: Duplicates
    relative_duplicates: Duplicates
    repeats: Duplicates
    copying: DataCopying
    nearest: Neighbours

    @property
    def suspicious(self) -> bool:
        """Whether images are closer to training images than held-out ones are, on the whole or in some of them.

        Of honest generators 1 % or fewer are called so: three tests, with Bonferroni's correction.
        """
        found = (self.closeness, self.duplicates, self.relative_duplicates)
        return min(test.p_value for test in found) * len(found) < SUSPICIOUS

    @property
    def repetitive(self) -> bool:
        """Whether more than one image in ten repeats another, and ten times as many as among real ones."""
        return self.repeats.share > REPEATS and self.repeats.share > 10 * self.repeats.expected


def closeness(generated: Distances, held_out: Distances) -> Closeness:
    """The Mann-Whitney statistic U/(mn) of two sets of distances, `(m,)` and `(n,)`.

    Its interval is the score interval of Newcombe (2006, Statistics in Medicine 25, method 5): all a with
    |a − U/(mn)| ≤ z √V(a), V(a) = a(1 − a)(1 + (N − 1)((1 − a)/(2 − a) + a/(1 + a)))/(mn), N = (m + n)/2. At a = ½ it
    is the test of Mann and Whitney; it does not degenerate at 0 or 1.
    """
    generated, held_out = generated.round(ROUNDING), held_out.round(ROUNDING)
    m, n = len(generated), len(held_out)
    ranks = rankdata(np.concatenate([generated, held_out]))
    probability = 1 - float(ranks[:m].sum() - m * (m + 1) / 2) / (m * n)
    z = float(norm.ppf((1 + LEVEL) / 2))

    def excess(a: float) -> float:
        pairs = (m + n) / 2 - 1
        variance = a * (1 - a) * (1 + pairs * ((1 - a) / (2 - a) + a / (1 + a))) / (m * n)
        return float((a - probability) ** 2 - z**2 * variance)

    tiny = 1e-12
    # Where the excess has no sign to change at an end, as for one pair of 10,000 squared, the bound lies beyond it.
    low = brentq(excess, tiny, min(probability, 1 - tiny)) if probability > 2 * tiny and excess(tiny) > 0 else 0.0
    high = (
        brentq(excess, max(probability, tiny), 1 - tiny) if probability < 1 - 2 * tiny and excess(1 - tiny) > 0 else 1.0
    )
    medians = np.median(generated), np.median(held_out)
    p_value = mannwhitneyu(generated, held_out, alternative="less").pvalue
    return Closeness(probability, low, high, float(medians[0] / max(medians[1], 10.0**-ROUNDING)), float(p_value))


def duplicates(generated: Distances, held_out: Distances, quantile: float = 0.001) -> Duplicates:
    """Count generated images within a distance that only the share `quantile` of held-out images is within.

    The threshold is the r-th smallest of the n held-out distances, r = max(1, ⌊quantile·(n + 1)⌋). For exchangeable
    images the count is beta-binomial(m, r, n + 1 − r), exactly, whatever the distribution of distances is: the p-value
    takes into account that the threshold is itself estimated.
    """
    generated, held_out = generated.round(ROUNDING), held_out.round(ROUNDING)
    m, n = len(generated), len(held_out)
    rank = max(1, int(quantile * (n + 1)))
    threshold = float(np.sort(held_out)[rank - 1])
    within = int((held_out <= threshold).sum())  # more than `rank` only when distances are equal
    count = int((generated <= threshold).sum())
    interval = binomtest(count, m).proportion_ci(method="wilson")
    return Duplicates(
        count=count,
        generated=m,
        share=count / m,
        low=float(interval.low),
        high=float(interval.high),
        threshold=threshold,
        held_out_count=within,
        expected=within / (n + 1),
        p_value=float(betabinom.sf(count - 1, m, within, n + 1 - within)),
    )


def examine(
    generated: Tensor,
    held_out: Tensor,
    training: Tensor,
    *,
    neighbours: int = 1,
    quantile: float = 0.001,
    device: torch.device | str = "cpu",
) -> Memorisation:
    """The audit, on whitened features `(m, D)`, `(n, D)` and `(N, D)`.

    Args:
        neighbours: how many training images to return for each generated one; the statistics use five.
        quantile: see `duplicates`.
        device: where the products are computed.

    Raises:
        UserError: fewer than 2 generated or held-out images, or too few training images.
    """
    found = nearest_neighbours(generated, training, max(neighbours, 1 + NEXT), device=device)
    held = nearest_neighbours(held_out, training, 1 + NEXT, device=device)
    count = min(len(generated), len(held_out))
    # As many of both, drawn: the first ones of a folder would be its first classes.
    equally = [features[torch.from_numpy(kept_rows(len(features), count, SEED))] for features in (generated, held_out)]
    among = [nearest_neighbours(features, features, 1, exclude_self=True, device=device) for features in equally]
    one, other = _nearest(found), _nearest(held)
    repeated = duplicates(_nearest(among[0]), _nearest(among[1]), quantile)
    return Memorisation(
        closeness(one, other),
        duplicates(one, other, quantile),
        duplicates(relative_distances(found), relative_distances(held), quantile),
        repeated,
        data_copying(found, held, training),
        Neighbours(found.distances[:, :neighbours], found.indices[:, :neighbours]),
    )


def relative_distances(found: Neighbours) -> Distances:
    """The nearest distance over the mean of the next four, `(Q,)`, at most 1: 0 for a copy of one training image."""
    distances = found.distances.double().numpy()
    return np.asarray(distances[:, 0] / np.maximum(distances[:, 1 : 1 + NEXT].mean(axis=1), 10.0**-ROUNDING))


def _nearest(found: Neighbours) -> Distances:
    return found.distances[:, 0].double().numpy()
