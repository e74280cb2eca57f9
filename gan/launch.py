"""A run from its config to its scores: what train.py does once the command line is read."""

import json
from pathlib import Path
from typing import Any

import click
import torch

from gan.build import (
    build_game,
    build_loader,
    build_preview,
    build_schedule,
    build_streams,
    image_facts,
    prepare_images,
)
from gan.config import Config, parse_yaml
from gan.data.loader import real_batch
from gan.estimates import estimate
from gan.scoring import Scorer
from gan.training.checkpoint import Checkpoints, read_checkpoint
from gan.training.ema import ExponentialMovingAverage
from gan.training.precision import resolve_precision
from gan.training.run_directory import RunDirectory
from gan.training.tracking import Tracker
from gan.training.trainer import Trainer


def describe(config: Config, device: torch.device) -> str:
    """The resolved config and what a run of it will cost, as text."""
    costs = estimate(config, image_facts(config), device)
    days, seconds = divmod(costs.seconds_per_step * config.training.steps, 86400)
    hours, minutes = divmod(seconds / 60, 60)
    return (
        f"{config.to_yaml()}\n"
        f"generator parameters      {costs.generator_parameters:,}\n"
        f"discriminator parameters  {costs.discriminator_parameters:,}\n"
        f"arithmetic                {costs.flops_per_step / 1e9:,.1f} GFLOP a step\n"
        f"memory                    {costs.memory / 2**20:,.0f} MiB for states and activations\n"
        f"time                      {costs.seconds_per_step:.3g} s a step on {device}, "
        f"{days:.0f} d {hours:.0f} h {minutes:.0f} min in all, by a convolution's rate"
    )


def launch(config: Config, device: torch.device, out: Path, resume_command: str) -> None:
    """Train `config` in the run directory `out`, from its newest checkpoint if it has one, then score the result.

    Raises:
        UserError: something the config names cannot be had; raised before anything is written to `out`.
        NonFiniteError: training diverged.
        StorageError: `out` cannot be written.
    """
    precision = resolve_precision(config.training.precision, device)
    config = config.model_copy(update={"training": config.training.model_copy(update={"precision": precision})})
    facts = image_facts(config)
    game = build_game(config, facts, device)
    scorer = Scorer(config, facts, device)  # fails here, before training, where its weights cannot be had
    store = prepare_images(config)

    run = RunDirectory(out)
    with run.claimed():
        saved = parse_yaml(run.config.read_text(encoding="utf-8"), str(run.config)) if run.config.exists() else None
        run.adopt(config.model_dump(), config.to_yaml(), saved)
        newest = run.newest_checkpoint()
        state = read_checkpoint(newest) if newest else None
        tracker = Tracker(out, step=state["step"] if state else -1)
        trainer = Trainer(
            game=game,
            ema=ExponentialMovingAverage(game.generator, config.ema.decay, config.ema.warm_up),
            batches=build_loader(config, store, device),
            streams=build_streams(config, facts, device),
            schedule=build_schedule(config),
            tracker=tracker,
            checkpoints=Checkpoints(run.checkpoints, config.checkpoint.keep),
            preview=build_preview(config, facts),
            evaluate=lambda generator: scorer.score(generator, "ema").metrics,
        )
        if state is None:
            count = min(config.logging.sample_count, store.num_images)
            tracker.text("config", config.to_yaml())
            tracker.grid(0, "real", real_batch(store, count, config.seed)[0], trainer.preview.columns)
            click.echo(f"training {out} on {device} in {precision}", err=True)
        else:
            trainer.load_state_dict(state)
            click.echo(f"resuming {out} at step {trainer.step} on {device} in {precision}", err=True)
        finished = trainer.train()
        if not finished:
            tracker.close()
            click.echo(f"stopped and saved at step {trainer.step}; to go on: {resume_command}", err=True)
            return
        if config.evaluation.at_end:
            result = scorer.score(trainer.ema.average, "ema")
            ...
