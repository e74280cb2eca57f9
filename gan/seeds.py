"""One seed for a run, and from it an independent one for every use by name."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for one use of a run's seed; adding a use leaves the others' numbers alone."""
    text = "/".join(str(part) for part in (seed, *names))
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()  # a name may be a file's, of any bytes
    return int.from_bytes(digest[:8], "big") >> 1


def seeded_generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on `device` that belongs to one use."""
    return torch.Generator(device).manual_seed(derive_seed(seed, *names))


@contextmanager
def seeded(seed: int, *names: str | int) -> Iterator[None]:
    """Within the block torch's global CPU generator is that of one use; afterwards it is what it was."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(derive_seed(seed, *names))
        yield
