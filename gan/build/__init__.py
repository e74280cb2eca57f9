"""From names to things: the only place where a config becomes objects."""

from gan.build.images import ImageFacts, ImageRecord, image_facts, image_record, prepare_images, recorded_images
from gan.build.objective import (
    REGULARIZERS,
    build_augmentation,
    build_loss,
    build_regularizers,
    build_stage_weights,
    build_top_k,
)
from gan.build.players import BACKBONES, GENERATORS, HEADS, build_backbone, build_discriminator, build_generator
from gan.build.registry import construct
from gan.build.run import build_accumulation, build_game, build_latents, build_loader, build_schedule

__all__ = [
    "BACKBONES",
    "GENERATORS",
    "HEADS",
    "REGULARIZERS",
    "ImageFacts",
    "ImageRecord",
    "build_accumulation",
    "build_augmentation",
    "build_backbone",
    "build_discriminator",
    "build_game",
    "build_generator",
    "build_latents",
    "build_loader",
    "build_loss",
    "build_regularizers",
    "build_schedule",
    "build_stage_weights",
    "build_top_k",
    "construct",
    "image_facts",
    "image_record",
    "prepare_images",
    "recorded_images",
]
