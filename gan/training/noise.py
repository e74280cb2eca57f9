"""The random numbers that a step draws beside its latents: none is remembered, each follows from where it is drawn."""

from collections.abc import Mapping
from typing import Any

import torch

from gan.seeds import derive_seed
from gan.training.state import is_count


class Noise:
    """A generator for every micro-batch, seeded by (seed of the run, player, step of the player, index in the batch).

    As in EDM2 (Karras et al. 2024, arXiv:2312.02696), whose training loop seeds by run, rank and images seen. So a
    batch of n micro-batches draws the same numbers however they are spread over ranks, and a run that goes on needs to
    know only how many steps were taken.

    Args:
        seed: of the run.
        device: where numbers are drawn; those of one device differ from those of another.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.seed = seed
        self._device = device
        self._steps = {"discriminator": 0, "generator": 0}
        self._generators: dict[tuple[str, int], tuple[torch.Generator, torch.Generator]] = {}
        self._seeded: dict[torch.Generator, int] = {}  # those that are at the beginning of their numbers, and which

    def upcoming(self, player: str) -> int:
        """The number of the step that `player` begins next, from 0."""
        return self._steps[player]

    def next_step(self, player: str) -> int:
        """The number of the step that `player` begins, from 0."""
        number = self._steps[player]
        self._steps[player] += 1
        return number

    def generator(self, player: str, step: int, index: int) -> torch.Generator:
        """That of one micro-batch, by its index among those of all ranks; for dropout, torch's own are seeded too.

        It is the same object in every step, so that a captured graph can hold it.
        """
        first, twin = self._pair(player, index)
        seed = derive_seed(self.seed, player, step, index)
        if self._seeded.pop(first, None) != seed:
            self._seed_global(derive_seed(self.seed, player, step, index, "global"))
            first.manual_seed(seed)
            self._seeded[twin] = seed
            twin.manual_seed(seed)
        return first

    def again(self, random: torch.Generator) -> torch.Generator:
        """One that gives the numbers of `random`, a micro-batch's generator of this step, from the first on."""
        twin, seed = next((twin, first.initial_seed) for first, twin in self._generators.values() if first is random)
        if self._seeded.pop(twin, None) is None:
            twin.manual_seed(seed())
        return twin

    def seed_ahead(self, player: str, step: int) -> list[torch.Generator]:
        """Seed what the first micro-batch of a step will draw from, where it cannot be seeded; returns these."""
        first, twin = self._pair(player, 0)
        self._seeded.pop(first, None)  # a replay draws unseen
        self.generator(player, step, 0)
        self._seeded[first] = derive_seed(self.seed, player, step, 0)
        return [first, twin]

    def _pair(self, player: str, index: int) -> tuple[torch.Generator, torch.Generator]:
        key = (player, index)
        if key not in self._generators:
            self._generators[key] = (torch.Generator(self._device), torch.Generator(self._device))
        return self._generators[key]

    def _seed_global(self, seed: int) -> None:
        torch.random.default_generator.manual_seed(seed)  # torch.manual_seed would format a stack each time
        if self._device.type == "cuda":
            number = torch.cuda.current_device() if self._device.index is None else self._device.index
            torch.cuda.default_generators[number].manual_seed(seed)

    def restart(self, *names: str | int) -> None:
        """Go on with other numbers, which `names` tell from the first ones."""
        self.seed = derive_seed(self.seed, *names)

    def state_dict(self) -> dict[str, Any]:
        """The seed in use, and each player's steps."""
        return {"seed": self.seed, "steps": dict(self._steps)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken.

        Raises:
            ValueError: it is no state of these players.
        """
        steps = dict(state["steps"])
        if steps.keys() != self._steps.keys() or not all(map(is_count, [state["seed"], *steps.values()])):
            raise ValueError("numbers of steps that no player has taken")
        self.seed, self._steps = state["seed"], steps
