"""Ctrl-C and SIGTERM as requests: the loop finishes its step, saves and returns."""

import signal
from types import FrameType, TracebackType


class StopSignals:
    """Within the block the first SIGINT or SIGTERM sets `requested`; a second SIGINT interrupts at once.

    Args:
        patient: whether a second SIGINT is like the first: torchrun passes on what the terminal has already sent.
    """

    def __init__(self, patient: bool = False) -> None:
        self.requested = False
        self._patient = patient

    def __enter__(self) -> "StopSignals":
        self._previous = {number: signal.signal(number, self._request) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT and not self._patient:
            raise KeyboardInterrupt
        self.requested = True
