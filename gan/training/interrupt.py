"""Ctrl-C and SIGTERM as requests: the loop finishes its step, saves and returns."""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import TypeVar

Result = TypeVar("Result")


class _Stopped(BaseException):
    """Leaves what is done at once. No `Exception`: nobody on the way may take it for a failure."""


class StopSignals:
    """Within the block the first SIGINT or SIGTERM sets `requested`; a second SIGINT interrupts at once.

    Args:
        patient: whether a second SIGINT is like the first: torchrun passes on what the terminal has already sent.
    """

    def __init__(self, patient: bool = False) -> None:
        self.requested = False
        self._patient = patient
        self._at_once = False

    def __enter__(self) -> "StopSignals":
        self._previous = {number: signal.signal(number, self._request) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def unless_requested(self, action: Callable[[], Result]) -> Result | None:
        """What `action` gives, or None if a request comes first: then it is left where it is, to be begun again later.

        With `patient`, where other processes take part in it, it is always brought to its end.
        """
        if self._patient:
            return action()
        if self.requested:
            return None
        self._at_once = True
        try:
            return action()
        except _Stopped:
            return None
        finally:
            self._at_once = False

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT and not self._patient:
            raise KeyboardInterrupt
        self.requested = True
        if self._at_once:
            self._at_once = False
            raise _Stopped
