"""The game, from what the players play for to how batches are drawn and when things happen."""

import math
from functools import partial
from typing import TypeVar

import torch
from torch import nn

from gan import distributed
from gan.build.motions import images_per_step
from gan.build.players import ImageFacts, build_discriminator, build_generator
from gan.build.room import require_room
from gan.config import Config, OptimizerConfig, construct
from gan.data.loader import Loader
from gan.data.sources import SOURCES
from gan.data.stacked_mnist import StackedLoader
from gan.data.store import ImageStore
from gan.device import make_autocast, resolve_precision
from gan.errors import UserError, nearest
from gan.metrics.table import require_metrics
from gan.models.blocks.spectral_norm import update_spectral_norms
from gan.models.discriminator import Discriminator
from gan.models.heads import HEADS
from gan.models.heads.stages import keep_bounded
from gan.objectives import REGULARIZERS
from gan.objectives.augmentation import Augmentation
from gan.objectives.losses import LOSSES, Loss
from gan.objectives.reduction import StageWeights, TopK, geometric
from gan.objectives.regularizers import Regularizers, Scheduled
from gan.seeds import derive_seed
from gan.training.accumulation import Accumulation
from gan.training.batch_norm import has_batch_norms, synchronise_batch_norms
from gan.training.execution import build_execution
from gan.training.fakes import Fakes
from gan.training.latents import Latents
from gan.training.noise import Noise
from gan.training.schedule import Schedule
from gan.training.state import Batches
from gan.training.steps import Game

Network = TypeVar("Network", bound=nn.Module)


def build_game(config: Config, facts: ImageFacts, device: torch.device) -> Game:
    """Players on `device`, their optimisers and losses.

    Raises:
        UserError: something that the config names cannot be had, or the players do not fit into memory.
    """
    require_metrics(config.evaluation.metrics)  # A misspelt name must not wait for the scores at the end.
    require_room(config, facts, device)
    precision = resolve_precision(config.training.precision, device)
    layout = torch.channels_last if config.training.channels_last else torch.contiguous_format
    generator, discriminator = build_generator(config, facts), build_discriminator(config, facts)
    generator = _over_ranks(generator, config, device).to(device).to(memory_format=layout)
    discriminator = _over_ranks(discriminator, config, device, twice=True).to(device).to(memory_format=layout)
    power_iterations = update_spectral_norms
    if config.training.compile:
        power_iterations = torch.compile(update_spectral_norms, fullgraph=True, dynamic=False)
        for network in (generator, discriminator.backbone, discriminator.head):
            network.compile(fullgraph=True, dynamic=False)
    stage_weights = build_stage_weights(config, discriminator.stages).to(device)
    rates, graphs = config.optimizer, config.training.cuda_graphs
    noise = Noise(derive_seed(config.seed, "noise"), device)
    return Game(
        generator=generator,
        discriminator=discriminator,
        fakes=Fakes(generator, config.training.shared_latents, power_iterations),
        generator_optimizer=_adam([generator], rates.generator_lr, rates, graphs),
        discriminator_optimizer=_adam([discriminator, stage_weights], rates.discriminator_lr, rates, graphs),
        loss=build_loss(config),
        stage_weights=stage_weights,
        generator_stages=1 if config.objective.generator_stages == "first" else discriminator.stages,
        top_k=build_top_k(config),
        regularizers=build_regularizers(config, discriminator).to(device),
        augmentation=build_augmentation(config).to(device),
        noise=noise,
        autocast=make_autocast(precision, device),
        accumulation=build_accumulation(config),
        execution=build_execution(graphs, device, [generator, discriminator, stage_weights], noise),
        update_spectral_norms=power_iterations,
    )


def build_accumulation(config: Config) -> Accumulation:
    """How a batch is split into micro-batches.

    Raises:
        UserError: they would not be equal.
    """
    accumulation = Accumulation(config.training.accumulation, distributed.rank(), distributed.world_size())
    accumulation.require_divisible(config.training.batch_size)
    packing = config.discriminator.packing
    if config.training.cuda_graphs and accumulation.world_size > 1:
        raise UserError("training.cuda_graphs: true found; with several processes false accepted")
    part = config.training.batch_size // (accumulation.world_size * accumulation.micro_batches)
    if part % packing:
        raise UserError(f"discriminator.packing: {packing} found, divisors of {part}, a micro-batch, accepted")
    return accumulation


