"""One update of each player, as the papers write them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gan.device import Autocast
from gan.models.discriminator import Discriminator
from gan.objectives.augmentation import Augmentation
from gan.objectives.losses import Loss
from gan.objectives.reduction import StageWeights, TopK, weighted_mean
from gan.objectives.regularizers import Regularizers, StepBatch
from gan.training.accumulation import Accumulation, Update
from gan.training.diagnostics import Observation, concatenated
from gan.training.execution import MOVING, Execution
from gan.training.fakes import Fakes
from gan.training.noise import Noise


@dataclass(frozen=True)
class Game:
    """The players and what they play for.

    `generator_stages` is how many of the discriminator's scores, from the first, the generator is trained on; `noise`
    feeds augmentation and regularisers; `accumulation` says how a batch is split into micro-batches.
    """

    generator: nn.Module
    discriminator: Discriminator
    fakes: Fakes
    generator_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer
    loss: Loss
    stage_weights: StageWeights
    generator_stages: int
    top_k: TopK
    regularizers: Regularizers
    augmentation: Augmentation
    noise: Noise
    autocast: Autocast
    accumulation: Accumulation
    execution: Execution
    update_spectral_norms: Callable[[nn.Module], None]

    @property
    def parts(self) -> dict[str, nn.Module | torch.optim.Optimizer | Noise]:
        """All that a step changes."""
        names = ("generator", "discriminator", "stage_weights", "regularizers", "augmentation", "noise")
        return {name: getattr(self, name) for name in (*names, "generator_optimizer", "discriminator_optimizer")}

    def update(self, player: str, optimizer: torch.optim.Optimizer) -> Update:
        """The next step of `player`'s optimiser."""
        return Update(player, optimizer, [self.generator, self.discriminator], self.accumulation, self.noise)

    def play(self, player: str, update: Callable[..., Any], *batch: Tensor | None) -> Any:
        """An update of `player`, `update(self, *batch)`, as `execution` has it."""
        number = self.noise.upcoming(player)
        count = next(len(one) for one in batch if one is not None)
        judged = count // self.discriminator.packing
        is_moving = player == "generator" and not self.top_k.has_settled(judged, number)
        choices = (player, self.regularizers.acting(number), MOVING if is_moving else None)
        return self.execution(partial(update, self), batch, choices)


def discriminator_step(
    game: Game, real_images: Tensor, real_labels: Tensor | None, latents: Tensor, fake_labels: Tensor | None
) -> tuple[dict[str, Tensor], Observation]:
    """min_D  Σ_i λ_i E[L_D(D_i(x), D_i(G(z)))] + penalties, on this rank's share of a batch.

    Returns what the step reports, means over the batch of all ranks, and what D saw on this one.
    """
    number = game.noise.upcoming("discriminator")
    means, seen = game.play("discriminator", discriminator_update, real_images, real_labels, latents, fake_labels)
    game.regularizers.follow(number, means)
    game.discriminator.head.follow(means)
    if game.augmentation.target is not None:
        game.augmentation.follow(means["augmentation/real_sign"], len(real_images) * game.accumulation.world_size)
        means["augmentation/probability"] = game.augmentation.probability.clone()
    return means, seen


def discriminator_update(
    game: Game, real_images: Tensor, real_labels: Tensor | None, latents: Tensor, fake_labels: Tensor | None
) -> tuple[dict[str, Tensor], Observation]:
    """The part of D's step that is one graph of the device's: all from its spectral norms to its optimiser."""
    game.update_spectral_norms(game.discriminator)
    update = game.update("discriminator", game.discriminator_optimizer)
    micro_batches = update.micro_batches(real_images, real_labels, latents, fake_labels)
    values, seen = zip(*[discriminator_gradients(game, *micro_batch) for micro_batch in micro_batches], strict=True)
    return update.step(values), concatenated(seen)


