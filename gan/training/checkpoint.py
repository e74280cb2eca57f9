"""Checkpoints: whole files named by step, the newest kept; plain tensors and numbers, so nothing read is executed."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gan.errors import UserError
from gan.files import atomic_path, sync_directory
from gan.training.state import NotPlainError, is_count, load_plain

FORMAT = 6
_NAME = re.compile(r"step_(\d{8})\.pt")


class Checkpoints:
    """The checkpoints of one run.

    Args:
        directory: where they lie.
        keep: how many of the newest to keep; older ones go only after a new one is whole.
        run: what identifies the run, see `run_identity`; stamped on every checkpoint.
        images: what they say of the images of the run, plain values; None for nothing.
        writes: whether to write and remove anything; of several ranks, which all hold the same state, one does.
    """

    def __init__(
        self, directory: Path, keep: int, run: str = "", writes: bool = True, images: Mapping[str, Any] | None = None
    ) -> None:
        self.directory = directory
        self.keep = keep
        self.run = run
        self.writes = writes
        self.images = images

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write `state` as the checkpoint of `step`.

        Raises:
            StorageError: it could not be written; earlier checkpoints are untouched.
        """
        path = self.write(_name(step), {"step": step, **state})
        self.prune()
        return path

    def prune(self) -> None:
        """Remove what is older than the newest few, which a process that was killed may have left too."""
        older = self.paths()[: -self.keep] if self.writes else []
        for path in older:
            path.unlink(missing_ok=True)
        if older:  # else a crash of the machine brings them back, and a run that has ended looks at them no more
            sync_directory(self.directory)

    def write(self, name: str, state: Mapping[str, Any]) -> Path:
        """Write `state` beside the numbered checkpoints, under a name that is never removed.

        Raises:
            StorageError: it could not be written; what had the name is untouched.
        """
        path = self.directory / name
        if self.writes:
            images = {} if self.images is None else {"images": dict(self.images)}
            write_checkpoint(path, {**state, "run": self.run, **images})
        return path

    def paths(self) -> list[Path]:
        """All whole checkpoints, the newest last."""
        return checkpoint_paths(self.directory)


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state atomically, stamped with the format's number and a digest of all it holds."""
    stamped = {"format": FORMAT, **state, "digest": digest(state)}
    with atomic_path(path) as temporary:
        try:
            with temporary.open("wb") as file:
                torch.save(stamped, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch's writer reports a failed write as an error of its own
                raise error.__context__ from error
            raise


def digest(state: object) -> str:
    """SHA-256 of nested mappings, sequences, tensors and plain values: 64 hex digits."""
    sha = hashlib.sha256()
    _feed(sha, state)
    return sha.hexdigest()


def _feed(sha: "hashlib._Hash", value: object) -> None:
    if isinstance(value, Mapping):
        sha.update(f"{{{len(value)}".encode())
        for key, entry in value.items():
            sha.update(repr(key).encode())
            _feed(sha, entry)
    elif isinstance(value, list | tuple):
        sha.update(f"[{len(value)}".encode())
        for entry in value:
            _feed(sha, entry)
    elif isinstance(value, Tensor):
        sha.update(f"{value.dtype}{tuple(value.shape)}".encode())
        # .view(uint8) because NumPy has no bfloat16
        sha.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    else:
        sha.update(f"{type(value).__name__}{value!r}".encode())


def checkpoint_paths(directory: Path) -> list[Path]:
    """The checkpoints in `directory`, the newest last."""
    return sorted(path for path in directory.glob("step_*.pt") if _NAME.fullmatch(path.name))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read one checkpoint, onto the CPU.

    Raises:
        UserError: it is missing, damaged, of another format, of another step than its name says, or holds more than
            tensors and plain values.
    """
    try:
        state = load_plain(path)
    except OSError as error:
        raise UserError(f"checkpoint {path}: {error.strerror or error}") from error
    except NotPlainError as error:
        raise UserError(f"checkpoint {path}: damaged, or not a checkpoint ({error})") from error
    found = state.get("format")
    if found != FORMAT:
        raise UserError(f"checkpoint {path}: format {found!r:.40} found, {FORMAT} accepted")
    stamp = state.pop("digest", None)
    if stamp != digest({name: value for name, value in state.items() if name != "format"}):
        raise UserError(f"checkpoint {path}: damaged, its contents are not those it was saved with; remove it")
    step, named = state.get("step"), _NAME.fullmatch(path.name)
    if not isinstance(step, int) or not is_count(step):
        raise UserError(f"checkpoint {path}: step {step!r:.40} found, a number of steps accepted")
    if named and int(named[1]) != step:
        raise UserError(f"checkpoint {path}: it is of step {step}; rename it to {_name(step)}, or remove it")
    return state


def _name(step: int) -> str:
    return f"step_{step:08d}.pt"
