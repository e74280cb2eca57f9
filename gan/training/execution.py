"""How the update of a player is executed: as Python has it, or as a CUDA graph that is captured once and replayed.

A step of a small network is hundreds of kernels of some microseconds each, which a GPU runs faster than Python can ask
for them. A graph asks once. It holds addresses, not values: what changes from one step to the next, the batch, must be
copied to where the graph reads it; parameters, moments, rates and running statistics are changed in place anyway.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from gan.training.noise import Noise

MOVING = "moving"
Body = Callable[[], Any]
Replay = Callable[[], object]
Choices = tuple[Any, ...]  # whose update it is, and what else Python decides in it
Execution = Callable[[Callable[..., Any], Sequence[Tensor | None], Choices], Any]


def directly(update: Callable[..., Any], batch: Sequence[Tensor | None], choices: Choices) -> Any:
    """As Python has it."""
    return update(*batch)


class Graphs(Protocol):
    """What can capture an update."""

    def warm_up(self, body: Body) -> Any:
        """Play it as it is, so that all that is made on first use is there."""

    def capture(self, player: str, body: Body, generators: Sequence[torch.Generator]) -> tuple[Replay, Any]:
        """What plays it again, from where nothing has been played yet; and its result, which stays in place until the
        player's next update.
        """


class Captured(NamedTuple):
    """A captured update: what replays it, what it reports, and the gradients that its player is left with."""

    replay: Replay
    result: Any
    gradients: list[tuple[nn.Parameter, Tensor | None]]


class Replayed:
    """Plays updates on inputs that stay where they are, and from the fourth of a kind on as graphs.

    What Python decides in an update, `choices` (whose it is, which regularisers act) and the batch's shapes, tells the
    kinds apart. One that differs in anything else than these and the values of tensors must not be played so; one with
    `MOVING` among its choices, in which a number still moves from step to step, is played as Python has it.

    Args:
        graphs: what captures; None where nothing can, so that updates are played on the fixed inputs, but not captured.
        parameters: all that may have gradients, both players'.
        noise: what updates draw from.
    """

    WARM_UP = 3

    def __init__(self, graphs: Graphs | None, parameters: Sequence[nn.Parameter], noise: Noise) -> None:
        self._graphs = graphs
        self._parameters = list(parameters)
        self._noise = noise
        self._inputs: dict[tuple[Any, ...], Tensor] = {}
        self._played: dict[tuple[Any, ...], int] = {}
        self._captured: dict[tuple[Any, ...], Captured] = {}

    def __call__(self, update: Callable[..., Any], batch: Sequence[Tensor | None], choices: Choices) -> Any:
        player = choices[0]
        inputs = [self._placed((player, index), one) for index, one in enumerate(batch)]
        kind = (choices, *((None if one is None else (one.shape, one.dtype)) for one in batch))
        generators = self._noise.seed_ahead(player, self._noise.upcoming(player))
        played = self._played.get(kind, 0)
        self._played[kind] = played + 1
        if self._graphs is None:
            return update(*inputs)
        if played < self.WARM_UP or MOVING in choices:
            return self._graphs.warm_up(lambda: update(*inputs))
        if kind not in self._captured:
            before = [one.grad for one in self._parameters]
            replay, result = self._graphs.capture(player, lambda: update(*inputs), generators)
            moved = [one for one, gradient in zip(self._parameters, before, strict=True) if one.grad is not gradient]
            self._captured[kind] = Captured(replay, result, [(one, one.grad) for one in moved])
        else:
            self._noise.next_step(player)
        return self._replay(self._captured[kind])

    def _replay(self, captured: Captured) -> Any:
        captured.replay()
        for parameter, gradient in captured.gradients:
            parameter.grad = gradient
        return _copied(captured.result)

    def _placed(self, name: tuple[Any, ...], value: Tensor | None) -> Tensor | None:
        """Where inputs of this name and shape are always put, with `value` in it."""
        if value is None:
            return None
        key = (*name, value.shape, value.dtype)
        if key not in self._inputs:
            self._inputs[key] = torch.empty_like(value)
        return self._inputs[key].copy_(value)


def _copied(result: Any) -> Any:
    """Reported values, copied from where the player's next replay puts its own; what is seen is read before that."""
    if isinstance(result, dict):
        return {name: value.clone() for name, value in result.items()}
    values, seen = result
    return _copied(values), seen


class CudaGraphs:
    """Captures on a CUDA device; a player's graphs share a pool of memory, for they are never replayed at once.

    Not so those of both: what a discriminator's update has left, its gradients and what it saw, is read after the
    generator's, which would compute in the same memory where it was captured first.

    Args:
        device: where.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pools: dict[str, Any] = {}

    def warm_up(self, body: Body) -> Any:
        """On another stream than the usual one, as capturing will be."""
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = body()
        current.wait_stream(self._stream)
        return result

    def capture(self, player: str, body: Body, generators: Sequence[torch.Generator]) -> tuple[Replay, Any]:
        """A graph; the thread that pins images may go on meanwhile."""
        pool = self._pools.setdefault(player, torch.cuda.graph_pool_handle())
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"):
            result = body()
        return graph.replay, result


def build_execution(replayed: bool, device: torch.device, networks: Sequence[nn.Module], noise: Noise) -> Execution:
    """By name of the config's `cuda_graphs`."""
    if not replayed:
        return directly
    parameters = [parameter for network in networks for parameter in network.parameters()]
    return Replayed(CudaGraphs(device) if device.type == "cuda" else None, parameters, noise)
