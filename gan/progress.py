"""Bars of progress on standard error: lively at a terminal, sparse lines where it is a file."""

import sys
from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm

FILE_INTERVAL = 30.0  # seconds from a line to the next, where standard error is no terminal

T = TypeVar("T")


def passing(items: Iterable[T], description: str, unit: str, shown: bool = True, delay: float = 0) -> Iterable[T]:
    """`items` under a bar as of `passing_bar`."""
    return _bar(items, desc=description, unit=unit, leave=False, delay=delay, shown=shown)


def passing_bar(total: int, description: str, unit: str, shown: bool = True, delay: float = 0) -> "tqdm[Any]":
    """A bar, there after `delay` seconds and gone when the work is done; off a terminal, a line at each interval.

    So of work that is shorter than `FILE_INTERVAL` a file says nothing.
    """
    return _bar(total=total, desc=description, unit=unit, leave=False, delay=delay, shown=shown)


def lasting_bar(total: int, description: str | None, unit: str, initial: int = 0, shown: bool = True) -> "tqdm[Any]":
    """A bar that stays when the work is done; off a terminal, a line at the start, at each interval and at the end."""
    return _bar(total=total, desc=description, unit=unit, initial=initial, smoothing=0.1, leave=True, shown=shown)


def leave_out(bar: "tqdm[Any]", seconds: float) -> None:
    """Take a pause that has just ended out of the times and rates that a bar shows."""
    if not bar.disable:
        bar.start_t += seconds
        bar.last_print_t += seconds


class _Lines(tqdm):
    """A bar of which each state is a line of its own."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if msg is None:  # an empty one would take the bar from a screen
            self.fp.write(f"{self}\n")

    def clear(self, nolock: bool = False) -> None:
        """Lines stay."""

    def close(self) -> None:
        if self.leave and not self.disable:
            self.refresh()
        self.leave = False
        super().close()


def _bar(
    items: "Iterable[Any] | None" = None, *, unit: str, leave: bool, shown: bool, delay: float = 0, **options: Any
) -> "tqdm[Any]":
    common = {**options, "unit": f" {unit}", "leave": leave, "disable": not shown, "dynamic_ncols": True}
    if sys.stderr.isatty():
        return tqdm(items, delay=delay, **common)
    return _Lines(items, delay=0 if leave else FILE_INTERVAL, mininterval=FILE_INTERVAL, miniters=1, **common)
