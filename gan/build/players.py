"""Both players from their names: generators, backbones and heads."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from gan.build.images import ImageFacts
from gan.build.registry import construct
from gan.config import AttentionConfig, BackboneConfig, Config
from gan.errors import UserError, nearest
from gan.models.attention import ATTENTION
from gan.models.biggan import BigGANBackbone, BigGANGenerator
from gan.models.blocks.placement import Placement
from gan.models.dcgan import DCGANBackbone, DCGANGenerator
from gan.models.discriminator import Discriminator
from gan.models.heads import (
    AuxiliaryClassifierHead,
    CascadingRejection,
    EnergyCascade,
    Head,
    IndependentHeads,
    LinearHead,
    MultidimensionalCritic,
    ProjectionHead,
    SlicedCascade,
    SlicingHead,
    TwoQuestions,
)
from gan.models.r3gan import R3GANBackbone, R3GANGenerator
from gan.models.sngan import SNGANBackbone, SNGANGenerator
from gan.seeds import seeded

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
    "energy_cascade": EnergyCascade,
    "san": SlicingHead,
    "sliced_cascade": SlicedCascade,
    "two_questions": TwoQuestions,
    "multidimensional": MultidimensionalCritic,
}


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
