"""Who reads the modes of which source: the classifiers of digits, by the source's name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from gan.data.recipe import Labels, Pixels
from gan.metrics.audits.digit_classifier import train_digit_classifier
from gan.metrics.audits.mnist_classifier import load_mnist_classifier


class DigitReader(Protocol):
    """`accuracy` is that of single held-out digits; `identity` is JSON-able and says which classifier it is."""

    @property
    def accuracy(self) -> float: ...

    @property
    def identity(self) -> dict[str, Any]: ...

    def classify(self, images: Pixels) -> Labels:
        """uint8 `(N, R, R, 1)` → 0 … 9; `(N, R, R, 3)`, a digit in each channel, → 100·red + 10·green + blue."""


def _mnist(resolution: int, root: str | Path) -> DigitReader:
    return load_mnist_classifier()


# (resolution of the images, where prepared images are kept) → the classifier
DIGIT_READERS: dict[str, Callable[[int, str | Path], DigitReader]] = {
    "digits": train_digit_classifier,
    "stacked_digits": train_digit_classifier,
    "mnist": _mnist,
    "stacked_mnist": _mnist,
}
