"""Checkpoints: whole files named by step, the newest kept; plain tensors and numbers, so nothing read is executed."""

import re
from pathlib import Path
from typing import Any

import torch

from gan.errors import UserError
from gan.files import atomic_path

FORMAT = 1
_NAME = re.compile(r"step_(\d{8})\.pt")


class Checkpoints:
    """The checkpoints of one run.

    Args:
        directory: where they lie.
        keep: how many of the newest to keep; older ones go only after a new one is whole.
    """

    def __init__(self, directory: Path, keep: int) -> None:
        self.directory = directory
        self.keep = keep

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write `state` as the checkpoint of `step`.

        Raises:
            StorageError: it could not be written; earlier checkpoints are untouched.
        """
        path = self.directory / f"step_{step:08d}.pt"
        write_checkpoint(path, {"step": step, **state})
        for old in self.paths()[: -self.keep]:
            old.unlink(missing_ok=True)
        return path

    def paths(self) -> list[Path]:
        """All whole checkpoints, the newest last."""
        return checkpoint_paths(self.directory)


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a state atomically, stamped with the format's number."""
    with atomic_path(path) as temporary:
        torch.save({"format": FORMAT, **state}, temporary)


def checkpoint_paths(directory: Path) -> list[Path]:
    """The checkpoints in `directory`, the newest last."""
    return sorted(path for path in directory.glob("step_*.pt") if _NAME.fullmatch(path.name))


def read_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read one checkpoint.

    Raises:
        UserError: it is missing, damaged, of another format, or holds more than tensors and plain values.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except OSError as error:
        raise UserError(f"checkpoint {path}: {error.strerror or error}") from error
    except Exception as error:  # damaged bytes make the unpickler fail in any way it can
        raise UserError(f"checkpoint {path}: damaged, or not a checkpoint") from error
    found = state.get("format") if isinstance(state, dict) else None
    if found != FORMAT:
        raise UserError(f"checkpoint {path}: format {found} found, {FORMAT} accepted")
    return state
