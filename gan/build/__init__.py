"""From names to things: the only place where a config becomes objects."""

from gan.build.game import (
    build_accumulation,
    build_augmentation,
    build_game,
    build_latents,
    build_loader,
    build_loss,
    build_regularizers,
    build_schedule,
    build_stage_weights,
    build_top_k,
)
from gan.build.image_record import ImageRecord, image_record, recorded_images, require_names
from gan.build.motions import build_ema, build_motions
from gan.build.players import (
    ImageFacts,
    build_backbone,
    build_discriminator,
    build_generator,
    image_facts,
    prepare_images,
)
from gan.build.room import require_room, sketch, state_bytes

__all__ = [
    "ImageFacts",
    "ImageRecord",
    "build_accumulation",
    "build_augmentation",
    "build_backbone",
    "build_discriminator",
    "build_ema",
    "build_game",
    "build_generator",
    "build_latents",
    "build_loader",
    "build_loss",
    "build_motions",
    "build_regularizers",
    "build_schedule",
    "build_stage_weights",
    "build_top_k",
    "image_facts",
    "image_record",
    "prepare_images",
    "recorded_images",
    "require_names",
    "require_room",
    "sketch",
    "state_bytes",
]
