"""When things happen, and how long training took without them."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from gan.training.motion import Motion


@dataclass(frozen=True)
class Schedule:
    """When things happen, in generator steps; an interval of 0 is never.

    `motions` are settings that move, by name, with `images_per_step` real images a step.
    """

    steps: int
    discriminator_steps: int
    learning_rate: str
    log_every: int
    sample_every: int
    save_every: int
    evaluate_every: int
    images_per_step: int = 1
    motions: Mapping[str, Motion] = field(default_factory=dict)

    def learning_rate_factor(self, step: int) -> float:
        """What the learning rates are multiplied with in the step after `step`."""
        left = 1 - step / self.steps
        return {"constant": 1.0, "linear": left, "half_linear": min(1.0, 2 * left)}[self.learning_rate]

    def moved(self, step: int) -> dict[str, float]:
        """The numbers of all settings that move in the step after `step`, by name; several of one are counted."""
        found: dict[str, float] = {}
        for name, motion in self.motions.items():
            values = motion.at(step * self.images_per_step)
            found |= {f"{name}/{i}" if len(values) > 1 else name: value for i, value in enumerate(values)}
        return found

    def move(self, step: int) -> None:
        """Put all settings that move where they belong in the step after `step`."""
        for motion in self.motions.values():
            motion.apply(*motion.at(step * self.images_per_step))

    def set_learning_rates(self, optimizers: Iterable[torch.optim.Optimizer], step: int) -> None:
        """For the step after `step`; a group's `base_lr` is what the factor is of."""
        factor = self.learning_rate_factor(step)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                rate = group["base_lr"] * factor
                if isinstance(group["lr"], torch.Tensor):  # where a captured step reads it
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate

    def due(self, step: int, interval: int) -> bool:
        """Whether what happens at an interval happens after `step`; the last step is always due."""
        return step % interval == 0 or step == self.steps


class Clock:
    """Time spent training on a device, with pauses for everything else taken out.

    Pauses and laps wait for the device to finish what it was given, so that no step's time is counted as a pause.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._lap = self._log = time.perf_counter()

    def pause(self, action: Callable[[], Any]) -> float:
        """Do something off the clock; returns its seconds."""
        start = self._now()
        action()
        paused = self._now() - start
        self._lap += paused
        self._log += paused
        return paused

    def lap(self) -> float:
        """Seconds since the last lap."""
        now = self._now()
        seconds, self._lap = now - self._lap, now
        return seconds

    def running(self) -> float:
        """Seconds since the last lap, which goes on."""
        return self._now() - self._lap

    def since_log(self) -> float:
        """Seconds since the last call."""
        now = self._now()
        seconds, self._log = now - self._log, now
        return seconds

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
