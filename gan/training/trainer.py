"""The loop: play, average, log, sample, evaluate, save."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from tqdm import tqdm

from gan.errors import NonFiniteError
from gan.models.sampling import generate
from gan.training.checkpoint import Checkpoints, write_checkpoint
from gan.training.ema import ExponentialMovingAverage
from gan.training.interrupt import StopSignals
from gan.training.steps import Game, discriminator_step, generator_step
from gan.training.streams import RandomStreams
from gan.training.tracking import Averages, Tracker

Evaluate = Callable[[nn.Module], Mapping[str, float]]


class Batches(Protocol):
    """An endless, resumable source of real images."""

    def next_batch(self) -> tuple[Tensor, Tensor | None]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class Schedule:
    """When things happen, in generator steps; an interval of 0 is never."""

    steps: int
    discriminator_steps: int
    learning_rate: str
    log_every: int
    sample_every: int
    save_every: int
    evaluate_every: int

    def learning_rate_factor(self, step: int) -> float:
        """What the learning rates are multiplied with in the step after `step`."""
        left = 1 - step / self.steps
        return {"constant": 1.0, "linear": left, "half_linear": min(1.0, 2 * left)}[self.learning_rate]


@dataclass(frozen=True)
class Preview:
    """The latents `(n, Z)` and labels `(n,)` or None of the sample grids, the same all through a run."""

    latents: Tensor
    labels: Tensor | None
    columns: int


class Trainer:
    """Plays a game until its last step, from wherever its state is.

    Args:
        game: players, optimisers and losses.
        ema: the average of the generator that is sampled and evaluated.
        batches: real images.
        streams: latents.
        schedule: when what happens.
        tracker: where scalars and grids go.
        checkpoints: where states go.
        preview: what the sample grids show.
        evaluate: scores of a generator; it must leave all random states as they were.
    """

    def __init__(
        self,
        game: Game,
        ema: ExponentialMovingAverage,
        batches: Batches,
        streams: RandomStreams,
        schedule: Schedule,
        tracker: Tracker,
        checkpoints: Checkpoints,
        preview: Preview,
        evaluate: Evaluate,
    ) -> None:
        self.game = game
        self.ema = ema
        self.batches = batches
        self.streams = streams
        self.schedule = schedule
        self.tracker = tracker
        self.checkpoints = checkpoints
        self.preview = preview
        self.evaluate = evaluate
        self.step = 0
        self.elapsed = 0.0  # seconds of training, pauses left out
        self._averages = Averages()
        self._optimizers = (game.generator_optimizer, game.discriminator_optimizer)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group.setdefault("base_lr", group["lr"])

    def train(self) -> bool:
        """Train to the last step; returns whether it was reached (False after an interrupt, with the state saved).

        Raises:
            NonFiniteError: a loss was not finite; the state is saved beside the checkpoints.
        """
        schedule = self.schedule
        progress = tqdm(total=schedule.steps, initial=self.step, unit="step", dynamic_ncols=True, smoothing=0.1)
        clock = _Clock()
        if self.step == 0:
            self.sample()
        with StopSignals() as stop, progress:
            while self.step < schedule.steps and not stop.requested:
                logged = _due(self.step + 1, schedule.log_every, schedule.steps)

                # Play
                self._set_learning_rates()
                for _ in range(schedule.discriminator_steps):
                    self._averages.add(self._discriminator_step())
                self._averages.add(self._generator_step())
                self.ema.update()
                self.step += 1
                progress.update()

                # Log
                if logged:
                    clock.pause(self._log, progress, clock)

                # Sample, evaluate
                if _due(self.step, schedule.sample_every, schedule.steps):
                    clock.pause(self.sample)
                if schedule.evaluate_every and self.step % schedule.evaluate_every == 0 and self.step < schedule.steps:
                    scores = clock.pause(self.evaluate, self.ema.average)
                    self.tracker.scalars(self.step, {f"evaluation/{name}": value for name, value in scores.items()})

                # Save
                if _due(self.step, schedule.save_every, schedule.steps):
                    self.elapsed += clock.lap()
                    clock.pause(self.save)
            if stop.requested and self.step < schedule.steps:
                self.elapsed += clock.lap()
                self.save()
        return self.step == schedule.steps

    def sample(self) -> Path:
        """Log the preview grid of the average generator; returns its file."""
        images = generate(self.ema.average, self.preview.latents, self.preview.labels, self.game.autocast)
        return self.tracker.grid(self.step, "samples", images, self.preview.columns)

    def save(self) -> Path:
        """Write a checkpoint of everything; returns its file."""
        return self.checkpoints.save(self.step, self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "step": self.step,
            "elapsed": self.elapsed,
            "generator": self.game.generator.state_dict(),
            "discriminator": self.game.discriminator.state_dict(),
            "generator_optimizer": self.game.generator_optimizer.state_dict(),
            "discriminator_optimizer": self.game.discriminator_optimizer.state_dict(),
            "ema": self.ema.average.state_dict(),
            "ema_updates": self.ema.updates,
            "batches": self.batches.state_dict(),
            "streams": self.streams.state_dict(),
            "averages": self._averages.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.step = state["step"]
        self.elapsed = state["elapsed"]
        self.game.generator.load_state_dict(state["generator"])
        self.game.discriminator.load_state_dict(state["discriminator"])
        self.game.generator_optimizer.load_state_dict(state["generator_optimizer"])
        self.game.discriminator_optimizer.load_state_dict(state["discriminator_optimizer"])
        self.ema.average.load_state_dict(state["ema"])
        self.ema.updates = state["ema_updates"]
        self.batches.load_state_dict(state["batches"])
        self.streams.load_state_dict(state["streams"])
        self._averages.load_state_dict(state["averages"])

    def _discriminator_step(self) -> dict[str, Tensor]:
        images, labels = self.batches.next_batch()
        latents, fake_labels = self.streams.latents("discriminator", len(images))
        self._batch_size = len(images)
        return discriminator_step(self.game, images, labels if fake_labels is not None else None, latents, fake_labels)

    def _generator_step(self) -> dict[str, Tensor]:
        return generator_step(self.game, *self.streams.latents("generator", self._batch_size))

    def _set_learning_rates(self) -> None:
        factor = self.schedule.learning_rate_factor(self.step)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor

    def _log(self, progress: "tqdm[Any]", clock: "_Clock") -> None:
        """Read the window's means from the device: the only place where the loop waits for it."""
        gradients = {
            "gradient_norm/generator": _gradient_norm(self.game.generator),
            "gradient_norm/discriminator": _gradient_norm(self.game.discriminator),
        }
        self._averages.add(gradients)
        means = self._averages.take()
        self._require_finite(means)
        values = _name_stages(means)
        seconds = clock.since_log()
        interval = self.step % self.schedule.log_every or self.schedule.log_every
        images = interval * self.schedule.discriminator_steps * self._batch_size
        speed = {"speed/images_per_second": images / seconds, "speed/seconds_per_step": seconds / interval}
        rates = {"learning_rate/generator": self.game.generator_optimizer.param_groups[0]["lr"]}
        self.tracker.scalars(self.step, {**values, **rates, **speed})
        progress.set_postfix(
            {
                "D": f"{means['loss/discriminator'][0]:.3f}",
                "G": f"{means['loss/generator'][0]:.3f}",
                "images/s": f"{speed['speed/images_per_second']:.0f}",
            },
            refresh=False,
        )

    def _require_finite(self, means: Mapping[str, list[float]]) -> None:
        for name, values in means.items():
            for stage, value in enumerate(values, start=1):
                if not math.isfinite(value):
                    path = self.checkpoints.directory / f"non_finite_{self.step:08d}.pt"
                    write_checkpoint(path, self.state_dict())
                    where = f" of stage {stage}" if len(values) > 1 else ""
                    raise NonFiniteError(
                        f"training stopped: {name}{where} became {value} within the {self.schedule.log_every} steps "
                        f"up to {self.step}; the state is in {path}"
                    )


