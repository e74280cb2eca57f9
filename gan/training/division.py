"""One batch as equal parts, played by several ranks and one after the other on each, as one step.

Rank r of R, with k micro-batches, plays the parts r·k … r·k + k − 1 of the R·k parts of a batch: R ranks compute what
one rank computes with R times the micro-batches. Gradients and reported values are means over all parts, reduced over
ranks in one message. What a step's forward passes change (batch statistics, running means and counters of regularisers)
each part changes from where the step began, and the step ends at the mean over parts; so it is the same on every rank.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from gan import distributed
from gan.errors import UserError

State = list[dict[str, Any]]


@dataclass(frozen=True)
class Division:
    """How many parts a batch has, and which of them are this rank's."""

    rank: int = 0
    world_size: int = 1
    accumulation: int = 1

    @property
    def count(self) -> int:
        """How many parts there are."""
        return self.world_size * self.accumulation

    def require_divisible(self, batch_size: int) -> None:
        """Check that the parts of a global batch are equal.

        Raises:
            UserError: they are not.
        """
        if batch_size % self.count:
            raise UserError(
                f"training.batch_size: {batch_size} found, multiples of {self.count} accepted: it is the global batch, "
                f"split among {self.world_size} processes times training.accumulation {self.accumulation}"
            )


@dataclass(frozen=True)
class Part:
    """One part of a batch: the `index`-th of `count`."""

    index: int
    count: int

    def draws(self, random: torch.Generator, rows: int) -> AbstractContextManager[object]:
        """A context in which draws from `random` for this part's `rows` samples are its rows of the whole batch's."""
        return nullcontext() if self.count == 1 else _RowsOfDraws(random, self, rows)


class _RowsOfDraws(TorchFunctionMode):
    """Draws of m · rows numbers, for m batches end to end, become those of m whole batches, of which the part is kept.

    So the stream moves on as in one undivided step. Draws of another first dimension are shared by all parts.
    """

    def __init__(self, random: torch.Generator, part: Part, rows: int) -> None:
        super().__init__()
        self._random, self._part, self._rows = random, part, rows

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("generator") is not self._random:
            return func(*args, **kwargs)
        if func is torch.randint:
            *bounds, size = args
        else:  # rand and randn take a size or its entries
            bounds, size = [], args if isinstance(args[0], int) else args[0]
        batches, rest = divmod(size[0], self._rows)
        if rest:
            return func(*args, **kwargs)
        count = self._part.count
        whole = func(*bounds, (batches * count * self._rows, *size[1:]), **kwargs)
        return whole.unflatten(0, (batches, count, self._rows))[:, self._part.index].flatten(0, 1)


class Descent:
    """One step of an optimiser down the mean gradient of all parts of a batch.

    Args:
        division: of the batch.
        optimizer: what moves the player.
        modules: what forward passes change: their batch norms, and all state of those without parameters.
        random: what the parts draw from.
    """

    def __init__(
        self,
        division: Division,
        optimizer: torch.optim.Optimizer,
        modules: Sequence[nn.Module],
        random: torch.Generator,
    ) -> None:
        self._division = division
        self._optimizer = optimizer
        self._random = random
        self._values: list[dict[str, Tensor]] = []
        self._ends: list[State] = []
        self._changing = [] if division.count == 1 else _changing(modules)
        optimizer.zero_grad(set_to_none=True)

    def parts(self, *batch: Tensor | None) -> Iterator[tuple[Any, ...]]:
        """Each of this rank's parts with its rows of the batch, in turn, all from where the step began."""
        division = self._division
        if division.accumulation == 1:
            yield Part(division.rank, division.count), *batch
            return
        start, drawn = _state(self._changing), self._random.get_state()
        rows = [[None] * division.accumulation if one is None else one.chunk(division.accumulation) for one in batch]
        for micro, part in enumerate(zip(*rows, strict=True)):
            if micro:
                _set_state(self._changing, start)
                self._random.set_state(drawn)
            yield Part(division.rank * division.accumulation + micro, division.count), *part

    def add(self, loss: Tensor, values: dict[str, Tensor]) -> None:
        """The gradient of one part's loss, and values to report."""
        (loss if self._division.accumulation == 1 else loss / self._division.accumulation).backward()
        self._values.append(values)
        self._ends.append(_state(self._changing))

    def step(self) -> dict[str, Tensor]:
        """Take the step; returns the values' means."""
        means = _mean(self._values)
        if self._division.count > 1:
            end = _mean_state(self._ends)
            gradients = [
                p.grad for group in self._optimizer.param_groups for p in group["params"] if p.grad is not None
            ]
            states = [value for module in end for value in module.values() if _is_float(value)]
            distributed.average([*gradients, *means.values(), *states])
            _set_state(self._changing, end)
        self._optimizer.step()
        return means


def _changing(modules: Sequence[nn.Module]) -> list[nn.Module]:
    changing: list[nn.Module] = []
    for module in modules:
        if next(module.parameters(), None) is None:
            changing.append(module)
        else:
            changing += [inner for inner in module.modules() if isinstance(inner, _BatchNorm)]
    return changing


def _state(modules: Sequence[nn.Module]) -> State:
    """What forward passes change of each module: a copy of all but its parameters."""
    state = []
    for module in modules:
        parameters = {name for name, _ in module.named_parameters()}
        entries = ((name, value) for name, value in module.state_dict().items() if name not in parameters)
        state.append(
            {name: value.clone() if isinstance(value, Tensor) else copy.copy(value) for name, value in entries}
        )
    return state


def _set_state(modules: Sequence[nn.Module], state: State) -> None:
    for module, values in zip(modules, state, strict=True):
        module.load_state_dict({name: copy.copy(value) for name, value in values.items()}, strict=False)


def _mean_state(states: Sequence[State]) -> State:
    """Means of what is a floating-point tensor; of the rest, which all parts change alike, the last."""
    last = states[-1]
    return [
        {
            name: torch.stack([state[index][name] for state in states]).mean(0) if _is_float(value) else value
            for name, value in module.items()
        }
        for index, module in enumerate(last)
    ]


def _mean(values: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    if len(values) == 1:
        return values[0]
    return {name: torch.stack([one[name] for one in values]).mean(0) for name in values[0]}


def _is_float(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
