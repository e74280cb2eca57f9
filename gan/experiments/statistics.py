"""Means with intervals, and tests of differences between runs that share a seed."""

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


def are_equal(values: Sequence[float]) -> bool:
    """Whether `values` are one number, but for the rounding of what they were computed from."""
    return float(np.ptp(values)) <= 1e-12 * float(np.abs(values).max())


def t_test(values: Sequence[float]) -> float:
    """Two-sided p of Student's one-sample test that the mean of `values` is 0; 1 with fewer than two.

    Where nothing varies there is no t: then by the signs alone, as the signed-rank test has it.
    """
    if len(values) < 2:
        return 1.0
    if are_equal(values):
        return signed_rank_test(values)
    found = estimate(values)
    return float(2 * stats.t.sf(abs(found.mean) / found.deviation * math.sqrt(found.count), found.count - 1))


def signed_rank_test(differences: Sequence[float]) -> float:
    """Two-sided p of Wilcoxon's signed-rank test by all 2ⁿ flips of sign, for differences that may be infinite.

    An infinite difference ranks above every finite one, ties share a mean rank, zeros are left out. Exact: under no
    effect every pattern of signs is as likely as any other, whatever the sizes are.
    """
    moved = np.array([one for one in differences if one != 0])
    if not len(moved):
        return 1.0
    # Mean ranks are multiples of 1/2, so that doubled they are whole and sums of them can be counted.
    ranks = np.rint(2 * stats.rankdata(np.abs(moved))).astype(np.int64)
    ways = np.zeros(int(ranks.sum()) + 1)  # ways[s]: share of sign patterns whose positive ranks sum to s
    ways[0] = 1.0
    for rank in ranks:
        ways = 0.5 * ways + 0.5 * np.concatenate([np.zeros(rank), ways[:-rank]])
    positive = int(ranks[moved > 0].sum())
    extreme = min(positive, int(ranks.sum()) - positive)
    return min(1.0, float(2 * ways[: extreme + 1].sum()))


def equivalence_test(values: Sequence[float], margin: float) -> float:
    """p of two one-sided t tests (Schuirmann 1987) that the mean of `values` lies within ±`margin`: the larger of both.

    1 with fewer than two values; 0 where none of them varies and all lie within.
    """
    if len(values) < 2:
        return 1.0
    found = estimate(values)
    inside = margin - abs(found.mean)
    if are_equal(values):
        return 0.0 if inside > 0 else 1.0
    return float(stats.t.sf(inside / found.deviation * math.sqrt(found.count), found.count - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for being several (Holm 1979): the k-th smallest of n times n − k + 1, made to ascend."""
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable").tolist()):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def spent_levels(looks: Sequence[int], level: float = 0.05) -> list[float]:
    """What each look may spend of `level`: the increments of α(t) = 2 − 2Φ(z_{α/2}/√t) (Lan & DeMets 1983).

    That is O'Brien and Fleming's boundary as a function of t, the share of all pairs that a look has. By the union
    bound, tests that each hold their own increment are wrong at any look with a chance of at most `level`, whatever
    tests they are and however looks depend on each other.
    """
    z = stats.norm.isf(level / 2)
    spent = [float(2 * stats.norm.sf(z / math.sqrt(pairs / looks[-1]))) for pairs in looks]
    return [now - before for before, now in zip([0.0, *spent], spent, strict=False)]


def pairs_needed(deviation: float, margin: float, level: float = 0.05, power: float = 0.8) -> int | None:
    """How many pairs decide with `power`, whether the true difference is `margin` or none at all.

    By the noncentral t distribution for a difference of `margin`, and for equivalence within it at a difference of 0,
    if differences deviate by `deviation`; None where that is not known or more than 10,000 would be needed.
    """
    if not deviation > 0 or not margin > 0:
        return None

    def decide(pairs: int) -> bool:
        freedom, shift = pairs - 1, margin / deviation * math.sqrt(pairs)
        found = float(stats.nct.sf(stats.t.isf(level / 2, freedom), freedom, shift))
        equal = float(2 * stats.t.cdf(shift - stats.t.isf(level, freedom), freedom) - 1)
        return min(found, equal) >= power

    low, high = 1, 2  # the power grows with the pairs: double, then halve
    while not decide(high):
        low, high = high, 2 * high
        if low > 10_000:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decide(middle) else (middle, high)
    return high if high <= 10_000 else None
