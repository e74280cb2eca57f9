"""Another game is one new function and one entry: here a second discriminator, with the trainer as it is."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gan.build import (
    build_game,
    build_latents,
    build_loader,
    build_schedule,
    image_facts,
    image_record,
    prepare_images,
)
from gan.commands.launch import build_preview
from gan.config import Config, load_config
from gan.models.blocks.spectral_norm import update_spectral_norms
from gan.training.best import BestCheckpoint
from gan.training.checkpoint import Checkpoints, checkpoint_paths, read_checkpoint
from gan.training.diagnostics import Observation
from gan.training.ema import ExponentialMovingAverage
from gan.training.steps import Game, discriminator_step, generator_gradients
from gan.training.tracking import SilentTracker
from gan.training.trainer import Trainer
from tests import DEFAULT
from tests.test_training import TINY, same

CPU = torch.device("cpu")


def second_discriminator(config: Config, game: Game) -> Game:
    """The same game against another discriminator, with noise of its own."""
    other = build_game(config.model_copy(update={"seed": config.seed + 1}), image_facts(config), CPU)
    shared = {name: getattr(game, name) for name in ("generator", "generator_optimizer", "fakes")}
    return replace(other, **shared)


def step_of_both(games: tuple[Game, Game], *batch: Tensor | None) -> tuple[dict[str, Tensor], Observation]:
    """Each discriminator takes its own step."""
    (values, seen), (others, _) = (discriminator_step(game, *batch) for game in games)
    return values | {f"second/{name}": value for name, value in others.items()}, seen


def step_against_both(games: tuple[Game, Game], *batch: Tensor | None) -> dict[str, Tensor]:
    """min_G of the sum of both losses."""
    update_spectral_norms(games[0].generator)
    update = games[0].update("generator", games[0].generator_optimizer)
    return update.step([generator_gradients(game, *rows) for rows in update.micro_batches(*batch) for game in games])


def entry(second: Game) -> dict[str, Any]:
    """What is saved and scheduled beside the first game's parts."""
    names = ("discriminator", "discriminator_optimizer", "regularizers", "augmentation", "noise")
    return {f"second_{name}": second.parts[name] for name in names}


ADDITION: list[Callable[..., Any]] = [second_discriminator, step_of_both, step_against_both, entry]


def make_trainer(folder: Path, steps: int) -> Trainer:
    overrides = [*TINY, f"data.root={folder / 'data'}", f"training.steps={steps}", "training.precision=float32"]
    config = load_config(DEFAULT, overrides)
    facts, store = image_facts(config), prepare_images(config.data)
    game = build_game(config, facts, CPU)
    games = (game, second_discriminator(config, game))
    checkpoints = Checkpoints(folder / "checkpoints", keep=9)
    return Trainer(
        game=game,
        discriminator_step=partial(step_of_both, games),
        generator_step=partial(step_against_both, games),
        parts={**game.parts, **entry(games[1])},
        ema=ExponentialMovingAverage(game.generator, config.ema.decay),
        batches=build_loader(config, store, CPU),
        latents=build_latents(config, facts, CPU),
        schedule=build_schedule(config),
        tracker=SilentTracker(),
        checkpoints=checkpoints,
        preview=build_preview(config, image_record(facts, store)),
        evaluate=None,
        best=BestCheckpoint(checkpoints, None),
    )


def test_a_second_discriminator_is_under_forty_lines() -> None:
    assert sum(len(inspect.getsource(part).splitlines()) for part in ADDITION) < 40


def test_a_second_discriminator_trains_and_is_saved_and_resumed(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    whole = make_trainer(tmp_path, 6)
    before = whole.state_dict()["second_discriminator"]
    before = {name: value.clone() for name, value in before.items()}
    assert whole.train()
    third, sixth = map(read_checkpoint, checkpoint_paths(tmp_path / "checkpoints"))
    assert (third["step"], sixth["step"]) == (3, 6)
    moved = [not torch.equal(value, before[name]) for name, value in sixth["second_discriminator"].items()]
    assert any(moved) and not same(sixth["discriminator"], sixth["second_discriminator"])
    assert sixth["second_noise"]["steps"] == {"discriminator": 12, "generator": 0}

    again = make_trainer(tmp_path, 6)
    again.load_state_dict(third)
    assert again.train()
    state = again.state_dict()
    assert all(same(state[name], sixth[name]) for name in state if name != "elapsed")


def test_the_generator_steps_along_the_sum_of_both_gradients(tmp_path: Path) -> None:
    config = load_config(DEFAULT, [*TINY, "training.precision=float32"])
    game = build_game(config, image_facts(config), CPU)
    games = (game, second_discriminator(config, game))
    images, latents = torch.zeros(4, 1, 32, 32), torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    fakes = game.generator(latents)
    parameters = list(game.generator.parameters())
    gradients = torch.autograd.grad(-sum(one.discriminator(fakes).mean() for one in games), parameters)
    step_against_both(games, latents, None, images, None)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)