class _Clock:
    """Time spent training, with pauses for everything else taken out."""

    def __init__(self) -> None:
        self._lap = self._log = time.perf_counter()

    def pause(self, action: Callable[..., Any], *arguments: Any) -> Any:
        """Do something off the clock."""
        start = time.perf_counter()
        result = action(*arguments)
        paused = time.perf_counter() - start
        self._lap += paused
        self._log += paused
        return result

    def lap(self) -> float:
        """Seconds since the last lap."""
        now = time.perf_counter()
        seconds, self._lap = now - self._lap, now
        return seconds

    def since_log(self) -> float:
        """Seconds since the last call."""
        now = time.perf_counter()
        seconds, self._log = now - self._log, now
        return seconds


def _due(step: int, interval: int, last: int) -> bool:
    return step % interval == 0 or step == last


def _gradient_norm(network: nn.Module) -> Tensor:
    """The norm of all gradients of the last step, as one vector."""
    return get_total_norm([parameter.grad for parameter in network.parameters() if parameter.grad is not None])


def _name_stages(means: Mapping[str, list[float]]) -> dict[str, float]:
    """Vectors become one name a stage; every stage's margin between real and fake is added."""
    named: dict[str, float] = {}
    for name, values in means.items():
        if name.startswith("scores/"):
            named |= {f"{name}/stage_{stage}": value for stage, value in enumerate(values, start=1)}
        else:
            named[name] = values[0]
    pairs = zip(means["scores/real"], means["scores/fake"], strict=True)
    return named | {f"scores/margin/stage_{stage}": real - fake for stage, (real, fake) in enumerate(pairs, start=1)}
