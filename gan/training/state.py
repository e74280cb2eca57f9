"""Parts that have a state, and states from files that anybody may have written.

These hold dense tensors and plain values, no larger than their file.
`torch.load(weights_only=True)` runs nothing that is read, but it makes whatever the file asks for: tensors of one
element that claim to be terabytes, lists that hold themselves, lists of lists that are small and endless to walk.
"""

import math
import warnings
import zipfile
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

_MAX_ENTRIES = 1_000_000
_MAX_DEPTH = 32
_WAYS = ("lr", "capturable", "fused", "foreach")  # settings of Adam that change no result
_LEAVES = (str, int, float, bool, type(None))


class Stateful(Protocol):
    """Something that the next step depends on."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Any, /) -> object: ...


@runtime_checkable
class Restartable(Protocol):
    """A source of random numbers that can go on with others."""

    def restart(self, *names: str | int) -> None: ...


class Batches(Stateful, Protocol):
    """An endless, resumable source of real images."""

    def next_batch(self) -> tuple[Tensor, Tensor | None]: ...


class NotPlainError(ValueError):
    """A file holds something that no state of ours has."""


def load_plain(path: Path) -> dict[str, Any]:
    """The state in a file that `torch.save` wrote, onto the CPU; time and memory are bounded by the file's size.

    Raises:
        OSError: it cannot be read.
        NotPlainError: it is not such a file, or holds more than dense tensors and plain values.
    """
    size = path.stat().st_size
    if not path.is_file():
        raise NotPlainError("not a regular file")
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except OSError:
        raise
    except Exception as error:  # damaged names and sizes are errors of many kinds
        raise NotPlainError("not readable as one") from error
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise NotPlainError("a compressed record, which torch writes none of")
    if sum(record.file_size for record in records) > size:
        raise NotPlainError("records that are larger than the file")
    try:
        with warnings.catch_warnings(action="ignore"):  # what tensors that are refused below are warned of
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # damaged bytes make the unpickler fail in any way it can
        raise NotPlainError("not readable as one") from error
    if not isinstance(state, dict):
        raise NotPlainError(f"a {type(state).__name__}, no mapping")
    _Walk(size).visit(state, 0)
    return state


def is_count(value: object) -> bool:
    """Whether `value` is an integer from 0, and no truth value."""
    return type(value) is int and value >= 0


def is_amount(value: object) -> bool:
    """Whether `value` is a finite float from 0."""
    return type(value) is float and 0 <= value < math.inf


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load Adam's moments; torch itself compares no shape and takes every setting from the state.

    Moments that are there already stay where they are and take the values, for a captured step has their addresses.
    Settings that say how and not what it computes are the optimiser's own, as are those that the state lacks. What is
    refused is refused before any of it is taken.

    Raises:
        ValueError: the state is of another optimiser; or whatever else what is not plain leads to.
    """
    rates = []
    for group, own in zip(state["param_groups"], optimizer.param_groups, strict=True):
        compared = own.keys() - {"params", *_WAYS}
        if not all(_same(group.get(name, own[name]), own[name]) for name in compared):
            raise ValueError("settings of another optimiser")
        rates.append(float(group["lr"]))
    names = [name for group in state["param_groups"] for name in group["params"]]
    own_parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    shapes = dict(zip(names, (parameter.shape for parameter in own_parameters), strict=True))
    for name, moments in state["state"].items():
        found = {kind: moment.shape for kind, moment in moments.items()}
        if found != {"step": (), "exp_avg": shapes[name], "exp_avg_sq": shapes[name]}:
            raise ValueError("moments of other parameters")
    before = [dict(group) for group in optimizer.param_groups]
    places = {parameter: dict(moments) for parameter, moments in optimizer.state.items()}
    optimizer.load_state_dict(state)
    for group, own, rate in zip(optimizer.param_groups, before, rates, strict=True):
        group.update({name: own[name] for name in own if name in _WAYS or name not in group})
        group["lr"] = own["lr"].fill_(rate) if isinstance(own["lr"], Tensor) else rate
    for parameter, moments in optimizer.state.items():
        for name, place in places.get(parameter, {}).items():
            moments[name] = place.copy_(moments[name])


def _same(found: object, own: object) -> bool:
    """Whether a setting is one's own; a tensor with nothing in it differs from no number and equals none."""
    return type(found) is type(own) and found == own


class _Walk:
    """Visits all of a state, counting entries and bytes."""

    def __init__(self, size: int) -> None:
        self._entries = _MAX_ENTRIES
        self._bytes = size

    def visit(self, value: object, depth: int) -> None:
        self._entries -= 1
        if self._entries < 0:
            raise NotPlainError(f"more than {_MAX_ENTRIES:,} entries")
        if depth > _MAX_DEPTH:
            raise NotPlainError(f"entries more than {_MAX_DEPTH} levels deep")
        if isinstance(value, Tensor):
            self._visit_tensor(value)
        elif isinstance(value, dict):
            for key, entry in value.items():
                if not isinstance(key, _LEAVES):
                    raise NotPlainError(f"a key that is a {type(key).__name__}")
                self.visit(entry, depth + 1)
        elif isinstance(value, list | tuple):
            for entry in value:
                self.visit(entry, depth + 1)
        elif not isinstance(value, _LEAVES):
            raise NotPlainError(f"a {type(value).__name__}")
        elif isinstance(value, int) and value.bit_length() > 64:
            raise NotPlainError(f"an integer of {value.bit_length():,} bits")

    def _visit_tensor(self, tensor: Tensor) -> None:
        """Each byte of the file may be part of one tensor, so that walking all of them takes no longer than reading."""
        strange = tensor.is_meta or tensor.is_quantized or tensor.is_nested or tensor.is_complex()
        if strange or tensor.layout != torch.strided:
            raise NotPlainError(f"a tensor of {tensor.dtype}, {tensor.layout} on {tensor.device}")
        self._bytes -= tensor.numel() * tensor.element_size()
        if self._bytes < 0:
            raise NotPlainError("tensors that are larger than the file")
