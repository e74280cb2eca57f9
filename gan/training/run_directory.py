"""The directory of one run: its config, its lock, and where everything else lies."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from gan.errors import BusyError, StorageError, UserError, listed
from gan.files import locked, make_directory, sweep
from gan.training.checkpoint import checkpoint_paths

# What may differ when a run goes on: nothing that a step already taken depended on, save the length of a decay and, as
# the number of processes may, how a batch is divided.
CHANGEABLE = (
    "training.steps", "training.recoveries", "training.accumulation", "training.sync_batch_norm",
    "training.cuda_graphs", "logging.", "checkpoint.", "evaluation.",
)  # fmt: skip
PLACES = ("data.path", "data.root")  # where the images lie: which they are is told by their content


class RunDirectory:
    """Layout of a run: config.yaml, metrics.jsonl, TensorBoard's event files, evaluations/, samples/, checkpoints/.

    Args:
        path: the directory; it need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.checkpoints = self.path / "checkpoints"
        self.evaluations = self.path / "evaluations"
        self.samples = self.path / "samples"

    def newest_checkpoint(self) -> Path | None:
        """The checkpoint to go on from, if any."""
        paths = checkpoint_paths(self.checkpoints)
        return paths[-1] if paths else None

    @classmethod
    def of(cls, path: Path) -> "RunDirectory":
        """The run directory that `path` is, or that the checkpoint `path` is in."""
        return cls(path.resolve().parent.parent if path.suffix == ".pt" else path)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the directory, made if need be, for this process alone, and remove what a killed one left half-written.

        Raises:
            BusyError: another process is training in it.
            UserError: a file is in the way.
            StorageError: it cannot be made or written.
        """
        try:
            make_directory(self.path)
        except (FileExistsError, NotADirectoryError) as error:
            raise UserError(f"--out {self.path}: a file is in the way; choose a directory") from error
        except OSError as error:
            raise StorageError(f"cannot write to {self.path}: {error.strerror or error}") from error
        with ExitStack() as held:
            try:
                # Somebody who only asks whether it is locked holds it for an instant.
                held.enter_context(locked(self.path / ".lock", patience=0.5))
            except TimeoutError as error:
                raise BusyError(f"--out {self.path}: another process is training in it; choose another") from error
            for directory in (self.path, self.samples, self.checkpoints):
                sweep(directory)
            yield

    def wait_until_free(self) -> None:
        """Return when no process holds the directory."""
        lock = self.path / ".lock"
        if lock.exists():
            with locked(lock):
                pass

    def require_same(self, config: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
        """Check that a run that goes on here does so with the config it began with.

        Args:
            config: of this start.
            saved: what config.yaml holds, with keys that it lacks at their defaults.

        Raises:
            UserError: a run of another config is here; the keys that differ are named.
        """
        before, now = flatten(saved), flatten(config)
        # As text, for an option that was 1 and is 1.0 is another one to `run_identity`.
        changed = sorted(key for key in before.keys() | now.keys() if _text(before, key) != _text(now, key))
        refused = [key for key in changed if not key.startswith(CHANGEABLE) and key not in PLACES]
        if refused:
            changes = [f"{key} was {_text(before, key)}, now {_text(now, key)}" for key in refused]
            names = listed(changes, 4, "; ")
            raise UserError(f"--out {self.path} holds a run of another config ({names}); choose another directory")


def _text(values: Mapping[str, Any], key: str) -> str:
    """As YAML has it."""
    return json.dumps(values[key]) if key in values else "absent"


def run_identity(config: Mapping[str, Any], places: bool = False) -> str:
    """SHA-256 over what may not change when a run goes on: 64 hex digits.

    Args:
        config: without keys at their defaults, so that a key that the schema gains changes no identity.
        places: whether `PLACES` are part of it, as in checkpoints that do not name their images by content.
    """
    settings = {key: value for key, value in fixed_settings(config).items() if places or key not in PLACES}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def fixed_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What may not change when a run goes on, keys joined by dots."""
    return {key: value for key, value in flatten(config).items() if not key.startswith(CHANGEABLE)}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
