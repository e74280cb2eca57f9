"""From names to things: the only place where a config becomes objects."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import nn

from gan.config import AttentionConfig, BackboneConfig, Config, DataConfig
from gan.data.loader import Loader
from gan.data.sources import source_info
from gan.data.store import ImageStore, prepare
from gan.device import make_autocast, resolve_precision
from gan.errors import UserError, nearest
from gan.models.attention import ATTENTION
from gan.models.biggan import BigGANBackbone, BigGANGenerator
from gan.models.dcgan import DCGANBackbone, DCGANGenerator
from gan.models.discriminator import Discriminator
from gan.models.heads import (
    AuxiliaryClassifierHead,
    CascadingRejection,
    Head,
    IndependentHeads,
    LinearHead,
    ProjectionHead,
)
from gan.models.placement import Placement
from gan.models.r3gan import R3GANBackbone, R3GANGenerator
from gan.models.sampling import LatentStream
from gan.models.slicing import MultidimensionalCritic, SlicedCascade, SlicingHead
from gan.models.sngan import SNGANBackbone, SNGANGenerator
from gan.objectives.augmentation import Augmentation
from gan.objectives.consistency import BalancedConsistency, LatentConsistency, LeCam
from gan.objectives.feature_terms import Classification, Contrastive, FeatureMatching, Orthogonal
from gan.objectives.gradient_penalties import R1, R2, GradientPenalty
from gan.objectives.losses import LOSSES, Loss
from gan.objectives.regularizers import Regularizer, Regularizers, Scheduled
from gan.objectives.stage_weights import StageWeights, geometric
from gan.objectives.top_k import TopK
from gan.seeds import derive_seed, seeded, seeded_generator
from gan.training.schedule import Schedule
from gan.training.steps import Game
from gan.training.streams import RandomStreams
from gan.training.trainer import Preview

GENERATORS: dict[str, Callable[..., nn.Module]] = {
    "dcgan": DCGANGenerator,
    "sngan": SNGANGenerator,
    "biggan": BigGANGenerator,
    "r3gan": R3GANGenerator,
}
BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "dcgan": DCGANBackbone,
    "sngan": SNGANBackbone,
    "biggan": BigGANBackbone,
    "r3gan": R3GANBackbone,
}
HEADS: dict[str, type[Head]] = {
    "linear": LinearHead,
    "projection": ProjectionHead,
    "auxiliary_classifier": AuxiliaryClassifierHead,
    "cascading_rejection": CascadingRejection,
    "independent": IndependentHeads,
    "san": SlicingHead,
    "sliced_cascade": SlicedCascade,
    "multidimensional": MultidimensionalCritic,
}

REGULARIZERS: dict[str, Callable[..., Regularizer]] = {
    "r1": R1,
    "r2": R2,
    "gradient_penalty": GradientPenalty,
    "balanced_consistency": BalancedConsistency,
    "latent_consistency": LatentConsistency,
    "lecam": LeCam,
    "orthogonal": Orthogonal,
    "contrastive": Contrastive,
    "feature_matching": FeatureMatching,
    "classification": Classification,
}

Built = TypeVar("Built")


@dataclass(frozen=True)
class ImageFacts:
    """What the players must know of the images; `num_classes` is None where training is unconditional."""

    resolution: int
    channels: int
    num_classes: int | None


def construct(
    registry: Mapping[str, Callable[..., Built]], key: str, name: str, options: Mapping[str, Any], **supplied: Any
) -> Built:
    """Call `registry[name]` with `options`, checked against its signature, and what the builder supplies.

    Raises:
        UserError: the name or an option is unknown, or an option has the wrong type or value; the key is named.
    """
    if name not in registry:
        raise UserError(f"{key}.name: no {name!r}{nearest(name, registry)}")
    parameters = inspect.signature(registry[name]).parameters
    accepted = [parameter for parameter in parameters if parameter not in supplied]
    for option, value in options.items():
        if option not in accepted:
            raise UserError(f"{key}.options.{option}: {name} has no such option{nearest(option, accepted)}")
        _check_type(f"{key}.options.{option}", value, parameters[option].annotation)
    try:
        return registry[name](**supplied, **options)
    except ValueError as error:  # "option: X found, … accepted"; what the builder supplies is not below options
        place = key if str(error).partition(":")[0] in supplied else f"{key}.options"
        raise UserError(f"{place}.{error}") from error


def _check_type(key: str, value: Any, annotation: Any) -> None:
    try:
        TypeAdapter(annotation, config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError as error:
        message = error.errors(include_url=False)[0]["msg"]
        raise UserError(f"{key}: {value!r} found; {message[0].lower()}{message[1:]}") from error


def prepare_images(data: DataConfig, split: str | None = None) -> ImageStore:
    """The images of a config's section, prepared on first use; `split` names another than the section's."""
    return prepare(
        data.source,
        split=split or data.split,
        resolution=data.resolution,
        path=data.path,
        root=data.root,
        classes=data.classes,
        images_per_class=data.images_per_class,
        count=data.count,
    )


def image_facts(config: Config) -> ImageFacts:
    """Facts of the images from the source's description alone where that says enough, else from the images."""
    info = source_info(config.data.source)
    channels, num_classes = info.channels, info.num_classes or 0
    if channels is None or info.has_labels is None or (info.has_labels and not num_classes):
        store = prepare_images(config.data)
        channels, num_classes = store.channels, store.num_classes
    if config.conditional and not num_classes:
        raise UserError(f"conditional: true found, but {config.data.source} gives no labels; false accepted")
    return ImageFacts(config.data.resolution, channels, num_classes if config.conditional else None)


