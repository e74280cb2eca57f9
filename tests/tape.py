"""A CUDA graph without a GPU: operations on tensors, recorded once and done again at the same addresses."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape(TorchDispatchMode):
    """Records every operation with the tensors it read and wrote; Python takes no part when it plays them again.

    What a graph would freeze is frozen here: numbers, shapes, addresses. What a generator gives is drawn anew.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def play(self) -> None:
        """Every operation again, its results put where the recorded ones lie."""
        for func, args, kwargs, result in self.calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                    old.copy_(new)


class Tapes:
    """What `gan.training.execution` captures with in its tests; it counts what it does."""

    def __init__(self) -> None:
        self.tapes: list[Tape] = []
        self.replays = 0

    def warm_up(self, body: Callable[[], Any]) -> Any:
        return body()

    def capture(
        self, player: str, body: Callable[[], Any], generators: Sequence[torch.Generator]
    ) -> tuple[Callable[[], object], Any]:
        """Recording does what a graph's first replay does, so that is left out."""
        with Tape() as tape:
            result = body()
        self.tapes.append(tape)
        fresh = [True]

        def replay() -> None:
            self.replays += 1
            if not fresh:
                tape.play()
            fresh.clear()

        return replay, result
