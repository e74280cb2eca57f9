"""Bars of progress on standard error: lively at a terminal, sparse or absent where it is a file."""

import sys
from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm

FILE_INTERVAL = 30.0  # seconds between the states of a lasting bar, where standard error is no terminal

T = TypeVar("T")


def say(line: str) -> None:
    """One line on standard error, above the bars."""
    tqdm.write(line, sys.stderr)


def passing(items: Iterable[T], description: str, unit: str, shown: bool = True, delay: float = 0) -> Iterable[T]:
    """`items` under a bar as of `passing_bar`."""
    return tqdm(items, description, **_passing(unit, shown, delay))


def passing_bar(total: int, description: str, unit: str, shown: bool = True, delay: float = 0) -> "tqdm[Any]":
    """A bar, there after `delay` seconds and gone when the work is done; none off a terminal or where not `shown`."""
    return tqdm(total=total, desc=description, **_passing(unit, shown, delay))


def lasting_bar(total: int, description: str | None, unit: str, initial: int = 0, shown: bool = True) -> "tqdm[Any]":
    """A bar that stays when the work is done; off a terminal, its state every `FILE_INTERVAL` seconds."""
    return tqdm(
        total=total,
        desc=description,
        unit=f" {unit}",
        initial=initial,
        dynamic_ncols=True,
        smoothing=0.1,
        mininterval=0.1 if sys.stderr.isatty() else FILE_INTERVAL,
        disable=not shown,
    )


def _passing(unit: str, shown: bool, delay: float) -> dict[str, Any]:
    hidden = None if shown else True  # None: where it is no terminal
    return {"unit": f" {unit}", "leave": False, "dynamic_ncols": True, "delay": delay, "disable": hidden}
