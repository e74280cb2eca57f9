"""What a run leaves to look at: scalars in metrics.jsonl and TensorBoard, image grids in both TensorBoard and files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard import summary

from gan.errors import UserError
from gan.files import atomic_path, sync, sync_directory, write_text
from gan.pictures import to_picture
from gan.training.event_files import EventFile, drop_events, take_in_earlier, write_settings
from gan.training.state import is_count

LOG = "metrics.jsonl"  # in the directory of a run
TRAINING = "speed/seconds_per_step"  # in every line that training writes
ELAPSED = "speed/training_seconds"  # since the first step, pauses left out
SCORES = "evaluation/"  # before the name of every score


def read_log(path: Path) -> list[dict[str, float]]:
    """The lines of a run's log, by step; none where there is no file.

    Raises:
        UserError: a line is damaged.
    """
    lines: list[dict[str, float]] = []
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for line in text.splitlines():
            values = json.loads(line)
            if not is_count(values["step"]) or not all(map(_is_number, values.values())):
                raise ValueError("a line of other values than numbers")
            lines.append(values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}, line {len(lines) + 1}: damaged; remove the line, or the run") from error
    return lines


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)


def is_logged(path: Path, step: int, scores: Mapping[str, float]) -> bool:
    """Whether a line of a run's log has these scores at this step; damaged lines are passed over."""
    wanted = json.dumps([step, sorted(scores.items())])  # in which NaN is like NaN
    try:
        return any(_scored(line) == wanted for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
    except FileNotFoundError:
        return False


def _scored(line: str) -> str:
    try:
        values = json.loads(line)
        scores = {name.removeprefix(SCORES): value for name, value in values.items() if name.startswith(SCORES)}
        scores.pop("seconds", None)
        return json.dumps([values["step"], sorted(scores.items())])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ""


class Averages:
    """Means of device tensors over a window, read from the device once.

    Values are scalars or, one entry a stage, vectors `(N,)`.

    Args:
        stages: N.
    """

    def __init__(self, stages: int) -> None:
        self._shapes = ((), (stages,))
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add one observation of each value; nothing waits for the device."""
        for name, value in values.items():
            self._sums[name] = self._sums[name].to(value.device) + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self) -> dict[str, list[float]]:
        """The means since the last call, one entry a stage; then start anew. Waits for the device."""
        names = list(self._sums)
        # Sums of a checkpoint lie on the CPU until their value is added to again, which not every window does.
        device = next((one.device for one in self._sums.values() if one.device.type != "cpu"), None)
        means = [(self._sums[name] / self._counts[name]).float().reshape(-1).to(device) for name in names]
        flat = torch.cat(means).tolist()
        taken: dict[str, list[float]] = {}
        for name in names:
            size = self._sums[name].numel()
            taken[name], flat = flat[:size], flat[size:]
        self._sums, self._counts = {}, {}
        return taken

    def totals(self) -> dict[str, Tensor]:
        """The sums since the last `take`."""
        return dict(self._sums)

    def state_dict(self) -> dict[str, Any]:
        """The sums of a window that has begun."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on in the window that `state` was taken in.

        Raises:
            ValueError: it holds no sums.
        """
        sums, counts = dict(state["sums"]), dict(state["counts"])
        if sums.keys() != counts.keys() or not all(map(is_count, counts.values())):
            raise ValueError("sums without counts")
        for one in sums.values():
            if not isinstance(one, Tensor) or one.shape not in self._shapes or not one.is_floating_point():
                raise ValueError("sums that no step has reported")
        self._sums, self._counts = sums, counts


class Tracker:
    """Writes scalars and grids of one run; after a resume, nothing is missing and nothing is there twice.

    Args:
        directory: of the run.
        step: the step the run goes on from; what was logged after it is dropped.
        settings: what TensorBoard shows of the run as a whole.

    Attributes:
        logged: lines of training, scores left out, that were there when it was opened.
    """

    def __init__(self, directory: Path, step: int, settings: Sequence[Summary] = ()) -> None:
        self._directory = directory
        self._metrics = directory / LOG
        take_in_earlier(directory)
        self._open(step)
        write_settings(directory, settings)

    def rewind(self, step: int) -> None:
        """Forget what was logged after `step`."""
        self.close()
        self._open(step)

    def _open(self, step: int) -> None:
        self._drop_after(step)
        drop_events(self._directory, step)
        self._file = self._metrics.open("a", encoding="utf-8")
        self._named = False  # whether the log's name is on the disk
        self._board = EventFile(self._directory, step)

    def scalars(self, step: int, values: Mapping[str, float], tags: Mapping[str, str] | None = None) -> None:
        """Log named numbers at a step; in TensorBoard under their names, or others that `tags` gives them."""
        named = {(tags or {}).get(name, name): value for name, value in values.items()}
        self._board.add(step, *(summary.scalar(name, value) for name, value in named.items()))
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()

    def scores(self, step: int, scores: Mapping[str, float], seconds: float, tags: Mapping[str, str]) -> None:
        """Log scores and what they cost, and bring them to the disk; once, however often they are told.

        TensorBoard has them under `tags`, by the scores' keys.
        """
        if is_logged(self._metrics, step, scores):
            return
        values = {f"{SCORES}{name}": value for name, value in (*scores.items(), ("seconds", seconds))}
        self.scalars(step, values, {f"{SCORES}{name}": f"{SCORES}{tag}" for name, tag in tags.items()})
        self.sync()

    def sync(self) -> None:
        """Bring the log to the disk, and its name."""
        sync(self._file)
        self._board.sync()
        if not self._named:
            sync_directory(self._directory)
            self._named = True

    def grid(self, step: int, name: str, grid: Tensor) -> Path:
        """Log a picture uint8 `(1 or 3, H, W)` to TensorBoard and to samples/; returns the file."""
        self._board.add(step, summary.image(name, grid, dataformats="CHW"))
        path = self._directory / "samples" / f"{name}_{step:08d}.png"
        with atomic_path(path) as temporary:
            to_picture(grid).save(temporary, format="PNG")
        return path

    def matrix(self, step: int, name: str, matrix: Tensor, size: int = 96) -> None:
        """Log entries in [−1, 1] `(N, N)` to TensorBoard as an image: −1 blue, 0 white, 1 red."""
        values = torch.nn.functional.interpolate(matrix[None, None].float().cpu(), size=(size, size))[0, 0]
        positive, negative = values.clamp(0, 1), (-values).clamp(0, 1)
        colours = torch.stack([1 - negative, 1 - positive - negative, 1 - positive])
        self._board.add(step, summary.image(name, colours, dataformats="CHW"))

    def finish(self, step: int) -> None:
        """Tell TensorBoard's table of runs that this one is done, one step later: a run that goes on forgets it."""
        *_, end = summary.hparams({}, {})
        self._board.add(step + 1, end)

    def close(self) -> None:
        """Flush and close all files."""
        self._file.close()
        self._board.close()

    def _drop_after(self, step: int) -> None:
        """Drop lines that steps after `step` have written, and those that are damaged."""
        self.logged = 0
        if not self._metrics.exists():
            return
        text = self._metrics.read_text(encoding="utf-8", errors="replace")
        kept = [line for line in text.splitlines(keepends=True) if _is_until(line, step)]
        self.logged = sum(TRAINING in line for line in kept)
        if "".join(kept) != text:
            write_text(self._metrics, "".join(kept))


class SilentTracker(Tracker):
    """A tracker that writes nothing: of all ranks but one, whose values are the same."""

    def __init__(self) -> None: ...

    def rewind(self, step: int) -> None: ...

    def scalars(self, step: int, values: Mapping[str, float], tags: Mapping[str, str] | None = None) -> None: ...

    def scores(self, step: int, scores: Mapping[str, float], seconds: float, tags: Mapping[str, str]) -> None: ...

    def sync(self) -> None: ...

    def grid(self, step: int, name: str, grid: Tensor) -> Path:
        return Path()

    def matrix(self, step: int, name: str, matrix: Tensor, size: int = 96) -> None: ...

    def finish(self, step: int) -> None: ...

    def close(self) -> None: ...


def _is_until(line: str, step: int) -> bool:
    try:
        return line.endswith("\n") and is_count(found := json.loads(line)["step"]) and found <= step
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
