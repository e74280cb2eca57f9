"""What the config's `schedules` move, and where each setting lies in a game."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from gan.config import Config
from gan.objectives.regularizers import Scheduled
from gan.training.ema import ExponentialMovingAverage
from gan.training.motion import Motion
from gan.training.steps import Game


def build_motions(config: Config, game: Game, ema: ExponentialMovingAverage) -> dict[str, Motion]:
    """By the keys of the config that move."""
    motions = {}
    for key, section in config.schedules.items():
        start, end = (value if isinstance(value, list) else [value] for value in (config.value(key), section.to))
        motions[key] = Motion(start, end, section.images, section.shape, _place(key, config, game, ema))
    return motions


def build_ema(config: Config, generator: nn.Module) -> ExponentialMovingAverage:
    """The average of the generator that is sampled and scored."""
    section = config.ema
    decay = section.decay if section.half_life is None else ema_decay(section.half_life, images_per_step(config))
    return ExponentialMovingAverage(generator, decay, section.warm_up)


def images_per_step(config: Config) -> int:
    """Real images that the discriminator sees from one step of the generator to the next."""
    return config.training.batch_size * config.training.discriminator_steps


def ema_decay(half_life: float, images: int) -> float:
    """d of a step with so many images, which halves a weight after `half_life` of them; 0 for a half-life of 0."""
    return 0.5 ** (images / half_life) if half_life > 0 else 0.0


def _place(key: str, config: Config, game: Game, ema: ExponentialMovingAverage) -> Callable[..., object]:
    """What puts the numbers of `key` where training reads them."""
    if key.startswith("objective.regularizers."):
        term = game.regularizers.terms[key.split(".")[2]]
        assert isinstance(term, Scheduled)
        return partial(setattr, term, "weight")
    places: dict[str, Callable[..., object]] = {
        "optimizer.generator_lr": partial(_set_rate, [game.generator_optimizer]),
        "optimizer.discriminator_lr": partial(_set_rate, [game.discriminator_optimizer]),
        "optimizer.betas": partial(_set_betas, [game.generator_optimizer, game.discriminator_optimizer]),
        "augmentation.probability": game.augmentation.probability.fill_,
        "ema.decay": partial(setattr, ema, "decay"),
        "ema.half_life": lambda value: setattr(ema, "decay", ema_decay(value, images_per_step(config))),
    }
    return places[key]


def _set_rate(optimizers: list[torch.optim.Optimizer], rate: float) -> None:
    """What `optimizer.schedule` multiplies."""
    for group in _groups(optimizers):
        group["base_lr"] = rate


def _set_betas(optimizers: list[torch.optim.Optimizer], *betas: float) -> None:
    for group in _groups(optimizers):
        group["betas"] = betas


def _groups(optimizers: list[torch.optim.Optimizer]) -> list[dict[str, Any]]:
    return [group for optimizer in optimizers for group in optimizer.param_groups]
