"""The best checkpoint so far, by one score, kept beside the newest ones."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from gan import distributed
from gan.errors import UserError
from gan.training.checkpoint import Checkpoints, read_checkpoint
from gan.training.state import is_count

BEST = "best.pt"


class BestCheckpoint:
    """Writes `best.pt` whenever a score is better than all before it.

    Args:
        checkpoints: where the numbered ones go.
        key: which score; None keeps nothing.
        higher: whether higher is better.
        yardstick: how it is measured; scores by another one are not compared.
    """

    def __init__(self, checkpoints: Checkpoints, key: str | None, higher: bool = False, yardstick: str = "") -> None:
        self.checkpoints = checkpoints
        self.key = key
        self.higher = higher
        self.yardstick = yardstick
        self.step: int | None = None
        self.value: float | None = None

    def consider(self, step: int, scores: Mapping[str, float], state: Callable[[], Mapping[str, Any]]) -> bool:
        """Keep the state of `step` if its score is the best; returns whether it was.

        Raises:
            StorageError: it could not be written; the best before it is untouched.
        """
        if self.key is None or not math.isfinite(scores[self.key]):
            return False
        value = scores[self.key]
        if self.value is not None and not (value > self.value if self.higher else value < self.value):
            return False
        self.step, self.value = step, value
        self.checkpoints.write(BEST, {"step": step, **state()})
        return True

    def state_dict(self) -> dict[str, Any]:
        """Which score it goes by, how that is measured, and the best of it with its step."""
        return {"key": self.key, "yardstick": self.yardstick, "step": self.step, "value": self.value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`, unless it went by another score or measured it otherwise: then the next one is the best.

        So it is where `best.pt` was written by steps after `state` that are now taken back: what it replaced is gone.

        Raises:
            ValueError: a step or a score that there cannot be.
        """
        if (state["key"], state.get("yardstick")) != (self.key, self.yardstick):
            return
        step, value = state["step"], state["value"]
        scored = value is None or (isinstance(value, float) and math.isfinite(value))
        if (step, value) != (None, None) and not (is_count(step) and scored):
            raise ValueError(f"a best score of {value!r:.40} at step {step!r:.40}")
        written = self._written() if self.step is None else self.step
        if written not in (None, step):
            self.step, self.value = written, None  # best.pt is still that of another step
        else:
            self.step, self.value = step, value

    def _written(self) -> int | None:
        """The step of the `best.pt` that a process before this one left, −1 of one that cannot be read."""
        step: int | None = None
        if self.checkpoints.writes and (path := self.checkpoints.directory / BEST).is_file():
            try:
                step = read_checkpoint(path)["step"]
            except UserError:
                step = -1
        return distributed.from_main(step)