def build_generator(config: Config, facts: ImageFacts) -> nn.Module:
    """The generator with its initial weights, on the CPU."""
    section = config.generator
    _check_resolution("generator", section.name, GENERATORS, facts.resolution)
    with seeded(config.seed, "generator"):
        return construct(
            GENERATORS,
            "generator",
            section.name,
            section.options,
            resolution=facts.resolution,
            channels=facts.channels,
            width=section.width,
            latent_dim=section.latent_dim,
            num_classes=facts.num_classes,
            **_attention("generator", GENERATORS[section.name], section.attention, facts.resolution),
        )


def build_discriminator(config: Config, facts: ImageFacts) -> Discriminator:
    """The discriminator with its initial weights, on the CPU; the backbone's do not depend on the head."""
    head = config.discriminator.head
    section = config.discriminator.backbone
    built_backbone = build_backbone("discriminator.backbone", section, config.seed, facts.resolution, facts.channels)
    supplied = _head_classes(head.name, facts.num_classes)
    with seeded(config.seed, "head"):
        built_head = construct(
            HEADS, "discriminator.head", head.name, head.options, in_features=built_backbone.out_features, **supplied
        )
    return Discriminator(built_backbone, built_head)


def build_backbone(key: str, section: BackboneConfig, seed: int, resolution: int, channels: int) -> nn.Module:
    """The feature extractor of the section at `key`, with its initial weights, on the CPU."""
    _check_resolution(key, section.name, BACKBONES, resolution)
    with seeded(seed, "backbone"):
        return construct(
            BACKBONES,
            key,
            section.name,
            section.options,
            resolution=resolution,
            channels=channels,
            width=section.width,
            **_attention(key, BACKBONES[section.name], section.attention, resolution),
        )


def _attention(
    key: str, network: Callable[..., nn.Module], section: AttentionConfig | None, resolution: int
) -> dict[str, Placement | None]:
    """What a network is told of attention; resolutions that it does not reach are refused."""
    if not hasattr(network, "attention_resolutions"):
        if section is None:
            return {}
        names = dict.fromkeys(
            name for names in (GENERATORS, BACKBONES) for name in names if hasattr(names[name], "attention_resolutions")
        )
        raise UserError(f"{key}.attention: this network takes none; accepted with {key}.name: {', '.join(names)}")
    if section is None:
        return {"attention": None}
    reached = network.attention_resolutions(resolution)
    for wanted in section.resolutions:
        if wanted not in reached:
            accepted = ", ".join(str(side) for side in sorted(set(reached)))
            raise UserError(
                f"{key}.attention.resolutions: {wanted} found, {accepted} accepted at {resolution}×{resolution}"
            )

    def build(channels: int, height: int, width: int, *, spectral_norm: bool) -> nn.Module:
        options = {"spectral_norm": spectral_norm, **section.options}  # the network's, unless the config says otherwise
        sizes = {"channels": channels, "height": height, "width": width}
        return construct(ATTENTION, f"{key}.attention", section.name, options, heads=section.heads, **sizes)

    return {"attention": Placement(tuple(section.resolutions), build)}


