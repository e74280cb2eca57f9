"""Exact modes of the digit sources: a classifier reads the digit, so a mode is a class and not a cluster."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from gan.data.recipe import Labels, Pixels
from gan.data.store import prepare

SIZE = 16  # pixels; larger digits are averaged down to it
ACCURACY = 0.97  # on held-out digits, which the classifier must reach
BLOCK = 4096  # digits at a time
SEED = 0


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


def train_digit_classifier(resolution: int, root: str | Path) -> DigitClassifier:
    """A support vector machine on 40 principal components, trained on the digits' training split in about a second.

    Args:
        resolution: of the images it is to read.
        root: where prepared images are kept.

    Raises:
        RuntimeError: it reads less than 97 % of the held-out digits.
    """
    from sklearn.decomposition import PCA  # here, because importing it takes a second
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import SVC

    train, test = (prepare("digits", split=split, resolution=resolution, root=root) for split in ("train", "test"))
    model = make_pipeline(PCA(40, random_state=SEED), SVC(C=10))
    model.fit(_vectors(train.images[..., 0]), train.labels)
    accuracy = float((model.predict(_vectors(test.images[..., 0])) == test.labels).mean())
    if accuracy < ACCURACY:
        raise RuntimeError(f"the digit classifier reads {accuracy:.1%} of held-out digits at {resolution} pixels")
    return DigitClassifier(model, accuracy)


def _vectors(digits: Pixels) -> np.ndarray:
    """uint8 `(N, R, R)` → float32 in [0, 1] `(N, min(R, 16)²)`."""
    values = torch.from_numpy(np.array(digits)).float()[:, None] / 255
    if values.shape[-1] > SIZE:
        values = F.adaptive_avg_pool2d(values, SIZE)
    return values.flatten(1).numpy()
