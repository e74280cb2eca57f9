"""Bytes gone wrong, and what a case of a fuzz is."""

import random
from collections.abc import Callable

Case = Callable[[], object]


def flipped(content: bytes, chance: random.Random) -> bytes:
    """A few bytes changed, removed or put in, or the end cut off."""
    damaged = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        place = chance.randrange(len(damaged))
        change = chance.randrange(4)
        if change == 0:
            damaged[place] = chance.randrange(256)
        elif change == 1:
            del damaged[place]
        elif change == 2:
            damaged.insert(place, chance.randrange(256))
        elif chance.random() < 0.2:
            del damaged[place:]
        if not damaged:
            break
    return bytes(damaged)
