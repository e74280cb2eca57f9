"""Tables of a report, and how a mean is written in them."""

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
    return f"{found.mean:.4g} ± {(found.high - found.low) / 2:.2g}"


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
