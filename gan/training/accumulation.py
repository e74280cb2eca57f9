"""One step of an optimiser over the micro-batches of a batch, on this rank and on all others.

Rank r of R, with k micro-batches, plays the micro-batches r·k … r·k + k − 1 of the R·k of a batch, one after the other:
each adds its gradient, the mean is reduced over ranks in one message, the optimiser steps once. So R ranks compute what
one rank computes with R times the micro-batches.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gan import distributed
from gan.errors import UserError
from gan.training.batch_norm import RankStatistics
from gan.training.noise import Noise


@dataclass(frozen=True)
class Accumulation:
    """How many micro-batches each rank splits its share of a batch into, and which rank of how many this is."""

    micro_batches: int = 1
    rank: int = 0
    world_size: int = 1

    @property
    def count(self) -> int:
        """How many micro-batches a batch has on all ranks together."""
        return self.world_size * self.micro_batches

    def require_divisible(self, batch_size: int) -> None:
        """Check that the micro-batches of a global batch are equal.

        Raises:
            UserError: they are not.
        """
        if batch_size % self.count:
            raise UserError(
                f"training.batch_size: {batch_size} found, multiples of {self.count} accepted: it is the global batch, "
                f"split among {self.world_size} processes times training.accumulation {self.micro_batches}"
            )


class Update:
    """One step of `optimizer`: gradients begin at zero, every micro-batch adds to them, their mean is stepped along.

    Args:
        player: whose step it is, which its random numbers are seeded by.
        optimizer: what moves the player.
        networks: all whose running statistics a forward pass may move.
        accumulation: how the batch is split.
        noise: random numbers, and how many steps the player has taken.
    """

    def __init__(
        self,
        player: str,
        optimizer: torch.optim.Optimizer,
        networks: Sequence[nn.Module],
        accumulation: Accumulation,
        noise: Noise,
    ) -> None:
        self.number = noise.next_step(player)
        self._player = player
        self._optimizer = optimizer
        self._accumulation = accumulation
        self._noise = noise
        self._statistics = RankStatistics(networks) if accumulation.world_size > 1 else None
        optimizer.zero_grad(set_to_none=True)

    def micro_batches(self, *batch: Tensor | None) -> Iterator[tuple[Any, ...]]:
        """The rows of each micro-batch of this rank in turn, then the number of the step and a generator of its own."""
        count = self._accumulation.micro_batches
        rows = [[None] * count if one is None else one.chunk(count) for one in batch]
        for index, micro_batch in enumerate(zip(*rows, strict=True), start=self._accumulation.rank * count):
            yield *micro_batch, self.number, self._noise.generator(self._player, self.number, index)

    def step(self, values: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Step along the mean gradient; returns the means of what the micro-batches of all ranks report."""
        means = values[0]
        if len(values) > 1:
            means = {name: torch.stack([one[name] for one in values]).mean(0) for name in means}
        parameters = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self._accumulation.micro_batches > 1:
            torch._foreach_div_(gradients, self._accumulation.micro_batches)
        if self._statistics is not None:
            shares = self._statistics.shares()
            distributed.average([*gradients, *means.values(), *shares])
            self._statistics.join(shares)
        self._optimizer.step()
        return means
