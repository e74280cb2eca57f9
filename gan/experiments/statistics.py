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
