"""How large networks are before they are built, and whether a machine has room for them."""

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from gan.build.players import ImageFacts, build_discriminator, build_generator
from gan.config import Config, validate
from gan.errors import UserError, is_out_of_memory

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
Network = TypeVar("Network", bound=nn.Module)


def sketch(build: Callable[[], Network]) -> Network | None:
    """What `build` builds, on torch's meta device: shapes without memory; None where that cannot be had.

    Raises:
        MemoryError: even its sizes are beyond what torch can count.
    """
    try:
        with torch.device("meta"), _WithoutNumbers():
            return build()
    except (RuntimeError, OverflowError, TypeError) as error:
        if is_out_of_memory(error) or "Overflow" in f"{type(error).__name__} {error}":  # a size of more than 64 bits
            raise MemoryError from error
        if isinstance(error, TypeError):
            raise
        return None  # what reads numbers of its weights while it is built has none here


class _WithoutNumbers(TorchFunctionMode):
    """Passes over what only changes numbers: the meta device holds none, and asking it loads torch's compiler."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in ("normal_", "uniform_", "normalize"):
            return args[0] if args else kwargs["tensor"]
        func = torch.empty if name == "randn" else func
        return func(*args, **(kwargs or {}))


def state_bytes(generator_parameters: float, discriminator_parameters: float) -> float:
    """Of float32 weights, gradients and Adam's two moments of both players, and of the average generator."""
    return 4 * (5 * generator_parameters + 4 * discriminator_parameters)


def require_room(config: Config, facts: ImageFacts, device: torch.device) -> None:
    """Refuse players whose states alone exceed the memory of `device`, swap included, before anything is allocated.

    Raises:
        UserError: they do; it names the largest number of the config that is to blame, and about what would fit.
    """
    room, needed = _room(device), _needed(config, facts)
    if needed <= room:
        return
    amount = shown_bytes(needed) if math.isfinite(needed) else f"more than {shown_bytes(2.0**63)}"
    needs = f"needs {amount} of parameters and optimiser state, {device} has {shown_bytes(room)}"
    for key, value in _numbers(config):
        if fitting := _largest(config, facts, key, value, room):
            raise UserError(f"{key}={value}: {needs}; at most about {fitting} would fit")
    raise UserError(f"generator and discriminator: {needs}; lower {', '.join(key for key, _ in _numbers(config)[:4])}")


def shown_bytes(count: float) -> str:
    """In the unit that keeps it below 1024: `4.1 PiB`."""
    power = min(int(math.log2(max(count, 1)) // 10), len(UNITS) - 1)
    return f"{count / 1024**power:.3g} {UNITS[power]}"


def _room(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    if device.type != "cpu" or "SC_PHYS_PAGES" not in os.sysconf_names:
        return math.inf
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + _swap())


def _swap() -> int:
    """Bytes; 0 where Linux's /proc does not tell."""
    try:
        with Path("/proc/meminfo").open(encoding="ascii") as file:
            return next((1024 * int(line.split()[1]) for line in file if line.startswith("SwapTotal:")), 0)
    except OSError:
        return 0


def _needed(config: Config, facts: ImageFacts) -> float:
    """Bytes; 0 where the networks do not tell."""
    try:
        networks = sketch(lambda: build_generator(config, facts)), sketch(lambda: build_discriminator(config, facts))
    except MemoryError:
        return math.inf
    sizes = [0 if one is None else sum(parameter.numel() for parameter in one.parameters()) for one in networks]
    return state_bytes(*sizes)


def _numbers(config: Config) -> list[tuple[str, int]]:
    """The whole numbers of both players' sections, keys joined by dots, the largest first."""
    tree = config.model_dump()
    found = [item for player in ("generator", "discriminator") for item in _leaves(tree[player], player)]
    return sorted(found, key=lambda item: -item[1])


def _leaves(tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, int]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}.{key}")
        elif type(value) is int and value > 1:
            yield f"{prefix}.{key}", value


def _largest(config: Config, facts: ImageFacts, key: str, value: int, room: float) -> int:
    """About the largest value of one key that fits, all others as they are; 0 for none."""
    low, high = value, value
    while low and not _fits(config, facts, key, low, room):
        low, high = low // 2, low
    for _ in range(6 if low else 0):
        middle = (low + high) // 2
        low, high = (middle, high) if _fits(config, facts, key, middle, room) else (low, middle)
    digits = 10 ** max(len(str(low)) - 2, 0)
    return low // digits * digits


def _fits(config: Config, facts: ImageFacts, key: str, value: int, room: float) -> bool:
    tree: dict[str, Any] = config.model_dump()
    *parents, last = key.split(".")
    section = tree
    for parent in parents:
        section = section[parent]
    section[last] = value
    try:
        return 0 < _needed(validate(tree), facts) <= room
    except UserError:  # a number that no such network takes
        return False
