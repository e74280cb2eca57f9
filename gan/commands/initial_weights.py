"""The weights that a run begins with where they are another run's: `gan train --init-from RUN`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gan.errors import UserError
from gan.sampling.open import find_checkpoint, read_config
from gan.training.checkpoint import digest, read_checkpoint
from gan.training.run_directory import RunDirectory

DIGITS = 16  # of the weights' digest that a config keeps
ORIGIN = re.compile(rf"(.*) step (\d+) [0-9a-f]{{{DIGITS}}}", re.DOTALL)


@dataclass(frozen=True)
class InitialWeights:
    """Both players' weights and the average generator's.

    `origin` names run, step and digest, for the run's config, or is None where training begins with random ones;
    `state` is the checkpoint, or None where nothing is to be loaded: a run that has begun has weights of its own.
    """

    origin: str | None = None
    state: Mapping[str, Any] | None = None

    def load_players(self, generator: nn.Module, discriminator: nn.Module) -> None:
        """Put them into the players.

        Raises:
            UserError: names or shapes do not fit.
        """
        if self.state is not None:
            self._load(generator, "generator")
            self._load(discriminator, "discriminator")

    def load_average(self, average: nn.Module) -> None:
        """Put the average generator's into `average`."""
        if self.state is not None:
            self._load(average, "ema")

    def _load(self, network: nn.Module, part: str) -> None:
        assert self.state is not None
        wanted, found = network.state_dict(), self.state[part]
        for name in [*wanted, *found]:
            theirs, ours = _shown(found.get(name)), _shown(wanted.get(name))
            if theirs != ours:
                raise UserError(
                    f"--init-from: {name} of the {part} is {theirs} in {self.origin}, and {ours} in this config; the "
                    "networks, channels and classes of both have to be the same"
                )
        network.load_state_dict(found)


def initial_weights(run: RunDirectory, asked: Path | None, origin: str | None) -> InitialWeights:
    """What `run` begins with, or began with.

    Args:
        run: the new one, or one that goes on.
        asked: the run, or its checkpoint, whose weights are wanted; None for none.
        origin: what the config says already.

    Raises:
        UserError: `asked` is no run or checkpoint, or the config names an origin of a run that has not begun.
    """
    begun = run.newest_checkpoint() is not None
    if asked is None:
        if origin is not None and not begun:
            raise UserError(f"training.init_from: {origin!r} found, null accepted: --init-from RUN writes it")
        return InitialWeights(origin)
    other = RunDirectory.of(asked)
    name, file = other.path.resolve().name, asked if asked.suffix == ".pt" else None
    recorded = read_config(run, {}).training.init_from if begun and run.config.is_file() else None
    told = read_origin(recorded)
    if told is not None and told[0] == name:
        # A newest or best checkpoint may be of a later step by now, and any may be gone.
        file = asked if asked.match("step_*.pt") else other.checkpoints / told[1]
        if file.name == told[1] and not file.exists():
            return InitialWeights(recorded)
    state = read_checkpoint(file or find_checkpoint(other, None))
    try:
        weights = {part: state[part] for part in ("generator", "discriminator", "ema")}
    except KeyError as error:
        raise UserError(f"--init-from {asked}: the checkpoint has no {error.args[0]}") from error
    origin = f"{name} step {state['step']} {digest(weights)[:DIGITS]}"
    return InitialWeights(origin, None if begun else weights)


def read_origin(origin: str | None) -> tuple[str, str] | None:
    """The names of the run and of the checkpoint in it that an origin tells of; None where it is no origin."""
    found = ORIGIN.fullmatch(origin or "")
    return None if found is None else (found[1], f"step_{int(found[2]):08d}.pt")


def _shown(tensor: Tensor | None) -> str:
    if tensor is None:
        return "absent"
    return "×".join(map(str, tensor.shape)) or "one number"
