"""The random numbers that a step draws beside its latents: none is remembered, each follows from where it is drawn."""

from collections.abc import Mapping
from typing import Any

import torch

from gan.seeds import derive_seed, seeded_generator
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

    def next_step(self, player: str) -> int:
        """The number of the step that `player` begins, from 0."""
        number = self._steps[player]
        self._steps[player] += 1
        return number

    def generator(self, player: str, step: int, index: int) -> torch.Generator:
        """That of one micro-batch, by its index among those of all ranks; for dropout, torch's own are seeded too."""
        seed = derive_seed(self.seed, player, step, index, "global")
        torch.random.default_generator.manual_seed(seed)  # torch.manual_seed would format a stack each time
        if self._device.type == "cuda":
            number = torch.cuda.current_device() if self._device.index is None else self._device.index
            torch.cuda.default_generators[number].manual_seed(seed)
        return seeded_generator(self.seed, player, step, index, device=self._device)

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
