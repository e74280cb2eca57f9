"""The errors a user can cause: each prints as one line and carries its exit status."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class UserError(Exception):
    """Bad input. The message names the key or file, what was found and what is accepted."""

    exit_status = 2


class BusyError(UserError):
    """Another process is at work there."""


class NonFiniteError(UserError):
    """Training produced NaN or infinity."""

    exit_status = 3


class StorageError(UserError):
    """A file that matters could not be written."""

    exit_status = 4


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device, the CPU's allocator or NumPy had no room, or a size is beyond any room."""
    signs = ("out of memory", "DefaultCPUAllocator", "Storage size calculation overflowed", "multiplication overflow")
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)


def nearest(name: str, accepted: Iterable[str]) -> str:
    """A hint for a misspelt `name`: "; did you mean 'width'? accepted: depth, width"; no question where none is.

    Of a shortened one all that end in it are meant: `lr` is both `generator_lr` and `discriminator_lr`.
    """
    accepted = sorted(accepted)
    section, dot, last = name.rpartition(".")
    close = [other for other in accepted if other.startswith(section + dot) and other.endswith(f"_{last}")]
    close = close or get_close_matches(name, accepted, n=1)
    question = f"; did you mean {' or '.join(map(repr, close))}?" if close else ";"
    return f"{question} accepted: {listed(accepted)}"


def printable(text: str) -> str:
    """`text` with each character that a terminal would obey, line ends left out, written as its escape."""
    return "".join(one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode() for one in text)


def listed(names: Sequence[str], limit: int = 20, separator: str = ", ") -> str:
    """`a, b, c`, and how many more there are than `limit`."""
    more = f"{separator}{len(names) - limit} more" if len(names) > limit else ""
    return f"{separator.join(names[:limit]) or 'nothing'}{more}"