def _over_ranks(network: Network, config: Config, device: torch.device, *, twice: bool = False) -> Network:
    """`network` with its batch norms over all ranks, if the config says so; `twice`: it is differentiated twice."""
    if not config.training.sync_batch_norm or distributed.world_size() == 1 or not has_batch_norms(network):
        return network
    if config.training.compile:
        raise UserError(
            "training.compile: true found; with sync_batch_norm and several processes, whose batch norms wait for each "
            "other, false accepted"
        )
    return synchronise_batch_norms(network, device, twice=twice)


def _adam(modules: list[nn.Module], lr: float, section: OptimizerConfig, graphs: bool) -> torch.optim.Adam:
    """Adam in one kernel; for graphs its rate is where they can read it, in float32, as that kernel takes it."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    first, second = section.betas
    rate = torch.tensor(lr, device=parameters[0].device) if graphs else lr
    adam = torch.optim.Adam(parameters, rate, (first, second), section.epsilon, fused=True, capturable=graphs)
    adam._warned_capturable_if_run_uncaptured = graphs  # the first steps are not captured, as they should be
    for group in adam.param_groups:
        group["base_lr"] = lr  # what a schedule's factor is of
    for module in modules:
        keep_bounded(adam, module)
    return adam


def build_loss(config: Config) -> Loss:
    """The adversarial loss."""
    section = config.objective.loss
    return construct(LOSSES, "objective.loss", section.name, section.options)


def build_stage_weights(config: Config, stages: int) -> StageWeights:
    """The weights of the stages' losses."""
    weights = config.objective.stage_weights
    if isinstance(weights, str):
        initial = geometric(stages) if weights == "geometric" else torch.ones(stages)
        return StageWeights(initial, learned=weights == "learned")
    if len(weights) != stages:
        raise UserError(f"objective.stage_weights: {len(weights)} weights found, {stages} accepted, one a stage")
    return StageWeights(torch.tensor(weights))


def build_top_k(config: Config) -> TopK:
    """Which of its samples the generator is trained on."""
    section = config.objective.top_k
    return TopK() if section is None else TopK(section.fraction, section.decay)


def build_regularizers(config: Config, discriminator: Discriminator) -> Regularizers:
    """The terms added to the players' losses."""
    terms = {}
    for name, section in config.objective.regularizers.items():
        key = f"objective.regularizers.{name}"
        if name not in REGULARIZERS:
            raise UserError(f"{key}: no such regulariser{nearest(name, REGULARIZERS)}")
        terms[name] = Scheduled(construct(REGULARIZERS, key, name, section.options), section.weight, section.interval)
    head, has_term = config.discriminator.head.name, "classification" in terms
    if has_term and not discriminator.head.classifies:
        fitting = ", ".join(name for name, other in HEADS.items() if other.classifies)
        raise UserError(
            f"objective.regularizers.classification: head {head!r} has no class logits; accepted: {fitting}"
        )
    if discriminator.head.classifies and not has_term:
        raise UserError(f"discriminator.head.name: {head!r} needs objective.regularizers.classification to train it")
    return Regularizers(terms)


def build_augmentation(config: Config) -> Augmentation:
    """What happens to images before the discriminator sees them.

    Raises:
        UserError: its probability is to follow the sign of scores that have no zero.
    """
    section = config.augmentation
    if section is None:
        return Augmentation()
    if section.target is not None and math.isnan(build_loss(config).boundary):
        raise UserError(
            f"augmentation.target: {section.target} found; with objective.loss {config.objective.loss.name}, whose "
            "scores have no zero, null accepted"
        )
    start = 1.0 if section.target is None else 0.0
    probability = start if section.probability is None else section.probability
    return Augmentation(section.operations, probability, section.target, section.images_to_full, section.shares)


def build_loader(config: Config, store: ImageStore, device: torch.device) -> Batches:
    """Batches of real images on `device`.

    Raises:
        UserError: as `flips_images`.
    """
    flip = flips_images(config)
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


def flips_images(config: Config) -> bool:
    """Whether half of the real images are mirrored.

    Raises:
        UserError: they are to be, but are composed as they are drawn.
    """
    source = SOURCES[config.data.source]
    flip = source.info.flip_sensible if config.data.flip is None else config.data.flip
    if flip and source.compose is not None:
        raise UserError(f"data.flip: true found; {config.data.source} takes false")
    return flip


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
        images_per_step=images_per_step(config),
    )
