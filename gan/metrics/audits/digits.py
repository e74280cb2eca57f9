"""Exact modes of digits: a classifier reads the digit, so a mode is a class and not a cluster.

scikit-learn's digits are read by a support vector machine trained on the spot, MNIST's by the network of
`gan.metrics.extractors.mnist_digits`.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor
from torch.nn import functional as F

from gan.files import atomic_path
from gan.metrics.extractors.mnist_digits import ACCURACY, WEIGHTS, MnistNetwork, of_side
from gan.metrics.images import Labels, Pixels

SIZE = 16  # pixels of a digit that the support vector machine reads; larger ones are averaged down to it
REQUIRED_ACCURACY = 0.97  # of the support vector machine on held-out digits
SEED = 0
BLOCK = 1024  # images or digits at a time


class Digits(NamedTuple):
    """uint8 images `(N, R, R, 1)` of digits and what they show, int64 `(N,)` from 0 to 9."""

    images: Pixels
    labels: Labels


class DigitReader(Protocol):
    """`accuracy` is that of single held-out digits; `identity` is JSON-able and says which classifier it is."""

    @property
    def accuracy(self) -> float: ...

    @property
    def identity(self) -> dict[str, Any]: ...

    def classify(self, images: Pixels) -> Labels:
        """uint8 `(N, R, R, 1)` → 0 … 9; `(N, R, R, 3)`, a digit in each channel, → 100·red + 10·green + blue."""


@dataclass(frozen=True)
class DigitClassifier:
    """Reads scikit-learn's digits, alone or stacked; `accuracy` is that of single held-out digits."""

    model: Any
    accuracy: float

    @property
    def identity(self) -> dict[str, Any]:
        """What it was made of, for a protocol."""
        return {"name": "support vector machine", "trained_on": "digits train"}

    def classify(self, images: Pixels) -> Labels:
        """uint8 `(N, R, R, 1)` → 0 … 9; `(N, R, R, 3)`, a digit in each channel, → 100·red + 10·green + blue."""
        labels = np.zeros(len(images), dtype=np.int64)
        for start in range(0, len(images), BLOCK):
            block = np.asarray(images[start : start + BLOCK])
            for channel in range(block.shape[3]):
                digits = self.model.predict(_vectors(block[..., channel]))
                labels[start : start + BLOCK] = 10 * labels[start : start + BLOCK] + digits
        return labels


def train_digit_classifier(training: Digits, held_out: Digits) -> DigitClassifier:
    """A support vector machine on 40 principal components, trained on scikit-learn's digits in about a second.

    Args:
        training, held_out: the training split and the test split at the resolution that is to be read.

    Raises:
        RuntimeError: it reads less than 97 % of the held-out digits.
    """
    from sklearn.decomposition import PCA  # here, because importing it takes a second
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import SVC

    model = make_pipeline(PCA(40, random_state=SEED), SVC(C=10))
    model.fit(_vectors(training.images[..., 0]), training.labels)
    accuracy = float((model.predict(_vectors(held_out.images[..., 0])) == held_out.labels).mean())
    if accuracy < REQUIRED_ACCURACY:
        size = held_out.images.shape[1]
        raise RuntimeError(f"the digit classifier reads {accuracy:.1%} of held-out digits at {size} pixels")
    return DigitClassifier(model, accuracy)


def _vectors(digits: Pixels) -> np.ndarray:
    """uint8 `(N, R, R)` → float32 in [0, 1] `(N, min(R, 16)²)`."""
    values = torch.from_numpy(np.array(digits)).float()[:, None] / 255
    if values.shape[-1] > SIZE:
        values = F.adaptive_avg_pool2d(values, SIZE)
    return values.flatten(1).numpy()


@dataclass(frozen=True)
class MnistClassifier:
    """Reads MNIST's digits, alone or stacked; `sha256` is that of the weights' file."""

    network: MnistNetwork
    sha256: str
    accuracy: float = ACCURACY

    @property
    def identity(self) -> dict[str, Any]:
        """Its weights, for a protocol."""
        return {"name": WEIGHTS.name, "sha256": self.sha256}

    def classify(self, images: Pixels) -> Labels:
        """uint8 `(N, R, R, 1)` → 0 … 9; `(N, R, R, 3)`, a digit in each channel, → 100·red + 10·green + blue.

        Digits of 32 × 32 are read without their margin of 2; other sizes than 28 and 32 are resized.
        """
        labels = np.zeros(len(images), dtype=np.int64)
        for start in range(0, len(images), BLOCK):
            block = torch.from_numpy(np.array(images[start : start + BLOCK])).permute(3, 0, 1, 2)  # (C, n, R, R)
            digits = predict(self.network, of_side(block.flatten(0, 1)[:, None].float() / 255))
            places = 10 ** torch.arange(len(block) - 1, -1, -1)
            labels[start : start + BLOCK] = (digits.unflatten(0, (len(block), -1)) * places[:, None]).sum(0)
        return labels


def load_mnist_classifier() -> MnistClassifier:
    """The classifier with the weights that the repository holds."""
    content = WEIGHTS.read_bytes()
    network = MnistNetwork()
    network.load_state_dict(load(content))
    return MnistClassifier(network.eval(), hashlib.sha256(content).hexdigest())


def save_network(network: MnistNetwork, path: Path) -> str:
    """Write the weights to `path`; returns the SHA-256 of the file."""
    content = save({name: value.contiguous() for name, value in network.state_dict().items()})
    with atomic_path(path) as unfinished:
        unfinished.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


@torch.inference_mode()
def predict(network: MnistNetwork, digits: Tensor) -> Tensor:
    """Digits `(N, 1, 28, 28)` in [0, 1] → 0 … 9, int64 `(N,)`."""
    return torch.cat([network(block).argmax(1) for block in digits.split(BLOCK)])
