"""A run from its config to its scores: what train.py does once the command line is read."""

import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

from gan import distributed
from gan.allocator import keep_freed_memory
from gan.build import (
    ImageRecord,
    build_ema,
    build_game,
    build_latents,
    build_loader,
    build_motions,
    build_schedule,
    image_facts,
    image_record,
    prepare_images,
    recorded_images,
)
from gan.commands.initial_weights import initial_weights
from gan.config import Config
from gan.data.loader import real_batch
from gan.data.store import ImageStore
from gan.device import resolve_precision
from gan.errors import BusyError, NonFiniteError, UserError
from gan.files import write_text
from gan.metrics.results import Result, format_table
from gan.metrics.table import METRICS
from gan.sampling.latents import LatentStream
from gan.sampling.open import read_config
from gan.sampling.pictures import labels_in_rows, spread_classes
from gan.scoring.saved_results import drop_results, load_result, save_result, yardstick
from gan.scoring.scorer import Scorer
from gan.seeds import seeded_generator
from gan.training.best import BestCheckpoint
from gan.training.board import board_settings
from gan.training.checkpoint import Checkpoints, checkpoint_paths, read_checkpoint
from gan.training.interrupt import StopSignals
from gan.training.preview import Preview
from gan.training.run_directory import RunDirectory, run_identity
from gan.training.steps import discriminator_step, generator_step
from gan.training.tracking import LOG, SilentTracker, Tracker, is_logged
from gan.training.trainer import Trainer, has_numbers


def launch(config: Config, device: torch.device, out: Path, resume_command: str, init_from: Path | None = None) -> bool:
    """Train `config` in the run directory `out`, from its newest checkpoint if it has one, then score the result.

    Args:
        init_from: the run, or its checkpoint, whose weights a new run begins with.

    Returns:
        Whether all is done; False where a signal came first, with the state saved.

    Raises:
        UserError: something the config names cannot be had; raised before anything is written to `out`.
        NonFiniteError: training diverged.
        StorageError: `out` cannot be written.
    """
    keep_freed_memory()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # what captures and compiles asks for the current one
    precision = resolve_precision(config.training.precision, device)
    run = RunDirectory(out)
    weights = initial_weights(run, init_from, config.training.init_from)
    known = {"precision": precision, "init_from": weights.origin}
    config = config.model_copy(update={"training": config.training.model_copy(update=known)})
    facts = image_facts(config)
    game = build_game(config, facts, device)
    weights.load_players(game.generator, game.discriminator)
    store = prepare_images(config.data)
    identity = run_identity(config.model_dump(exclude_defaults=True))
    newest = run.newest_checkpoint()
    state = distributed.from_main(_saved_state(run, config, store) if distributed.is_main() else None)
    if state is not None and _is_done(run, config, state):
        return True
    scored = config.evaluation.at_end or config.evaluation.every > 0
    record = image_record(facts, store)
    # Before training, should weights be missing.
    scorer = Scorer(config, record.class_names, device) if scored else None
    batches = build_loader(config, store, device)

    main = distributed.is_main()
    checkpoints = Checkpoints(run.checkpoints, config.checkpoint.keep, identity, main, record.model_dump())
    settings = board_settings(config.model_dump(), config.to_yaml(), game.discriminator.head)
    with run.claimed() if main else nullcontext():
        if main:
            if run.newest_checkpoint() != newest:  # The directory is held now, and was not when the state was read.
                raise BusyError(
                    f"--out {out}: another process has trained in it meanwhile; the same command goes on there"
                )
            _make_ready(run, config, state, checkpoints)
        ema = build_ema(config, game.generator)
        trainer = Trainer(
            game=game,
            discriminator_step=partial(discriminator_step, game),
            generator_step=partial(generator_step, game),
            parts=game.parts,
            ema=ema,
            batches=batches,
            latents=build_latents(config, facts, device),
            schedule=replace(build_schedule(config), motions=build_motions(config, game, ema)),
            tracker=Tracker(out, state["step"] if state else -1, settings) if main else SilentTracker(),
            checkpoints=checkpoints,
            preview=build_preview(config, record),
            evaluate=partial(scorer.score, weights="ema") if scorer else None,
            best=_best_checkpoint(config, checkpoints),
        )
        weights.load_average(trainer.ema.average)
        _warn_of_busy_cores(device)
        _begin(trainer, config, store, state, f"{out} on {_where(device, precision)}")
        try:
            summary = _finish(trainer, config, run, scorer) if _train(trainer, config, run, store) else None
        finally:
            trainer.tracker.close()
    if summary is None:
        _say(f"stopped and saved at step {trainer.step}; to go on: {resume_command}", err=True)
    else:
        _say(summary)
    return summary is not None


