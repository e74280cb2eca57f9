"""The random numbers of training: one generator a use, all of them in the checkpoint."""

from typing import Any

import torch
from torch import Tensor

from gan.seeds import derive_seed, seeded_generator


class RandomStreams:
    """Latents and labels for each player, from separate generators on `device`, plus torch's global generators.

    Args:
        seed: of the run.
        device: where latents are drawn; a stream on one device differs from one on another.
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
        self.seed = seed
        self._rank = rank
        self._world_size = world_size
        self._latent_dim = latent_dim
        self._num_classes = num_classes
        self._device = device
        self._generators = {
            player: seeded_generator(seed, "latents", player, device=device)
            for player in ("discriminator", "generator")
        }
        torch.manual_seed(derive_seed(seed, "global") % 2**32)  # dropout and the like

    def restart(self, *names: str | int) -> None:
        """Begin other streams of the same seed, which `names` tell from the first ones."""
        for player, generator in self._generators.items():
            generator.manual_seed(derive_seed(self.seed, "latents", player, *names))
        torch.manual_seed(derive_seed(self.seed, "global", *names) % 2**32)

    def latents(self, player: str, count: int) -> tuple[Tensor, Tensor | None]:
        """This rank's latents `(count, Z)` and labels `(count,)` or None for a step of `player`."""
        random = self._generators[player]
        everyone = count * self._world_size
        own = slice(self._rank * count, (self._rank + 1) * count)
        latents = torch.randn(everyone, self._latent_dim, generator=random, device=self._device)[own]
        if self._num_classes is None:
            return latents, None
        return latents, torch.randint(self._num_classes, (everyone,), generator=random, device=self._device)[own]

    def state_dict(self) -> dict[str, Any]:
        """All generators' states."""
        state: dict[str, Any] = {name: generator.get_state() for name, generator in self._generators.items()}
        state["global"] = torch.get_rng_state()
        state["cuda"] = torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was taken."""
        for name, generator in self._generators.items():
            generator.set_state(state[name].cpu())
        torch.set_rng_state(state["global"].cpu())
        if state["cuda"] is not None and self._device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"].cpu(), self._device)
