"""The loop: play, average, log, sample, evaluate, save."""

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from gan import distributed
from gan.errors import NonFiniteError
from gan.metrics.results import Result, score_tags
from gan.progress import lasting_bar, leave_out
from gan.training import diagnostics
from gan.training.best import BestCheckpoint
from gan.training.checkpoint import Checkpoints
from gan.training.diagnostics import DEAD_AUC, DeadStageAlarm, Observation
from gan.training.ema import ExponentialMovingAverage
from gan.training.interrupt import StopSignals
from gan.training.latents import Latents
from gan.training.preview import Preview
from gan.training.schedule import Clock, Schedule
from gan.training.state import Batches, Restartable, Stateful, is_amount, is_count, load_optimizer
from gan.training.steps import Game
from gan.training.tracking import ELAPSED, Averages, Tracker

Evaluate = Callable[[nn.Module], Result]
DiscriminatorStep = Callable[[Tensor, Tensor | None, Tensor, Tensor | None], tuple[dict[str, Tensor], Observation]]
GeneratorStep = Callable[[Tensor, Tensor | None, Tensor, Tensor | None], dict[str, Tensor]]
_NUMBERS = ("step", "elapsed", "recoveries", "unscored", "logged")  # the trainer's own state


class Trainer:
    """Plays a game until its last step, from wherever its state is.

    Of several ranks each plays its share of every batch; their states are the same all through, and the main one alone
    writes: the others' tracker and checkpoints are silent.

    Args:
        game: players, optimisers and losses, to be observed.
        discriminator_step: one update, on real images and labels, latents and labels.
        generator_step: one update, on latents and labels, real images and labels.
        parts: all that the steps change, by name; the optimisers among it follow the schedule.
        ema: the average of the generator that is sampled and evaluated.
        batches: real images.
        latents: what the generator is given.
        schedule: when what happens.
        tracker: where scalars and grids go.
        checkpoints: where states go.
        preview: what the sample grids show.
        evaluate: scores of a generator, which must leave all random states as they were; None where nothing is scored.
        best: keeps the state with the best score.
    """

    def __init__(
        self,
        game: Game,
        discriminator_step: DiscriminatorStep,
        generator_step: GeneratorStep,
        parts: Mapping[str, Stateful],
        ema: ExponentialMovingAverage,
        batches: Batches,
        latents: Latents,
        schedule: Schedule,
        tracker: Tracker,
        checkpoints: Checkpoints,
        preview: Preview,
        evaluate: Evaluate | None,
        best: BestCheckpoint,
    ) -> None:
        self.game = game
        self.ema = ema
        self.schedule = schedule
        self.tracker = tracker
        self.checkpoints = checkpoints
        self.preview = preview
        self.evaluate = evaluate
        self.best = best
        self.step = 0
        self.elapsed = 0.0  # seconds of training, pauses left out
        self.recoveries = 0  # returns to a checkpoint after values that were not finite
        self.logged = 0  # lines that training wrote to the log
        self.unscored = False  # whether the scores of this step are still to be had
        self.stopped = False  # whether a request to stop ended `train`
        self._discriminator_step = discriminator_step
        self._generator_step = generator_step
        self._batches = batches
        self._latents = latents
        self._averages = Averages(game.discriminator.head.stages)
        self._alarm = DeadStageAlarm()
        self._timed_from = 0  # the step after which the log's clock began
        self.parts: dict[str, Stateful] = {
            **parts,
            "ema": ema.average,
            "batches": batches,
            "latents": latents,
            "best": best,
            "averages": self._averages,
            "alarm": self._alarm,
        }
        self._optimizers = [part for part in parts.values() if isinstance(part, torch.optim.Optimizer)]

    def train(self) -> bool:
        """Train to the last step; returns whether it was reached (False after an interrupt, with the state saved).

        `stopped` is then whether a request to stop came, be it in the last step.

        Raises:
            NonFiniteError: a loss was not finite; the state is saved beside the checkpoints.
        """
        schedule = self.schedule
        progress = lasting_bar(schedule.steps, None, "steps", initial=self.step, shown=distributed.is_main())
        if self.step == 0:
            self.sample()
            self.unscored = schedule.evaluate_every > 0
        clock = Clock(next(self.game.generator.parameters()).device)
        self._timed_from = self.step

        def aside(action: Callable[[], Any]) -> None:
            leave_out(progress, clock.pause(action))

        with StopSignals(patient=distributed.world_size() > 1) as stop, progress:
            aside(lambda: self._score(stop))  # at the start, or where an earlier one was left off
            stopped = distributed.any_rank(stop.requested)
            while self.step < schedule.steps and not stopped:
                # Play
                schedule.move(self.step)
                schedule.set_learning_rates(self._optimizers, self.step)
                for _ in range(schedule.discriminator_steps):
                    self._play_discriminator()
                self._play_generator()
                self.step += 1
                self.ema.update(self.step)
                progress.update()

                # Log
                if schedule.due(self.step, schedule.log_every):
                    self._log(progress, clock)

                # Sample, evaluate
                if schedule.due(self.step, schedule.sample_every):
                    aside(self.sample)
                if schedule.evaluate_every and self.step % schedule.evaluate_every == 0 and self.step < schedule.steps:
                    self.unscored = True
                    aside(lambda: self._score(stop))

                # Save
                if schedule.due(self.step, schedule.save_every):
                    self.elapsed += clock.lap()
                    aside(self.save)
                stopped = distributed.any_rank(stop.requested)
            if stopped and 0 < self.step < schedule.steps:
                self.elapsed += clock.lap()
                self.save()
        self.stopped = stopped
        return self.step == schedule.steps

    def sample(self) -> None:
        """Log the preview grid of the average generator."""
        if not distributed.is_main():
            return
        device = next(self.ema.average.parameters()).device
        latents, labels = self.preview.latents.to(device), self.preview.labels
        with self.game.autocast():
            images = self.ema.average(latents, None if labels is None else labels.to(device))
        self.tracker.grid(self.step, "samples", self.preview.arrange(images, labels))

    def save(self) -> Path:
        """Write a checkpoint of everything, with the log up to it on the disk; returns its file.

        Raises:
            NonFiniteError: something of the steps since the last line of the log was not finite, and nobody is to go
                on from there.
        """
        self._require_finite(self._averages.totals() | self._gradient_norms())
        self.tracker.sync()
        return self.checkpoints.save(self.step, self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        return numbers | {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken; one of another trainer fails in whatever way its parts do."""
        for name in _NUMBERS:
            setattr(self, name, state[name])
        self.schedule.move(max(0, self.step - 1))  # where the optimisers were when it was taken
        for name, part in self.parts.items():
            if isinstance(part, torch.optim.Optimizer):
                load_optimizer(part, state[name])
            else:
                part.load_state_dict(state[name])

    def record_scores(self, result: Result, seconds: float) -> None:
        """Keep the state if it is the best so far; then log the scores, which so are a sign that all is done."""
        if self.best.consider(self.step, result.metrics, self.state_dict) and self.step == self.schedule.steps:
            self.save()  # the last checkpoint was written before its score was known, and may be gone on from
        self.tracker.scores(self.step, result.metrics, seconds, score_tags(result))

    def recover(self, state: Mapping[str, Any]) -> None:
        """Go back to `state` and on from there with other random numbers."""
        recoveries = self.recoveries + 1
        self.load_state_dict(state)
        self.recoveries = recoveries
        for part in self.parts.values():
            if isinstance(part, Restartable):
                part.restart("recovery", recoveries)
        self.tracker.rewind(self.step)

    def _score(self, stop: StopSignals) -> None:
        """Score the average generator where that is to be done; a request to stop leaves it for the next start."""
        start, evaluate = time.perf_counter(), self.evaluate
        if evaluate is None or not self.unscored:
            self.unscored = False
        elif (result := stop.unless_requested(lambda: evaluate(self.ema.average))) is not None:
            self.unscored = False
            self.record_scores(result, time.perf_counter() - start)

    def _play_discriminator(self) -> None:
        images, labels = self._batches.next_batch()
        latents, fake_labels = self._latents.next("discriminator", len(images))
        labels = labels if fake_labels is not None else None  # those of a labelled set, in unconditional training
        values, self._seen = self._discriminator_step(images, labels, latents, fake_labels)
        self._averages.add(values)
        self._real, self._given = (images, labels), (latents, fake_labels)

    def _play_generator(self) -> None:
        images, labels = self._real
        shared = self.game.fakes.shared
        latents, fake_labels = self._given if shared else self._latents.next("generator", len(images))
        self._averages.add(self._generator_step(latents, fake_labels, images, labels))

    def _log(self, progress: "tqdm[Any]", clock: "Clock") -> None:
        """Read the window's means from the device: the only place where the loop waits for it.

        Of several ranks all come to the same values, and so to the same end if these are not finite.
        """
        game, seen = self.game, diagnostics.gathered(self._seen)
        weights = game.stage_weights().detach()
        trained = weights * (torch.arange(len(weights), device=weights.device) < game.generator_stages)
        with torch.compiler.set_stance("force_eager"):  # not compiled anew for what is not trained
            stages = diagnostics.diagnose(game.discriminator.head, game.loss, trained, seen)
        self._averages.add({**self._gradient_norms(), **stages, "stages/weight": weights})
        means = self._averages.take()
        self._require_finite(means)
        with torch.compiler.set_stance("force_eager"):
            likeness = self._compare_stages(seen)
        values = diagnostics.name_stages(means)
        seconds, interval = clock.since_log(), self.step - self._timed_from
        self._timed_from = self.step
        images = interval * self.schedule.discriminator_steps * len(self._real[0]) * distributed.world_size()
        speed = {
            "speed/images_per_second": images / seconds,
            "speed/seconds_per_step": seconds / interval,
            ELAPSED: self.elapsed + clock.running(),
        }
        rates = {
            "learning_rate/generator": float(game.generator_optimizer.param_groups[0]["lr"]),
            "learning_rate/discriminator": float(game.discriminator_optimizer.param_groups[0]["lr"]),
        }
        moved = {f"schedules/{name}": value for name, value in self.schedule.moved(self.step - 1).items()}
        self.tracker.scalars(self.step, {**values, **likeness, **rates, **moved, **speed})
        self.logged += 1
        for stage in self._alarm.update(means["stages/auc"]):
            _say(f"stage {stage} is dead: it separates nothing at step {self.step} (AUC ≤ {DEAD_AUC})")
        progress.set_postfix(
            {
                "D": f"{means['loss/discriminator'][0]:.3f}",
                "G": f"{means['loss/generator'][0]:.3f}",
                "images/s": f"{speed['speed/images_per_second']:.0f}",
            },
            refresh=False,
        )

    def _gradient_norms(self) -> dict[str, Tensor]:
        return {
            "gradient_norm/generator": diagnostics.gradient_norm(self.game.generator),
            "gradient_norm/discriminator": diagnostics.gradient_norm(self.game.discriminator),
        }

    def _compare_stages(self, seen: Observation) -> dict[str, float]:
        """Log how alike the stages are, as images; returns it in numbers."""
        head = self.game.discriminator.head
        matrices = diagnostics.stage_matrices(head, seen) if head.stages > 1 else {}
        for name, matrix in matrices.items():
            self.tracker.matrix(self.step, name, matrix)
        return diagnostics.likeness(matrices) if matrices else {}

    def _require_finite(self, values: Mapping[str, Tensor | list[float]]) -> None:
        means = {name: list(torch.as_tensor(value).reshape(-1).tolist()) for name, value in values.items()}
        if (found := diagnostics.first_non_finite(means)) is not None:
            path = self.checkpoints.write(f"non_finite_{self.step:08d}.pt", self.state_dict())
            raise NonFiniteError(
                f"training stopped: {found} within the {self.schedule.log_every} steps up to {self.step}; the state is "
                f"in {path}"
            )


def has_numbers(state: Mapping[str, Any]) -> bool:
    """Whether the trainer's own entries in a state that was read are what they can be."""
    counts = all(is_count(state.get(name)) for name in ("step", "recoveries", "logged"))
    return counts and is_amount(state.get("elapsed")) and isinstance(state.get("unscored"), bool)


def _say(line: str) -> None:
    """One line above the bar, of one rank alone."""
    if distributed.is_main():
        tqdm.write(line, sys.stderr)
