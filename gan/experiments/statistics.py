"""Means with intervals, and differences between runs that share a seed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Estimate:
    """A mean of `count` values, their sample standard deviation, and a confidence interval of the mean.

    The interval is Student's t; with fewer than two values it is unbounded and the deviation is not a number.
    """

    mean: float
    deviation: float
    low: float
    high: float
    count: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Paired:
    """Differences second − first of values that share a seed.

    Args:
        t: their mean with Student's interval.
        bootstrap: the percentile interval of the mean over resampled pairs; too narrow with few pairs.
        effect: mean over standard deviation of the differences (Cohen's d_z).
        t_p: two-sided p-value of the paired t-test; 1 where there is nothing to test.
        sign_p: two-sided p-value of the sign test; ties are left out.
        pairs_needed: pairs with which a difference of a given size would be found with power 0.8; see `pairs_needed`.
    """

    t: Estimate
    bootstrap: tuple[float, float]
    effect: float
    t_p: float
    sign_p: float
    pairs_needed: int | None


def estimate(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """The mean of `values` with its t interval.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values")
    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(mean, math.nan, -math.inf, math.inf, len(values))
    deviation = float(np.std(values, ddof=1))
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * deviation / math.sqrt(len(values))
    return Estimate(mean, deviation, mean - half, mean + half, len(values))


def paired_difference(first: Sequence[float], second: Sequence[float], confidence: float = 0.95) -> Estimate:
    """The mean of second − first, pair by pair, with its t interval; the pairs share a seed.

    Raises:
        ValueError: the lengths differ, or there are no values.
    """
    return estimate([b - a for a, b in zip(first, second, strict=True)], confidence)


def compare_pairs(
    first: Sequence[float], second: Sequence[float], smallest: float, resamples: int = 10_000, seed: int = 0
) -> Paired:
    """All there is to say of second − first.

    Args:
        first, second: values in the order of their seeds.
        smallest: the difference that `pairs_needed` is about.
        resamples, seed: of the bootstrap.

    Raises:
        ValueError: the lengths differ, or there are no values.
    """
    differences = np.subtract(second, first)
    found = paired_difference(first, second)
    random = np.random.default_rng(seed)
    means = differences[random.integers(len(differences), size=(resamples, len(differences)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    moved = differences[differences != 0]
    sign_p = float(stats.binomtest(int((moved > 0).sum()), len(moved)).pvalue) if len(moved) else 1.0
    spread = found.count > 1 and found.deviation > 0
    effect = found.mean / found.deviation if spread else math.nan
    t_p = float(2 * stats.t.sf(abs(effect) * math.sqrt(found.count), found.count - 1)) if spread else 1.0
    return Paired(found, (float(low), float(high)), effect, t_p, sign_p, pairs_needed(found.deviation, smallest))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for being several (Holm 1979): the k-th smallest of n times n − k + 1, made to ascend."""
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable").tolist()):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def pairs_needed(deviation: float, difference: float, power: float = 0.8, confidence: float = 0.95) -> int | None:
    """How many pairs a paired t-test needs to find `difference` with `power`, if differences deviate by `deviation`.

    By the noncentral t distribution; None where the deviation is not known or more than 10,000 would be needed.
    """
    if not deviation > 0 or not difference > 0:
        return None
    for pairs in range(2, 10_001):
        freedom, shift = pairs - 1, difference / deviation * math.sqrt(pairs)
        if stats.nct.sf(stats.t.ppf((1 + confidence) / 2, freedom), freedom, shift) >= power:
            return pairs
    return None
