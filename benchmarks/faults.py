"""Calls of the operating system that fail when they are told to: in this process, once, at one place of the code."""

import builtins
import errno
import io
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from unittest.mock import patch

PACKAGE = str(Path(__file__).parents[1] / "gan") + os.sep
WRITERS = PACKAGE + "files.py"
CALLS = {"open": "open", "write": "write", "fsync": "fsync", "rename": "rename", "replace": "rename", "mkdir": "mkdir",
         "unlink": "unlink", "remove": "unlink", "rmdir": "unlink", "link": "link", "truncate": "truncate",
         "ftruncate": "truncate"}  # fmt: skip
Site = str  # call, file and line that ends in it, and of a line in gan/files.py also who called there


class Faults:
    """Counts the calls of every site, and lets one of them fail.

    Args:
        folder: only what lies in it fails.
        site: where; None for nowhere.
        number: which of the site's calls, from 1.
        code: of `errno`.
    """

    def __init__(self, folder: Path, site: Site | None = None, number: int = 1, code: int = errno.EIO) -> None:
        self.folder = os.path.realpath(folder) + os.sep
        self.site, self.number, self.code = site, number, code
        self.counts: Counter[Site] = Counter()

    def call(self, call: str, path: object) -> None:
        """Count a call, and raise if it is the one that fails."""
        name = self._name(path)
        if not name.startswith(self.folder):
            return
        site = f"{call} {place_of_call()}"
        self.counts[site] += 1
        if site == self.site and self.counts[site] == self.number:
            raise OSError(self.code, os.strerror(self.code), name)

    def _name(self, path: object) -> str:
        try:
            if isinstance(path, int):
                return str(Path(f"/proc/self/fd/{path}").readlink())
            return str(Path(os.fsdecode(path)).absolute())  # type: ignore[arg-type]
        except (TypeError, OSError):
            return ""


def place_of_call() -> str:
    """`file.py:line` of the innermost frame in gan/; below gan/files.py, its caller's place first."""
    frame, places = sys._getframe(2), []
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(PACKAGE):
            places.append(f"gan/{file.removeprefix(PACKAGE)}:{frame.f_lineno}")
            if file != WRITERS:
                break
        frame = frame.f_back  # type: ignore[assignment]
    if not places:
        return "TensorBoard's thread" if threading.current_thread() is not threading.main_thread() else "elsewhere"
    return places[0] if len(places) == 1 else f"{places[-1]} > {places[0]}"


@contextmanager
def failing(faults: Faults) -> Iterator[None]:
    """Within the block calls of `os`, and what files opened in Python write, are counted and fail as `faults` says."""

    def counted(call: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def replacement(path: Any, *args: Any, **options: Any) -> Any:
            if "dir_fd" not in options:
                faults.call(call, path)
            return real(path, *args, **options)

        return replacement

    class Raw(io.FileIO):
        def write(self, data: Any) -> int:
            faults.call("write", self.name)
            return super().write(data)

    def opened(
        file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, errors: Any = None, newline: Any = None,
        closefd: bool = True, opener: Any = None,
    ) -> IO[Any]:  # fmt: skip
        faults.call("open", file)
        if not faults._name(file).startswith(faults.folder) or not set(mode) & set("wax+"):
            return real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw = Raw(file, mode.replace("b", "").replace("t", ""), closefd, opener)
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

    real_open = io.open
    patches = [patch.object(os, name, counted(call, getattr(os, name))) for name, call in CALLS.items()]
    patches += [patch.object(io, "open", opened), patch.object(builtins, "open", opened)]
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()
