"""One update of each player, as the papers write them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gan import distributed
from gan.device import Autocast
from gan.models.blocks.spectral_norm import update_spectral_norms
from gan.models.discriminator import Discriminator
from gan.objectives.augmentation import Augmentation
from gan.objectives.losses import Loss
from gan.objectives.regularizers import Regularizers, Round
from gan.objectives.stage_weights import StageWeights, weighted_mean
from gan.objectives.top_k import TopK
from gan.training.diagnostics import Observation, joined
from gan.training.division import Descent, Division, Part


@dataclass(frozen=True)
class Game:
    """The players and what they play for.

    `generator_stages` is how many of the discriminator's scores, from the first, the generator is trained on; `random`
    feeds augmentation and regularisers; `division` says which parts of a batch are played here.
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
    division: Division

    def descent(self, optimizer: torch.optim.Optimizer) -> Descent:
        """A step of `optimizer` over all parts of a batch."""
        changing = [self.generator, self.discriminator, self.regularizers, self.top_k]
        return Descent(self.division, optimizer, changing, self.random)


def discriminator_step(
    game: Game, real_images: Tensor, real_labels: Tensor | None, latents: Tensor, fake_labels: Tensor | None
) -> tuple[dict[str, Tensor], Observation]:
    """min_D  Σ_i λ_i E[L_D(D_i(x), D_i(G(z)))] + penalties; returns means and losses, and what D saw, detached.

    The batch is this rank's share; what D saw is of this rank alone, values are means over all.
    """
    with game.autocast():
        update_spectral_norms(game.discriminator)
    weights = game.stage_weights().detach()
    descent = game.descent(game.discriminator_optimizer)
    seen: list[Observation] = []
    real_scores: list[Tensor] = []
    for part, *batch in descent.parts(real_images, real_labels, latents, fake_labels):
        loss, values, observation, scores = _discriminator_loss(game, part, *batch)
        descent.add(loss, values)
        seen.append(observation)
        real_scores.append(scores)
    values = descent.step()
    if game.augmentation.target is not None:
        game.augmentation.observe(distributed.gather(torch.cat(real_scores)), weights)
        values["augmentation/probability"] = game.augmentation.probability.clone()
    return values, joined(seen)


def _discriminator_loss(
    game: Game,
    part: Part,
    real_images: Tensor,
    real_labels: Tensor | None,
    latents: Tensor,
    fake_labels: Tensor | None,
) -> tuple[Tensor, dict[str, Tensor], Observation, Tensor]:
    """One part's loss, its values, what D saw, and the reals' scores.

    Real and fake images are scored in one pass where D normalises no batch, for then it equals two.
    """
    count = len(real_images)
    with game.autocast():
        with torch.no_grad():
            fake_images = game.generator(latents, fake_labels).to(real_images.dtype)
        with part.draws(game.random, count):
            images = game.augmentation(torch.cat([real_images, fake_images]), game.random)
        features = game.discriminator.features_of_both(images, count)
        labels = None if real_labels is None or fake_labels is None else torch.cat([real_labels, fake_labels])
        scores = game.discriminator.head(features, labels)
    judged = count // game.discriminator.packing  # packs of real images
    real_scores, fake_scores = scores.tensor_split([judged])
    weights = game.stage_weights()
    loss = weighted_mean(game.loss.discriminator_loss(real_scores, fake_scores), weights)
    real_images, fake_images = images.tensor_split([count])
    with part.draws(game.random, count):
        penalties = game.regularizers(
            "discriminator",
            Round(
                game.discriminator, game.generator, real_images, real_labels, fake_images, fake_labels, latents,
                fake_scores, real_scores, weights.detach(), game.random, game.autocast,
            ),
        )  # fmt: skip
    total = loss + direction_loss(game, features, labels, judged) + sum(penalties.values())
    means = {"scores/real": real_scores.detach().mean(0), "scores/fake": fake_scores.detach().mean(0)}
    values = {"loss/discriminator": loss.detach(), **means, **_named("discriminator", penalties)}
    return total, values, Observation(features.detach(), labels, judged), real_scores.detach()


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
    descent = game.descent(game.generator_optimizer)
    for part, *batch in descent.parts(latents, labels, real_images, real_labels):
        descent.add(*_generator_loss(game, part, *batch))
    values = descent.step()
    game.discriminator.requires_grad_(True)
    return values


def _generator_loss(
    game: Game,
    part: Part,
    latents: Tensor,
    labels: Tensor | None,
    real_images: Tensor,
    real_labels: Tensor | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """One part's loss, and its values."""
    count = len(latents)
    with game.autocast():
        fake_images = game.generator(latents, labels).to(real_images.dtype)
        with part.draws(game.random, count):
            fake_images = game.augmentation(fake_images, game.random)
        fake_scores = game.discriminator(fake_images, labels)
        real_scores = None
        if game.loss.relativistic:
            with part.draws(game.random, count):
                real_images = game.augmentation(real_images, game.random)
            real_scores = game.discriminator(real_images, real_labels)
    weights = game.stage_weights().detach()
    losses = game.loss.generator_loss(fake_scores, real_scores)[:, : game.generator_stages]
    counted = weights[: game.generator_stages]
    loss = weighted_mean(game.top_k(losses, fake_scores, weights), counted / counted.sum())
    with part.draws(game.random, count):
        penalties = game.regularizers(
            "generator",
            Round(
                game.discriminator, game.generator, real_images, real_labels, fake_images, labels, latents,
                fake_scores, real_scores, weights, game.random, game.autocast,
            ),
        )  # fmt: skip
    return loss + sum(penalties.values()), {"loss/generator": loss.detach(), **_named("generator", penalties)}


def _named(player: str, penalties: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"regularizers/{player}/{name}": penalty.detach() for name, penalty in penalties.items()}
