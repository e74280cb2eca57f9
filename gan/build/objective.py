"""What the players play for: loss, stage weights, regularisers, augmentation."""

from collections.abc import Callable

import torch

from gan.build.players import HEADS
from gan.build.registry import construct
from gan.config import Config
from gan.errors import UserError, nearest
from gan.models.discriminator import Discriminator
from gan.objectives.augmentation import Augmentation
from gan.objectives.consistency import BalancedConsistency, LatentConsistency, LeCam
from gan.objectives.feature_terms import Classification, Contrastive, FeatureMatching, Orthogonal
from gan.objectives.gradient_penalties import R1, R2, GradientPenalty
from gan.objectives.losses import LOSSES, Loss
from gan.objectives.regularizers import Regularizer, Regularizers, Scheduled
from gan.objectives.stage_weights import StageWeights, geometric
from gan.objectives.top_k import TopK

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
