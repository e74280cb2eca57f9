"""Tables of a report, and how means and differences are written in them."""

import math
from collections.abc import Iterable, Sequence

from gan.experiments.statistics import estimate


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    return [_row(columns), "|---" * len(columns) + "|", *map(_row, rows)]


def with_interval(values: Sequence[float]) -> str:
    """The mean of `values` as `mean ± half width` of its 95 % t interval."""
    if not values:
        return "none"
    found = estimate(values)
    half = (found.high - found.low) / 2
    places = _places(half, 1)
    return f"{found.mean:.{places}f} ± {half:.{places}f}"


def difference(mean: float, low: float, high: float) -> tuple[str, str]:
    """A difference and its interval `[low, high]`, both to the same place."""
    places = _places((high - low) / 2, 2)
    mean = round(mean, places) + 0.0  # no minus before a zero
    return f"{mean:+.{places}f}", f"[{low:+.{places}f}, {high:+.{places}f}]"


def _places(width: float, at_one: int) -> int:
    """Decimal places, `at_one` where `width` is near 1 and one less for every power of ten."""
    if not math.isfinite(width) or width <= 0:
        return 3
    return max(0, at_one - round(math.log10(width)))


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
