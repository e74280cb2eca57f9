"""One update of each player, as the papers write them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gan.device import Autocast
from gan.models.discriminator import Discriminator
from gan.models.spectral_norm import update_spectral_norms
from gan.objectives.losses import Loss
from gan.objectives.stage_weights import StageWeights, weighted_mean
from gan.training.diagnostics import Observation


@dataclass(frozen=True)
class Game:
    """The players and what they play for.

    `generator_stages` is how many of the discriminator's scores, from the first, the generator is trained on.
    """

    generator: nn.Module
    discriminator: Discriminator
    generator_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer
    loss: Loss
    stage_weights: StageWeights
    generator_stages: int
    autocast: Autocast


def discriminator_step(
    game: Game, real_images: Tensor, real_labels: Tensor | None, latents: Tensor, fake_labels: Tensor | None
) -> tuple[dict[str, Tensor], Observation]:
    """min_D  Σ_i λ_i E[L_D(D_i(x), D_i(G(z)))]; returns the loss and the stages' mean scores, and what D saw, detached.

    Real and fake images are scored in one pass, which equals two where D normalises no batch.
    """
    with game.autocast():
        with torch.no_grad():
            fake_images = game.generator(latents, fake_labels)
        update_spectral_norms(game.discriminator)
        features = game.discriminator.features(torch.cat([real_images, fake_images.to(real_images.dtype)]))
        labels = None if real_labels is None or fake_labels is None else torch.cat([real_labels, fake_labels])
        scores = game.discriminator.head(features, labels)
    real_scores, fake_scores = scores.split([len(real_images), len(fake_images)])
    loss = weighted_mean(game.loss.discriminator_loss(real_scores, fake_scores), game.stage_weights())
    minimise(loss + direction_loss(game, features, labels, len(real_images)), game.discriminator_optimizer)
    means = {"scores/real": real_scores.detach().mean(0), "scores/fake": fake_scores.detach().mean(0)}
    return {"loss/discriminator": loss.detach(), **means}, Observation(features.detach(), labels, len(real_images))


def direction_loss(game: Game, features: Tensor, labels: Tensor | None, real_count: int) -> Tensor | float:
    """Σ_i λ_i (E[φ_i(<ω_i, v>) of fakes] − E[… of reals]) for heads that learn directions; 0 for others."""
    head = game.discriminator.head
    if not head.learns_directions:
        return 0.0
    real_scores, fake_scores = head.direction_scores(features, labels).tensor_split([real_count])
    weights = game.stage_weights()
    return weighted_mean(fake_scores, weights) - weighted_mean(real_scores, weights)


def generator_step(game: Game, latents: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
    """min_G  Σ_i λ_i E[L_G(D_i(G(z)))]; returns the loss, detached."""
    game.discriminator.requires_grad_(False)
    with game.autocast():
        fake_scores = game.discriminator(game.generator(latents, labels), labels)
    weights = game.stage_weights().detach()[: game.generator_stages]
    losses = game.loss.generator_loss(fake_scores)[:, : game.generator_stages]
    loss = weighted_mean(losses, weights / weights.sum())
    minimise(loss, game.generator_optimizer)
    game.discriminator.requires_grad_(True)
    return {"loss/generator": loss.detach()}


def minimise(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """One step of `optimizer` down the gradient of `loss`."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