def discriminator_gradients(
    game: Game,
    real_images: Tensor,
    real_labels: Tensor | None,
    latents: Tensor,
    fake_labels: Tensor | None,
    step: int,
    random: torch.Generator,
) -> tuple[dict[str, Tensor], Observation]:
    """Add one micro-batch's gradient to D's; returns what to report, and what D saw, detached.

    Real and fake images are scored in one pass where D normalises no batch, for then it equals two.
    """
    count = len(real_images)
    labels = None if real_labels is None or fake_labels is None else torch.cat([real_labels, fake_labels])

    # Forward
    with game.autocast():
        fake_images = game.fakes.for_discriminator(latents, fake_labels).to(real_images.dtype)
        images = game.augmentation(torch.cat([real_images, fake_images]), random)
        features = game.discriminator.features_of_both(images, count)
        scores = game.discriminator.head.batch_scores(features, labels)
    judged = count // game.discriminator.packing
    real_scores, fake_scores = scores.split(judged)

    # Loss, penalties, backward
    weights = game.stage_weights()
    loss = weighted_mean(game.loss.discriminator_loss(real_scores, fake_scores), weights)
    batch = StepBatch(
        discriminator=game.discriminator, generator=game.generator, autocast=game.autocast, latents=latents,
        real_images=images[:count], real_labels=real_labels, real_features=features[:judged], real_scores=real_scores,
        fake_images=images[count:], fake_labels=fake_labels, fake_features=features[judged:], fake_scores=fake_scores,
        stage_weights=weights.detach(), step=step, random=random,
        augment=lambda fakes: game.augmentation(torch.cat([real_images, fakes]), game.noise.again(random))[count:],
    )  # fmt: skip
    penalties = game.regularizers("discriminator", batch)
    (loss + direction_loss(game, features, labels, judged) + sum(penalties.values())).backward()

    values = {"loss/discriminator": loss, "scores/real": real_scores.mean(0), "scores/fake": fake_scores.mean(0)}
    values |= game.discriminator.head.batch_statistics(features, labels)
    if game.augmentation.target is not None:
        values["augmentation/real_sign"] = (real_scores @ weights - game.loss.boundary).sign().mean()
    return detached("discriminator", values, penalties), Observation(features.detach(), labels, judged)


def direction_loss(game: Game, features: Tensor, labels: Tensor | None, real_count: int) -> Tensor | float:
    """Σ_i λ_i (E[φ_i(<ω_i, v>) of fakes] − E[… of reals]) for heads that learn directions; 0 for others."""
    head = game.discriminator.head
    if not head.learns_directions:
        return 0.0
    real_scores, fake_scores = head.direction_scores(features, labels).tensor_split([real_count])
    weights = game.stage_weights().detach()  # learned ones minimise D's loss alone
    return weighted_mean(fake_scores, weights) - weighted_mean(real_scores, weights)


def generator_step(
    game: Game, latents: Tensor, labels: Tensor | None, real_images: Tensor, real_labels: Tensor | None
) -> dict[str, Tensor]:
    """min_G  Σ_i λ_i E[L_G(D_i(G(z)))] + penalties, on this rank's share of a batch; returns means over all.

    Real images are for relativistic losses and regularisers; others leave them alone.
    """
    return game.play("generator", generator_update, latents, labels, real_images, real_labels)


def generator_update(
    game: Game, latents: Tensor, labels: Tensor | None, real_images: Tensor, real_labels: Tensor | None
) -> dict[str, Tensor]:
    """All of G's step: one graph of the device's."""
    if not game.fakes.shared:
        game.update_spectral_norms(game.generator)
    update = game.update("generator", game.generator_optimizer)
    micro_batches = update.micro_batches(latents, labels, real_images, real_labels)
    return update.step([generator_gradients(game, *micro_batch) for micro_batch in micro_batches])


def generator_gradients(
    game: Game,
    latents: Tensor,
    labels: Tensor | None,
    real_images: Tensor,
    real_labels: Tensor | None,
    step: int,
    random: torch.Generator,
) -> dict[str, Tensor]:
    """Add one micro-batch's gradient to G's; returns what to report, detached."""
    game.discriminator.requires_grad_(False)

    # Forward
    with game.autocast():
        fake_images = game.augmentation(game.fakes.for_generator(latents, labels).to(real_images.dtype), random)
        real_images = game.augmentation(real_images, random)
        fake_features = game.discriminator.features(fake_images)
        fake_scores = game.discriminator.head(fake_features, labels)
        real_features = game.discriminator.features(real_images) if game.loss.relativistic else None
        real_scores = None if real_features is None else game.discriminator.head(real_features, real_labels)

    # Loss, penalties, backward
    weights = game.stage_weights().detach()
    counted = weights[: game.generator_stages]
    losses = game.loss.generator_loss(fake_scores, real_scores)[:, : game.generator_stages]
    loss = weighted_mean(game.top_k(losses, fake_scores, weights, step), counted / counted.sum())
    batch = StepBatch(
        discriminator=game.discriminator, generator=game.generator, autocast=game.autocast, latents=latents,
        real_images=real_images, real_labels=real_labels, real_features=real_features, real_scores=real_scores,
        fake_images=fake_images, fake_labels=labels, fake_features=fake_features, fake_scores=fake_scores,
        stage_weights=weights, step=step, random=random,
        augment=lambda fakes: game.augmentation(fakes, game.noise.again(random)),
    )  # fmt: skip
    penalties = game.regularizers("generator", batch)
    (loss + sum(penalties.values())).backward()

    game.discriminator.requires_grad_(True)
    return detached("generator", {"loss/generator": loss}, penalties)


def detached(player: str, values: dict[str, Tensor], penalties: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a step reports, without its graph."""
    named = {f"regularizers/{player}/{name}": penalty for name, penalty in penalties.items()}
    return {name: value.detach() for name, value in (values | named).items()}