def _head_classes(name: str, num_classes: int | None) -> dict[str, int | None]:
    """What a head is told of classes; a head and labels that do not fit are refused."""
    if name not in HEADS:
        raise UserError(f"discriminator.head.name: no {name!r}{nearest(name, HEADS)}")
    if HEADS[name].labels == "ignored" and num_classes:
        fitting = ", ".join(other for other, head in HEADS.items() if head.labels != "ignored")
        raise UserError(f"discriminator.head.name: {name!r} ignores labels; accepted with conditional: true: {fitting}")
    if HEADS[name].labels == "required" and not num_classes:
        fitting = ", ".join(other for other, head in HEADS.items() if head.labels != "required")
        raise UserError(f"discriminator.head.name: {name!r} needs conditional: true; accepted without: {fitting}")
    return {} if HEADS[name].labels == "ignored" else {"num_classes": num_classes}


def _check_resolution(key: str, name: str, registry: Mapping[str, Any], resolution: int) -> None:
    if name not in registry:
        raise UserError(f"{key}.name: no {name!r}{nearest(name, registry)}")
    accepted = registry[name].resolutions
    if resolution not in accepted:
        raise UserError(
            f"data.resolution: {resolution} found, but {key} {name!r} reaches {', '.join(map(str, accepted))}"
        )


def build_loss(config: Config) -> Loss:
    """The adversarial loss."""
    name = config.objective.loss
    if name not in LOSSES:
        raise UserError(f"objective.loss: no {name!r}{nearest(name, LOSSES)}")
    return LOSSES[name]()


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
    """What happens to images before the discriminator sees them."""
    section = config.augmentation
    if section is None:
        return Augmentation()
    start = 1.0 if section.target is None else 0.0
    probability = start if section.probability is None else section.probability
    return Augmentation(section.operations, probability, section.target, section.images_to_full)


def build_game(config: Config, facts: ImageFacts, device: torch.device) -> Game:
    """Players on `device`, their optimisers and losses."""
    precision = resolve_precision(config.training.precision, device)
    layout = torch.channels_last if config.training.channels_last else torch.contiguous_format
    generator = build_generator(config, facts).to(device).to(memory_format=layout)
    discriminator = build_discriminator(config, facts).to(device).to(memory_format=layout)
    if config.training.compile:
        for network in (generator, discriminator.backbone, discriminator.head):
            network.compile(fullgraph=True, dynamic=False)
    stage_weights = build_stage_weights(config, discriminator.stages).to(device)
    rates = config.optimizer
    return Game(
        generator=generator,
        discriminator=discriminator,
        generator_optimizer=_adam([generator], rates.generator_lr, rates.betas),
        discriminator_optimizer=_adam([discriminator, stage_weights], rates.discriminator_lr, rates.betas),
        loss=build_loss(config),
        stage_weights=stage_weights,
        generator_stages=1 if config.objective.generator_stages == "first" else discriminator.stages,
        top_k=build_top_k(config),
        regularizers=build_regularizers(config, discriminator).to(device),
        augmentation=build_augmentation(config).to(device),
        random=seeded_generator(config.seed, "objective", device=device),
        autocast=make_autocast(precision, device),
    )


def _adam(modules: list[nn.Module], lr: float, betas: list[float]) -> torch.optim.Adam:
    parameters = [parameter for module in modules for parameter in module.parameters()]
    return torch.optim.Adam(parameters, lr, betas=(betas[0], betas[1]), fused=True)


def build_loader(config: Config, store: ImageStore, device: torch.device) -> Loader:
    """Batches of real images on `device`."""
    flip = config.data.flip
    return Loader(
        store,
        config.training.batch_size,
        device,
        flip=source_info(config.data.source).flip_sensible if flip is None else flip,
        seed=derive_seed(config.seed, "data"),
        channels_last=config.training.channels_last,
    )


def build_streams(config: Config, facts: ImageFacts, device: torch.device) -> RandomStreams:
    """The random numbers of training."""
    return RandomStreams(config.seed, device, config.generator.latent_dim, facts.num_classes)


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


def build_preview(config: Config, facts: ImageFacts) -> Preview:
    """Fixed latents; with classes, labels in order, so that each row of the grid shows few."""
    count = config.logging.sample_count
    random = seeded_generator(config.seed, "preview")
    latents, _ = LatentStream(config.generator.latent_dim, None, random).next(count)
    labels = None if facts.num_classes is None else torch.arange(count) * facts.num_classes // count
    return Preview(latents, labels, columns=math.ceil(math.sqrt(count)))
