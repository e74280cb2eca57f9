"""Who reads the modes of which source: the classifiers of digits, by the source's name."""

from collections.abc import Callable
from pathlib import Path

from gan.data.store import prepare
from gan.metrics.audits.digits import DigitReader, Digits, load_mnist_classifier, train_digit_classifier


def _trained(resolution: int, root: str | Path) -> DigitReader:
    stores = [prepare("digits", split=split, resolution=resolution, root=root) for split in ("train", "test")]
    return train_digit_classifier(*(Digits(store.images, store.labels) for store in stores if store.labels is not None))


def _mnist(resolution: int, root: str | Path) -> DigitReader:
    return load_mnist_classifier()


# (resolution of the images, where prepared images are kept) → the classifier
DIGIT_READERS: dict[str, Callable[[int, str | Path], DigitReader]] = {
    "digits": _trained,
    "stacked_digits": _trained,
    "mnist": _mnist,
    "stacked_mnist": _mnist,
}
