"""One update of each player, as the papers write them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gan.device import Autocast
from gan.models.discriminator import Discriminator
from gan.models.spectral_norm import update_spectral_norms
from gan.objectives.augmentation import Augmentation
from gan.objectives.losses import Loss
from gan.objectives.regularizers import Regularizers, Round
from gan.objectives.stage_weights import StageWeights, weighted_mean
from gan.objectives.top_k import TopK
from gan.training.diagnostics import Observation


@dataclass(frozen=True)
class Game:
    """The players and what they play for.

    `generator_stages` is how many of the discriminator's scores, from the first, the generator is trained on; `random`
    feeds augmentation and regularisers.
    """

    generator: nn.Module
    discriminator: Discriminator
    generator_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer
    loss: Loss
    stage_weights: StageWeights
    generator_stages: int
    top_k: TopK
    regularizers: Regularizers
    augmentation: Augmentation
    random: torch.Generator
    autocast: Autocast


def discriminator_step(
    game: Game, real_images: Tensor, real_labels: Tensor | None, latents: Tensor, fake_labels: Tensor | None
) -> tuple[dict[str, Tensor], Observation]:
    """min_D  Σ_i λ_i E[L_D(D_i(x), D_i(G(z)))] + penalties; returns means and losses, and what D saw, detached.

    Real and fake images are scored in one pass, which equals two where D normalises no batch.
    """
    with game.autocast():
        with torch.no_grad():
            fake_images = game.generator(latents, fake_labels).to(real_images.dtype)
        update_spectral_norms(game.discriminator)
        images = game.augmentation(torch.cat([real_images, fake_images]), game.random)
        features = game.discriminator.features(images)
        labels = None if real_labels is None or fake_labels is None else torch.cat([real_labels, fake_labels])
        scores = game.discriminator.head(features, labels)
    real_scores, fake_scores = scores.tensor_split([len(real_images)])
    weights = game.stage_weights()
    loss = weighted_mean(game.loss.discriminator_loss(real_scores, fake_scores), weights)
    real_images, fake_images = images.tensor_split([len(real_images)])
    penalties = game.regularizers(
        "discriminator",
        Round(
            game.discriminator, game.generator, real_images, real_labels, fake_images, fake_labels, latents,
            fake_scores, real_scores, weights.detach(), game.random, game.autocast,
        ),
    )  # fmt: skip
    total = loss + direction_loss(game, features, labels, len(real_images)) + sum(penalties.values())
    minimise(total, game.discriminator_optimizer)
    game.augmentation.observe(real_scores.detach(), weights.detach())
    means = {"scores/real": real_scores.detach().mean(0), "scores/fake": fake_scores.detach().mean(0)}
    values = {"loss/discriminator": loss.detach(), **means, **_named("discriminator", penalties)}
    if game.augmentation.target is not None:
        values["augmentation/probability"] = game.augmentation.probability.clone()
    return values, Observation(features.detach(), labels, len(real_images))


def direction_loss(game: Game, features: Tensor, labels: Tensor | None, real_count: int) -> Tensor | float:
    """Σ_i λ_i (E[φ_i(<ω_i, v>) of fakes] − E[… of reals]) for heads that learn directions; 0 for others."""
    head = game.discriminator.head
    if not head.learns_directions:
        return 0.0
    real_scores, fake_scores = head.direction_scores(features, labels).tensor_split([real_count])
    weights = game.stage_weights()
    return weighted_mean(fake_scores, weights) - weighted_mean(real_scores, weights)


def generator_step(
    game: Game,
    latents: Tensor,
    labels: Tensor | None,
    real_images: Tensor,
    real_labels: Tensor | None,
) -> dict[str, Tensor]:
    """min_G  Σ_i λ_i E[L_G(D_i(G(z)))] + penalties; returns losses, detached.

    Real images are for relativistic losses and regularisers; others leave them alone.
    """
    game.discriminator.requires_grad_(False)
    update_spectral_norms(game.generator)
    with game.autocast():
        fake_images = game.augmentation(game.generator(latents, labels).to(real_images.dtype), game.random)
        fake_scores = game.discriminator(fake_images, labels)
        real_scores = None
        if game.loss.relativistic:
            real_images = game.augmentation(real_images, game.random)
            real_scores = game.discriminator(real_images, real_labels)
    weights = game.stage_weights().detach()
    losses = game.loss.generator_loss(fake_scores, real_scores)[:, : game.generator_stages]
    counted = weights[: game.generator_stages]
    loss = weighted_mean(game.top_k(losses, fake_scores, weights), counted / counted.sum())
    penalties = game.regularizers(
        "generator",
        Round(
            game.discriminator, game.generator, real_images, real_labels, fake_images, labels, latents,
            fake_scores, real_scores, weights, game.random, game.autocast,
        ),
    )  # fmt: skip
    minimise(loss + sum(penalties.values()), game.generator_optimizer)
    game.discriminator.requires_grad_(True)
    return {"loss/generator": loss.detach(), **_named("generator", penalties)}


def _named(player: str, penalties: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"regularizers/{player}/{name}": penalty.detach() for name, penalty in penalties.items()}


def minimise(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """One step of `optimizer` down the gradient of `loss`."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
