"""Everything else that a run needs: the game, data, random numbers, schedule."""

from functools import partial
from typing import TypeVar

import torch
from torch import nn

from gan import distributed
from gan.build.images import ImageFacts
from gan.build.objective import build_augmentation, build_loss, build_regularizers, build_stage_weights, build_top_k
from gan.build.players import build_discriminator, build_generator
from gan.config import Config, OptimizerConfig
from gan.data.loader import Loader
from gan.data.sources import source_info
from gan.data.stacked_mnist import StackedLoader
from gan.data.store import ImageStore
from gan.device import make_autocast, resolve_precision
from gan.errors import UserError
from gan.metrics.table import require_metrics
from gan.seeds import derive_seed
from gan.training.accumulation import Accumulation
from gan.training.batch_norm import has_batch_norms, synchronise_batch_norms
from gan.training.fakes import Fakes
from gan.training.latents import Latents
from gan.training.noise import Noise
from gan.training.schedule import Schedule
from gan.training.steps import Game
from gan.training.trainer import Batches

Network = TypeVar("Network", bound=nn.Module)


def build_game(config: Config, facts: ImageFacts, device: torch.device) -> Game:
    """Players on `device`, their optimisers and losses."""
    require_metrics(config.evaluation.metrics)  # scored in the end: a misspelt name is not to wait until then
    precision = resolve_precision(config.training.precision, device)
    layout = torch.channels_last if config.training.channels_last else torch.contiguous_format
    generator = _over_ranks(build_generator(config, facts), config, device).to(device).to(memory_format=layout)
    discriminator = _over_ranks(build_discriminator(config, facts), config, device).to(device).to(memory_format=layout)
    if config.training.compile:
        for network in (generator, discriminator.backbone, discriminator.head):
            network.compile(fullgraph=True, dynamic=False)
    stage_weights = build_stage_weights(config, discriminator.stages).to(device)
    rates = config.optimizer
    return Game(
        generator=generator,
        discriminator=discriminator,
        fakes=Fakes(generator, config.training.shared_latents),
        generator_optimizer=_adam([generator], rates.generator_lr, rates),
        discriminator_optimizer=_adam([discriminator, stage_weights], rates.discriminator_lr, rates),
        loss=build_loss(config),
        stage_weights=stage_weights,
        generator_stages=1 if config.objective.generator_stages == "first" else discriminator.stages,
        top_k=build_top_k(config),
        regularizers=build_regularizers(config, discriminator).to(device),
        augmentation=build_augmentation(config).to(device),
        noise=Noise(derive_seed(config.seed, "noise"), device),
        autocast=make_autocast(precision, device),
        accumulation=build_accumulation(config),
    )


def build_accumulation(config: Config) -> Accumulation:
    """How a batch is split into micro-batches.

    Raises:
        UserError: they would not be equal.
    """
    accumulation = Accumulation(config.training.accumulation, distributed.rank(), distributed.world_size())
    accumulation.require_divisible(config.training.batch_size)
    packing = config.discriminator.packing
    part = config.training.batch_size // (accumulation.world_size * accumulation.micro_batches)
    if part % packing:
        raise UserError(f"discriminator.packing: {packing} found, divisors of {part}, a micro-batch, accepted")
    return accumulation


def _over_ranks(network: Network, config: Config, device: torch.device) -> Network:
    """`network` with its batch norms over all ranks, where the config says so."""
    if not config.training.sync_batch_norm or distributed.world_size() == 1 or not has_batch_norms(network):
        return network
    if config.training.compile:
        raise UserError(
            "training.compile: true found; with sync_batch_norm and several processes, whose batch norms wait for each "
            "other, false accepted"
        )
    return synchronise_batch_norms(network, device)


def _adam(modules: list[nn.Module], lr: float, section: OptimizerConfig) -> torch.optim.Adam:
    parameters = [parameter for module in modules for parameter in module.parameters()]
    first, second = section.betas
    return torch.optim.Adam(parameters, lr, (first, second), section.epsilon, fused=True)


def build_loader(config: Config, store: ImageStore, device: torch.device) -> Batches:
    """Batches of real images on `device`.

    Raises:
        UserError: images that are composed as they are drawn are to be flipped.
    """
    flip = source_info(config.data.source).flip_sensible if config.data.flip is None else config.data.flip
    if store.parts is not None and flip:
        raise UserError(f"data.flip: true found; {config.data.source} takes false")
    build = partial(Loader, flip=flip) if store.parts is None else StackedLoader
    return build(
        store,
        config.training.batch_size // distributed.world_size(),
        device,
        seed=derive_seed(config.seed, "data"),
        channels_last=config.training.channels_last,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
    )


def build_latents(config: Config, facts: ImageFacts, device: torch.device) -> Latents:
    """What the generator is given in training."""
    return Latents(
        config.seed,
        device,
        config.generator.latent_dim,
        facts.num_classes,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
    )


def build_schedule(config: Config) -> Schedule:
    """When things happen."""
    return Schedule(
        steps=config.training.steps,
        discriminator_steps=config.training.discriminator_steps,
        learning_rate=config.optimizer.schedule,
        log_every=config.logging.scalars_every,
        sample_every=config.logging.samples_every,
        save_every=config.checkpoint.every,
        evaluate_every=config.evaluation.every,
    )