def _is_done(run: RunDirectory, config: Config, state: Mapping[str, Any]) -> bool:
    """Whether a run has come to its last step and is scored as it should be; if so, that is said."""
    step = state["step"]
    if step < config.training.steps:
        return False
    result = load_result(run.evaluations, step, config.evaluation) if distributed.is_main() else None
    logged = result is not None and is_logged(run.path / LOG, step, result.metrics)
    done: bool = distributed.from_main(logged or not config.evaluation.at_end)
    if done:
        _say(_summary(run, step, state["elapsed"], state["recoveries"], result))
    return done


def _make_ready(run: RunDirectory, config: Config, state: Mapping[str, Any] | None, checkpoints: Checkpoints) -> None:
    """Write the config, and remove what belongs to steps after `state`, which are played anew."""
    drop_results(run.evaluations, -1 if state is None else state["step"])
    if state is not None:
        _tell_of_another_decay(run, config, state["step"])
        checkpoints.prune()
    write_text(run.config, config.to_yaml())


def _saved_state(run: RunDirectory, config: Config, store: ImageStore) -> dict[str, Any] | None:
    """The newest checkpoint of the run, if it has one; a run of another config or of other images is refused."""
    newest = run.newest_checkpoint()
    if newest is None:
        _require_own_config(run, config)
        return None
    before = config
    if run.config.exists():  # without it the checkpoint still knows whose it is
        before = read_config(run, {})
        run.require_same(config.model_dump(), before.model_dump())
    try:
        state = read_checkpoint(newest)
    except UserError as error:
        others = checkpoint_paths(run.checkpoints)[:-1]
        remedy = f"without it the run goes on from {others[-1].name}" if others else "there is no earlier one"
        raise UserError(f"{error}; {remedy}") from error
    images = recorded_images(state)
    # Where no images are recorded their place, as it was then, is a part of the identity.
    if state.get("run") != run_identity(before.model_dump(exclude_defaults=True), places=images is None):
        raise UserError(f"checkpoint {newest}: saved by a run of another config; choose another directory")
    if not has_numbers(state):
        raise UserError(f"checkpoint {newest}: counts and times that no training has come to")
    if images is not None and images.content_hash != store.content_hash:
        raise UserError(
            f"--out {run.path} holds a run on other images (their SHA-256 was {images.content_hash[:16]}…, that of "
            f"{config.data.path or config.data.source} is {store.content_hash[:16]}…); choose another directory"
        )
    if state["step"] > config.training.steps:
        raise UserError(
            f"training.steps: {config.training.steps} found, but the run in {run.path} is at step {state['step']} "
            f"already; accepted: {state['step']} or more, or another directory"
        )
    return state


def _require_own_config(run: RunDirectory, config: Config) -> None:
    """Refuse to replace a config.yaml that no run has written: beside it is no log, and it is not the text of `config`,
    as that of a run is that was killed before it had a log.
    """
    if not run.config.is_file() or (run.path / LOG).exists():
        return
    if run.config.read_bytes() != config.to_yaml().encode():
        raise UserError(
            f"--out {run.path}: config.yaml there is of no run, and would be replaced; choose another directory"
        )


def _tell_of_another_decay(run: RunDirectory, config: Config, step: int) -> None:
    """Say what becomes of learning rates that decay to the end of a run, where that end has moved."""
    before = read_config(run, {}) if run.config.exists() else config
    old, new = build_schedule(before), build_schedule(config)
    shares = [schedule.learning_rate_factor(step) for schedule in (old, new)]
    if shares[0] != shares[1]:
        _say(
            f"training.steps: {old.steps} before, {new.steps} now: by optimizer.schedule: {new.learning_rate} the "
            f"learning rates go from {shares[0]:.1%} of their first value to {shares[1]:.1%} at step {step}, and reach "
            f"0 at step {new.steps}",
            err=True,
        )


def _warn_of_busy_cores(device: torch.device) -> None:
    """Threads wait for each other in every operation: where others hold their cores, one alone is many times faster."""
    load, cores = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, os.cpu_count() or 1
    if device.type == "cpu" and torch.get_num_threads() > 1 and load > 1.5 * cores:
        _say(f"load {load:.0f} on {cores} cores: with OMP_NUM_THREADS=1 this may be many times faster", err=True)


def _begin(trainer: Trainer, config: Config, store: ImageStore, state: Mapping[str, Any] | None, where: str) -> None:
    """From the saved state, or from the first step."""
    if state is not None:
        load_state(trainer, state)
        _say(f"resuming {where} at step {trainer.step}", err=True)
        if distributed.is_main() and (missing := trainer.logged - trainer.tracker.logged) > 0:
            lines = f"{missing} of {trainer.logged} lines up to step {trainer.step}"
            _say(f"metrics.jsonl: {lines} are missing or damaged; the run goes on without them", err=True)
        return
    game = trainer.game
    distributed.broadcast([*game.generator.state_dict().values(), *game.discriminator.state_dict().values()])
    distributed.broadcast([*trainer.ema.average.state_dict().values()])
    if distributed.is_main():
        _show_start(trainer, config, store)
    _say(f"training {where}", err=True)


