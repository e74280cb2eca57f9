"""Bars of progress on standard error: lively at a terminal, a line every half minute where it is a file."""

import sys
from collections.abc import Iterable
from functools import cache
from typing import Any, ClassVar, TypeVar
from weakref import WeakSet

from tqdm import tqdm

from gan.errors import printable

FILE_INTERVAL = 30.0  # seconds between the lines of a bar, where standard error is no terminal

T = TypeVar("T")


class Lines(tqdm):
    """A bar that writes whole lines, for files; `close` writes the last one where it is to stay."""

    monitor_interval = 0
    _instances: ClassVar["WeakSet[Any]"] = WeakSet()  # its own, so that `say` neither clears nor repeats a line

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write the state, or `msg`, as a line."""
        self.fp.write(f"{self if msg is None else msg}\n")
        self.fp.flush()

    def close(self) -> None:
        """Write the last state, where the bar stays when the work is done."""
        if not self.disable:
            self.disable = True
            if self.leave:
                self.display()


def say(line: str) -> None:
    """One line on standard error, above the bars; what a terminal would obey is shown as its escape."""
    tqdm.write(printable(line), sys.stderr)


@cache
def say_once(line: str) -> None:
    """`say`, unless this process has said just that before."""
    say(line)


def passing(items: Iterable[T], description: str, unit: str, shown: bool = True, delay: float = 0) -> Iterable[T]:
    """`items` under a bar as of `passing_bar`."""
    kind, options = _passing(unit, shown, delay)
    return kind(items, description, **options)


def passing_bar(total: int, description: str, unit: str, shown: bool = True, delay: float = 0) -> "tqdm[Any]":
    """A bar, there after `delay` seconds and gone when the work is done; none where not `shown`.

    Off a terminal it is a line every `FILE_INTERVAL` seconds, the first after as many.
    """
    kind, options = _passing(unit, shown, delay)
    return kind(total=total, desc=description, **options)


def lasting_bar(total: int, description: str | None, unit: str, initial: int = 0, shown: bool = True) -> "tqdm[Any]":
    """A bar that stays when the work is done; off a terminal, a line every `FILE_INTERVAL` seconds and a last one."""
    kind, options = _bar(unit, shown)
    return kind(total=total, desc=description, initial=initial, smoothing=0.1, **options)


def leave_out(bar: "tqdm[Any]", seconds: float) -> None:
    """Take a pause that has just ended out of a bar's rate and of the time that it says has passed and is left."""
    if not bar.disable:
        bar.start_t += seconds
        bar.last_print_t += seconds


def _passing(unit: str, shown: bool, delay: float) -> "tuple[type[tqdm[Any]], dict[str, Any]]":
    kind, options = _bar(unit, shown)
    return kind, {**options, "leave": False, "delay": FILE_INTERVAL if kind is Lines else delay}


def _bar(unit: str, shown: bool) -> "tuple[type[tqdm[Any]], dict[str, Any]]":
    options: dict[str, Any] = {"unit": f" {unit}", "disable": not shown}
    if sys.stderr.isatty():
        return tqdm, {**options, "dynamic_ncols": True}
    # One step is enough for a look at the clock: an estimate of how many fit into the interval would skip lines.
    return Lines, {**options, "mininterval": FILE_INTERVAL, "maxinterval": FILE_INTERVAL, "miniters": 1, "ncols": 0}
