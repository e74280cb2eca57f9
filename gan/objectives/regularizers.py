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

    def __call__(self, images: Tensor, labels: Tensor | None = None) -> Tensor: ...

    def modules(self) -> Iterator[nn.Module]: ...


@dataclass(frozen=True)
class Round:
    """One step of a player as its regularisers see it.

    Images are as the discriminator was given them, augmented; in a generator's step fakes are attached to the generator
    and `real_scores` are None where the loss does without them.
    """

    discriminator: DiscriminatorLike
    generator: nn.Module
    real_images: Tensor
    real_labels: Tensor | None
    fake_images: Tensor
    fake_labels: Tensor | None
    latents: Tensor
    fake_scores: Tensor
    real_scores: Tensor | None
    stage_weights: Tensor
    random: torch.Generator
    autocast: Callable[[], AbstractContextManager[object]]

    def mean_score(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Σ_i λ_i D_i, `(B,)`: what penalties on one score use where there are several."""
        return self.discriminator(images, labels) @ self.stage_weights


class Regularizer(nn.Module):
    """A penalty on one player or both; a player's method that returns None leaves that player alone."""

    def discriminator_penalty(self, seen: Round) -> Tensor | None:
        """Scalar, before its weight."""
        return None

    def generator_penalty(self, seen: Round) -> Tensor | None:
        """Scalar, before its weight."""
        return None


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
        self.steps = {"discriminator": 0, "generator": 0}

    def forward(self, player: str, seen: Round) -> Tensor | None:
        """The weighted penalty on `player`, or None where it does not act in this step."""
        due = self.steps[player] % self.interval == 0
        self.steps[player] += 1
        if not due:
            return None
        act = self.penalty.discriminator_penalty if player == "discriminator" else self.penalty.generator_penalty
        penalty = act(seen)
        return None if penalty is None else self.weight * self.interval * penalty

    def get_extra_state(self) -> dict[str, int]:
        return dict(self.steps)

    def set_extra_state(self, state: Mapping[str, int]) -> None:
        self.steps = dict(state)


class Regularizers(nn.Module):
    """All terms of a game by name."""

    def __init__(self, terms: Mapping[str, Scheduled]) -> None:
        super().__init__()
        self.terms = nn.ModuleDict(terms)

    def forward(self, player: str, seen: Round) -> dict[str, Tensor]:
        """The weighted penalties on `player` in this step, by name."""
        found = {name: term(player, seen) for name, term in self.terms.items()}
        return {name: penalty for name, penalty in found.items() if penalty is not None}

    def __len__(self) -> int:
        return len(self.terms)
