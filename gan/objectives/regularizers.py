"""Terms added to the players' losses: what they see, how they are weighted, and when they act."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class DiscriminatorLike(Protocol):
    """What regularisers need of a discriminator: images → features, and both → scores `(B, N)`."""

    head: Any

    def features(self, images: Tensor) -> Tensor: ...

    def features_of_both(self, images: Tensor, real_count: int) -> Tensor: ...

    def __call__(self, images: Tensor, labels: Tensor | None = None) -> Tensor: ...

    def modules(self) -> Iterator[nn.Module]: ...


@dataclass(frozen=True, kw_only=True)
class StepBatch:
    """One micro-batch of a player's step as regularisers see it.

    Images are as the discriminator was given them, augmented, in both players' steps; `augment` does to other fakes
    what was done to these, with the same draws. Features are what the head has scored of them, `(B, F)`. In a
    generator's step fakes are attached to the generator, and `real_features` and `real_scores` are None where the loss
    does without them. `step` counts the player's steps from 0.
    """

    discriminator: DiscriminatorLike
    generator: nn.Module
    real_images: Tensor
    real_labels: Tensor | None
    fake_images: Tensor
    fake_labels: Tensor | None
    latents: Tensor
    fake_features: Tensor
    real_features: Tensor | None
    fake_scores: Tensor
    real_scores: Tensor | None
    stage_weights: Tensor
    step: int
    random: torch.Generator
    autocast: Callable[[], AbstractContextManager[object]]
    augment: Callable[[Tensor], Tensor]

    def mean_score(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Σ_i λ_i D_i, `(B,)`: what penalties on one score use where there are several."""
        return self.discriminator(images, labels) @ self.stage_weights


class Regularizer(nn.Module):
    """A penalty on one player or both; a player's method that returns None leaves that player alone.

    Penalties change no state: they are computed for each micro-batch apart. State moves in `follow`.
    """

    def discriminator_penalty(self, batch: StepBatch) -> Tensor | None:
        """Scalar, before its weight."""
        return None

    def generator_penalty(self, batch: StepBatch) -> Tensor | None:
        """Scalar, before its weight."""
        return None

    def follow(self, means: Mapping[str, Tensor]) -> None:
        """Move running statistics at the end of a discriminator's step.

        `means` is what the step reports, over the batch of all ranks: `scores/real` and `scores/fake` `(N,)` among it.
        """


class Scheduled(nn.Module):
    """A regulariser with its weight, acting every `interval` steps of a player with `interval` times the weight.

    Lazy regularisation (Karras et al. 2020, arXiv:1912.04958, appendix B), without its changes to Adam.

    Args:
        penalty: what is added.
        weight: its factor.
        interval: steps from one action to the next, each player counted apart.
    """

    def __init__(self, penalty: Regularizer, weight: float, interval: int = 1) -> None:
        super().__init__()
        self.penalty = penalty
        self.weight = weight
        self.interval = interval

    def acts(self, step: int) -> bool:
        """Whether it acts in a player's step."""
        return step % self.interval == 0

    def forward(self, player: str, batch: StepBatch) -> Tensor | None:
        """The weighted penalty on `player`, or None where it does not act in this step."""
        if not self.acts(batch.step):
            return None
        act = self.penalty.discriminator_penalty if player == "discriminator" else self.penalty.generator_penalty
        penalty = act(batch)
        return None if penalty is None else self.weight * self.interval * penalty

    def follow(self, step: int, means: Mapping[str, Tensor]) -> None:
        """Move the term's running statistics if it has acted in this step."""
        if self.acts(step):
            self.penalty.follow(means)


class Regularizers(nn.Module):
    """All terms of a game by name."""

    def __init__(self, terms: Mapping[str, Scheduled]) -> None:
        super().__init__()
        self.terms = nn.ModuleDict(terms)

    def acting(self, step: int) -> tuple[str, ...]:
        """The names of the terms that act in a player's step."""
        terms = ((name, term) for name, term in self.terms.items() if isinstance(term, Scheduled))
        return tuple(name for name, term in terms if term.acts(step))

    def forward(self, player: str, batch: StepBatch) -> dict[str, Tensor]:
        """The weighted penalties on `player` in this step, by name."""
        found = {name: term(player, batch) for name, term in self.terms.items()}
        return {name: penalty for name, penalty in found.items() if penalty is not None}

    def follow(self, step: int, means: Mapping[str, Tensor]) -> None:
        """Move all running statistics at the end of the discriminator's `step`, by what it reports."""
        for term in self.terms.children():
            assert isinstance(term, Scheduled)
            term.follow(step, means)


def at_least_float32(values: Tensor) -> Tensor:
    """Values of half precision in float32, others as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
