"""The latents and labels that the generator is given in training."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gan.seeds import derive_seed, seeded_generator


class Latents:
    """Latents and labels for each player's steps, from separate generators on `device`.

    Args:
        seed: of the run.
        device: where latents are drawn; those of one device differ from those of another.
        latent_dim: Z.
        num_classes: labels are uniform on 0 … num_classes − 1; None for no labels.
        rank, world_size: every rank draws for all and keeps its own rows, so the state is the same on every rank.
    """

    def __init__(
        self,
        seed: int,
        device: torch.device,
        latent_dim: int,
        num_classes: int | None,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._latent_dim = latent_dim
        self._num_classes = num_classes
        self._device = device
        self._generators = {
            player: seeded_generator(seed, "latents", player, device=device)
            for player in ("discriminator", "generator")
        }

    def next(self, player: str, count: int) -> tuple[Tensor, Tensor | None]:
        """This rank's latents `(count, Z)` and labels `(count,)` or None for the next step of `player`."""
        random = self._generators[player]
        everyone = count * self._world_size
        own = slice(self._rank * count, (self._rank + 1) * count)
        latents = torch.randn(everyone, self._latent_dim, generator=random, device=self._device)[own]
        if self._num_classes is None:
            return latents, None
        return latents, torch.randint(self._num_classes, (everyone,), generator=random, device=self._device)[own]

    def restart(self, *names: str | int) -> None:
        """Go on with other latents of the same seed, which `names` tell from the first ones."""
        for player, generator in self._generators.items():
            generator.manual_seed(derive_seed(self._seed, "latents", player, *names))

    def state_dict(self) -> dict[str, Any]:
        """Both generators' states."""
        return {player: generator.get_state() for player, generator in self._generators.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken.

        Raises:
            ValueError: on another kind of device, whose generators have other states.
        """
        for player, generator in self._generators.items():
            if state[player].shape != generator.get_state().shape:
                raise ValueError("its latents were drawn on another kind of device; go on there, or use --init-from")
            generator.set_state(state[player].cpu())
