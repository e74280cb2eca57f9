"""MNIST's digits as the referee of `gan.metrics.extractors.mnist_digits` reads them: classes alone, of uint8 images."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from gan.data.recipe import Labels, Pixels
from gan.files import atomic_path
from gan.metrics.extractors.mnist_digits import ACCURACY, WEIGHTS, MnistNetwork, of_side

BLOCK = 1024  # digits at a time


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


def load_mnist_classifier(path: Path = WEIGHTS) -> MnistClassifier:
    """The classifier with the weights that the repository holds."""
    content = path.read_bytes()
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
