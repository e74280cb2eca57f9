"""A report as parts, and the parts as Markdown or as one HTML file that needs nothing else."""

import base64
import html
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gan.experiments.statistics import estimate

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: 0.3rem; }
th, td { border-bottom: 1px solid #ddd; padding: 0.25rem 0.8rem 0.25rem 0; text-align: left; }
img { max-width: 100%; }
.scroll { overflow-x: auto; }
"""


@dataclass(frozen=True)
class Text:
    """Lines of prose, in which **…** is strong and `…` is code; with `bullets` each is an item of a list."""

    lines: tuple[str, ...]
    bullets: bool = False


@dataclass(frozen=True)
class Table:
    """A table under a sentence that says what it shows, and notes below it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture in the report's own folder, and what it shows."""

    file: str
    shows: str


Part = Text | Table | Picture


def markdown(title: str, parts: Iterable[Part]) -> str:
    """A page in Markdown; pictures are named, relative to it."""
    return "\n\n".join([f"# {title}", *map(_markdown, parts)]) + "\n"


def _markdown(part: Part) -> str:
    match part:
        case Text():
            return "\n".join(f"- {line}" if part.bullets else line for line in part.lines)
        case Table():
            lines = [part.title, "", *table(part.columns, part.rows)]
            return "\n".join([*lines, *(["", part.notes] if part.notes else [])])
        case Picture():
            return f"![{part.shows}]({part.file})"


def web_page(title: str, parts: Iterable[Part], folder: Path) -> str:
    """The same page as HTML: pictures of `folder` inside, no script, nothing fetched, all text escaped."""
    body = "\n".join(_html(part, folder) for part in parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        f"<style>{STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def _html(part: Part, folder: Path) -> str:
    match part:
        case Text():
            if part.bullets:
                return f"<ul>{''.join(f'<li>{_inline(line)}</li>' for line in part.lines)}</ul>"
            return f"<p>{'<br>'.join(map(_inline, part.lines))}</p>"
        case Table():
            head = "".join(f'<th scope="col">{_inline(cell)}</th>' for cell in part.columns)
            rows = "".join(f"<tr>{''.join(f'<td>{_inline(cell)}</td>' for cell in row)}</tr>" for row in part.rows)
            notes = f"<p>{_inline(part.notes)}</p>" if part.notes else ""
            caption = f"<caption>{_inline(part.title)}</caption>"
            return f'<div class="scroll"><table>{caption}<thead><tr>{head}</tr></thead>{rows}</table></div>{notes}'
        case Picture():
            data = base64.b64encode((folder / part.file).read_bytes()).decode()
            return f'<p><img alt="{html.escape(part.shows)}" src="data:image/png;base64,{data}"></p>'


def _inline(text: str) -> str:
    text = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", html.escape(text))
    return re.sub(r"`(.+?)`", r"<code>\1</code>", text)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    return [_row(columns), "|---" * len(columns) + "|", *map(_row, rows)]


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def with_interval(values: Sequence[float]) -> str:
    """The mean of `values` as `mean ± half width` of its 95 % t interval."""
    if not values:
        return "none"
    found = estimate(values)
    half = (found.high - found.low) / 2
    places = _places(half, 1)
    return f"{found.mean:.{places}f} ± {half:.{places}f}"


def with_range(values: Sequence[float], *, geometric: bool = False) -> str:
    """The mean of `values`, the geometric one for ratios, and the smallest and largest: `2.1 (1.4 to 3.1)`."""
    if not values:
        return "none"
    if geometric:
        logs = [*map(math.log, values)]
        mean, low, high = map(_times, (sum(logs) / len(logs), min(logs), max(logs)))
    else:
        average = sum(values) / len(values)
        places = _places(max(values) - min(values) if len(values) > 1 else abs(average) / 10, 1)
        mean, low, high = (f"{one:.{places}f}" for one in (average, min(values), max(values)))
    return f"{mean} ({low} to {high})" if len(values) > 1 else mean


def difference(mean: float, low: float, high: float) -> tuple[str, str]:
    """A difference and its interval `low to high`, both to the same place."""
    places = _places((high - low) / 2, 2)
    mean, low, high = (round(one, places) + 0.0 for one in (mean, low, high))  # no minus before a zero
    return f"{mean:+.{places}f}", f"{low:+.{places}f} to {high:+.{places}f}"


def ratio(mean: float, low: float, high: float) -> tuple[str, str]:
    """A ratio and its interval from their logarithms, each to two or three digits that mean something."""
    return _times(mean), f"{_times(low)} to {_times(high)}"


def _times(log: float) -> str:
    try:
        value = math.exp(log)
    except OverflowError:
        return "∞"
    if not math.isfinite(value):
        return "∞"
    places = 0 if value >= 30 else 1 if value >= 3 else 2 if value >= 0.1 else 3  # two or three digits
    return f"{value:.{places}f}"


def _places(width: float, at_one: int) -> int:
    """Decimal places, `at_one` where `width` is near 1 and one less for every power of ten."""
    if not math.isfinite(width) or width <= 0:
        return 3
    return max(0, at_one - round(math.log10(width)))
