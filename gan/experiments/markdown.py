"""Tables of a report, and how a mean is written in them."""

from collections.abc import Iterable, Sequence

from gan.experiments.statistics import estimate


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    return [_row(columns), "|---" * len(columns) + "|", *map(_row, rows)]


def mean(values: Sequence[float]) -> str:
    """`mean ± half width` of the 95 % t interval."""
    if not values:
        return "none"
    found = estimate(values)
    return f"{found.mean:.4g} ± {(found.high - found.low) / 2:.2g}"


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