def load_state(trainer: Trainer, state: Mapping[str, Any]) -> None:
    """Load a state; one whose digest is right may still be made by hand, and then fail in any way."""
    try:
        trainer.load_state_dict(state)
    except Exception as error:
        problem = " ".join(str(error).split())
        raise UserError(f"checkpoint of step {state['step']}: no state of such a run ({problem:.120})") from error


def _where(device: torch.device, precision: str) -> str:
    processes = distributed.world_size()
    return f"{device} in {precision}" if processes == 1 else f"{processes} × {device.type} in {precision}"


def _train(trainer: Trainer, config: Config, run: RunDirectory, store: ImageStore) -> bool:
    """Train to the end, going back to the newest checkpoint as often as the config allows."""
    while True:
        try:
            return trainer.train()
        except NonFiniteError as error:
            if trainer.recoveries >= config.training.recoveries:
                raise
            state = distributed.from_main(_saved_state(run, config, store) if distributed.is_main() else None)
            if state is None:
                raise
            trainer.recover(state)
            count = f"recovery {trainer.recoveries} of {config.training.recoveries}"
            _say(f"{error}; going on from step {trainer.step} with other random numbers, {count}", err=True)


def _show_start(trainer: Trainer, config: Config, store: ImageStore) -> None:
    """Log what real images look like."""
    count, preview = min(config.logging.sample_count, store.num_images), trainer.preview
    images, labels = real_batch(store, count, config.seed, preview.labels)
    shown = preview.arrange(images, None if preview.labels is None else labels)
    trainer.tracker.grid(0, "real", shown)


def _finish(trainer: Trainer, config: Config, run: RunDirectory, scorer: Scorer | None) -> str | None:
    """Score the finished run; returns what to tell its user, None where a request to stop came first.

    An earlier start may have kept a result and ended before it was logged.
    """
    result = None
    if config.evaluation.at_end and scorer is not None:
        result = _kept_result(run, trainer.step, config)
        if result is None:
            if trainer.stopped:
                return None
            with StopSignals(patient=distributed.world_size() > 1) as stop:
                result = stop.unless_requested(lambda: scorer.score(trainer.ema.average, "ema"))
            if result is None:
                return None
            if distributed.is_main():
                save_result(run.evaluations, trainer.step, result, config.evaluation)
        trainer.record_scores(result, result.seconds)
    trainer.tracker.finish(trainer.step)
    return _summary(run, trainer.step, trainer.elapsed, trainer.recoveries, result)


def _kept_result(run: RunDirectory, step: int, config: Config) -> Result | None:
    """On every rank the result that is there."""
    kept = load_result(run.evaluations, step, config.evaluation) if distributed.is_main() else None
    values = distributed.from_main(None if kept is None else kept.to_dict())
    return None if values is None else Result.from_dict(values)


def build_preview(config: Config, images: ImageRecord) -> Preview:
    """Fixed latents; with classes, their labels class by class."""
    count = config.logging.sample_count
    random = seeded_generator(config.seed, "preview")
    latents, _ = LatentStream(config.generator.latent_dim, None, random).next(count)
    if images.num_classes is None:
        return Preview(latents, None, ())
    return Preview(latents, labels_in_rows(spread_classes(images.num_classes, count), count), images.class_names)


def _best_checkpoint(config: Config, checkpoints: Checkpoints) -> BestCheckpoint:
    """By the first number of the metric that the config names."""
    if config.evaluation.best is None:
        return BestCheckpoint(checkpoints, None)
    metric = METRICS[config.evaluation.best]
    return BestCheckpoint(checkpoints, metric.keys[0], metric.higher_is_better, yardstick(config.evaluation))


def _summary(run: RunDirectory, step: int, seconds: float, recoveries: int, result: Result | None) -> str:
    """Scores, and where everything is."""
    if result is None:
        scores = "not scored: evaluation.at_end is false"
    else:
        reference = result.protocol.reference
        against = f"against {reference.count:,} images of {reference.name} {reference.split}"
        scores = f"{format_table({str(run.path): result})}\n{against}"
    returns = f", {recoveries} recoveries from non-finite values" if recoveries else ""
    return (
        f"{scores}\n\n"
        f"run            {run.path} ({step} steps, {seconds / 60:.1f} minutes of training{returns})\n"
        f"sample grid    {run.path / 'samples' / f'samples_{step:08d}.png'}\n"
        f"TensorBoard    tensorboard --logdir {run.path}"
    )


def _say(message: str, err: bool = False) -> None:
    """Of several processes one speaks."""
    if distributed.is_main():
        click.echo(message, err=err)
