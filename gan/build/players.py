"""Images of a config, what the players must know of them, and both players from their names."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from gan.config import AttentionConfig, BackboneConfig, Config, DataConfig, construct, look_up
from gan.data.sources import source_info
from gan.data.store import ImageStore, check_options, outline, prepare
from gan.errors import UserError
from gan.models import BACKBONES, GENERATORS, Backbone, Generator
from gan.models.attention import ATTENTION
from gan.models.discriminator import Discriminator
from gan.models.heads import HEADS
from gan.models.interface import AttentionPlacement, Network
from gan.seeds import seeded


@dataclass(frozen=True)
class ImageFacts:
    """What the players must know of the images; `num_classes` is None where training is unconditional."""

    resolution: int
    channels: int
    num_classes: int | None


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
        skip_corrupt=data.skip_corrupt,
    )


def image_facts(config: Config) -> ImageFacts:
    """Facts of the images from the source's description alone where that says enough, else from the images, which are
    decoded only where the source cannot tell without.
    """
    data, info = config.data, source_info(config.data.source)
    names = ("path", "classes", "images_per_class", "count", "skip_corrupt")
    given = {name: value for name in names if (value := getattr(data, name)) not in (None, False)}
    check_options(data.source, given, data.split, data.resolution)
    channels, num_classes = info.channels, info.num_classes or 0
    if channels is None or info.has_labels is None or (info.has_labels and not num_classes):
        found = outline(data.source, data.split, data.resolution, Path(data.root), given)
        channels, num_classes = found or _of_store(prepare_images(data))
    if data.split in info.unlabelled:
        num_classes = 0
    if config.conditional and not num_classes:
        where = f" {config.data.path or config.data.split}" if config.data.path or info.unlabelled else ""
        raise UserError(f"conditional: true found, but {config.data.source}{where} has no labels; false accepted")
    return ImageFacts(config.data.resolution, channels, num_classes if config.conditional else None)


def _of_store(store: ImageStore) -> tuple[int, int]:
    return store.channels, store.num_classes


def build_generator(config: Config, facts: ImageFacts) -> Generator:
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
            **_attention("generator", section.name, GENERATORS, section.attention, facts.resolution),
        )


def build_discriminator(config: Config, facts: ImageFacts) -> Discriminator:
    """The discriminator with its initial weights, on the CPU; the backbone's do not depend on the head."""
    head = config.discriminator.head
    section = config.discriminator.backbone
    packing = config.discriminator.packing
    channels = packing * facts.channels
    built_backbone = build_backbone("discriminator.backbone", section, config.seed, facts.resolution, channels)
    supplied = _head_classes(head.name, facts.num_classes)
    with seeded(config.seed, "head"):
        built_head = construct(
            HEADS, "discriminator.head", head.name, head.options, in_features=built_backbone.out_features, **supplied
        )
    return Discriminator(built_backbone, built_head, packing)


def build_backbone(key: str, section: BackboneConfig, seed: int, resolution: int, channels: int) -> Backbone:
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
            **_attention(key, section.name, BACKBONES, section.attention, resolution),
        )


def _attention(
    key: str, name: str, registry: Mapping[str, type[Network]], section: AttentionConfig | None, resolution: int
) -> dict[str, AttentionPlacement | None]:
    """What a network is told of attention; resolutions that it does not reach are refused."""
    reached = registry[name].attention_resolutions(resolution)
    if section is None:
        return {"attention": None} if reached else {}
    if not reached:
        fitting = [other for other in registry if registry[other].attention_resolutions(registry[other].resolutions[0])]
        raise UserError(f"{key}.attention: {name!r} takes none; accepted with {key}.name: {', '.join(fitting)}")
    for wanted in section.resolutions:
        if wanted not in reached:
            accepted = ", ".join(str(side) for side in sorted(set(reached)))
            raise UserError(
                f"{key}.attention.resolutions: {wanted} found, {accepted} accepted at {resolution}×{resolution}"
            )

    def build(channels: int, height: int, width: int, *, spectral_norm: bool) -> nn.Module:
        options = {"spectral_norm": spectral_norm, **section.options}  # The config may differ from the network.
        sizes = {"channels": channels, "height": height, "width": width}
        return construct(ATTENTION, f"{key}.attention", section.name, options, heads=section.heads, **sizes)

    return {"attention": AttentionPlacement(tuple(section.resolutions), build)}


def _head_classes(name: str, num_classes: int | None) -> dict[str, int | None]:
    """What a head is told of classes; a head and labels that do not fit are refused."""
    labels = look_up(HEADS, "discriminator.head", name).labels
    if labels == "ignored" and num_classes:
        fitting = ", ".join(other for other, head in HEADS.items() if head.labels != "ignored")
        raise UserError(f"discriminator.head.name: {name!r} ignores labels; accepted with conditional: true: {fitting}")
    if labels == "required" and not num_classes:
        fitting = ", ".join(other for other, head in HEADS.items() if head.labels != "required")
        raise UserError(f"discriminator.head.name: {name!r} needs conditional: true; accepted without: {fitting}")
    return {} if labels == "ignored" else {"num_classes": num_classes}


def _check_resolution(key: str, name: str, registry: Mapping[str, type[Network]], resolution: int) -> None:
    accepted = look_up(registry, key, name).resolutions
    if resolution not in accepted:
        raise UserError(
            f"data.resolution: {resolution} found, but {key} {name!r} reaches {', '.join(map(str, accepted))}"
        )
