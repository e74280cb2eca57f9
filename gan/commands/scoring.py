"""Scores of a generator by the protocol its config asks for."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gan.build import prepare_images
from gan.config import Config, DataConfig
from gan.data.sources import source_info
from gan.data.store import ImageStore
from gan.device import make_autocast, resolve_precision
from gan.errors import UserError, nearest
from gan.files import write_text
from gan.metrics.evaluator import Evaluator
from gan.metrics.extractors import EXTRACTORS, build_extractor
from gan.metrics.reference import ReferenceStatistics
from gan.metrics.results import Result, measured
from gan.models.sampling import LatentStream, generate
from gan.seeds import seeded_generator

_SIBLINGS = ("test", "val", "valid", "validation")  # of a file or folder named after its training split


@dataclass
class Scorer:
    """Scores generators of one config; its extractor and reference are read once.

    Args:
        config: the run's.
        num_classes: of the labels that the generators take, or None.
        device: where images are generated and scored.
        progress: show a bar.

    Raises:
        UserError: the extractor's weights cannot be had, or the reference images.
    """

    config: Config
    num_classes: int | None
    device: torch.device
    progress: bool = True

    def __post_init__(self) -> None:
        section = self.config.evaluation
        if section.extractor not in EXTRACTORS:
            raise UserError(f"evaluation.extractor: no {section.extractor!r}{nearest(section.extractor, EXTRACTORS)}")
        self._evaluator = Evaluator(
            build_extractor(section.extractor, weights=section.weights, device=self.device),
            self.device,
            section.metrics,
            section.batch_size,
            self.progress,
        )
        store = reference_images(self.config.data, section.reference, section.reference_path)
        self._reference = measure_reference(
            self._evaluator, store, section.reference_samples, Path(self.config.data.root)
        )

    def score(self, generator: nn.Module, weights: str) -> Result:
        """Score `generator`, which is left as it was, as are all random states; `weights` says whose: ema or raw."""
        section = self.config.evaluation
        return self._evaluator.evaluate(
            self._sampler(generator),
            section.samples,
            self._reference,
            seed=section.seed,
            weights=weights,
            label_sampling="none" if self.num_classes is None else "uniform",
        )

    def _sampler(self, generator: nn.Module) -> Callable[[int], Tensor]:
        random = seeded_generator(self.config.evaluation.seed, "evaluation")
        stream = LatentStream(self.config.generator.latent_dim, self.num_classes, random)
        precision = resolve_precision(self.config.training.precision, self.device)
        autocast = make_autocast(precision, self.device)
        return lambda count: generate(generator, *stream.next(count), autocast)


def measure_reference(evaluator: Evaluator, store: ImageStore, count: int | None, root: Path) -> ReferenceStatistics:
    """Statistics of `count` images of a store at even distances, all when None; kept in `root` between runs."""
    images = evenly(store.images, count)
    return evaluator.reference(
        images,
        name=store.source,
        split=store.split,
        content=store.content_hash if len(images) == store.num_images else None,
        cache_dir=root / "reference",
    )


def reference_images(data: DataConfig, split: str = "auto", path: str | None = None) -> ImageStore:
    """The images to measure against: those at `path`, or the split of `data`'s source.

    `auto` is the source's test split; of a file or folder, the one beside it that is named test or val where it is
    named train; where there is none, the training images.
    """
    splits = source_info(data.source).splits
    if split != "auto" and splits and split not in splits:
        raise UserError(
            f"evaluation.reference: {data.source} has no split {split!r}; accepted: auto, {', '.join(splits)}"
        )
    found = None if path is None else Path(path)
    if found is None and split == "auto":
        if data.path is not None and not splits:
            found = _sibling(Path(data.path))
        else:
            split = source_info(data.source).reference_split
    if found is not None:
        if data.path is None:
            raise UserError(f"evaluation.reference_path: {path} found, but data.source {data.source} reads no path")
        split = found.stem if split == "auto" else split
        data = data.model_copy(update={"path": str(found), "images_per_class": None})
    return prepare_images(data, data.split if split == "auto" else split)


def _sibling(path: Path) -> Path | None:
    """`…/cifar10_train.npz` → `…/cifar10_test.npz`, `…/train` → `…/val`, whichever exists."""
    if "train" not in path.name:
        return None
    candidates = (path.with_name(path.name.replace("train", name)) for name in _SIBLINGS)
    return next((candidate for candidate in candidates if candidate.exists()), None)


def evenly(images: np.ndarray, count: int | None) -> np.ndarray:
    """`count` images at even distances, so that sorted classes are all there; all of them when None."""
    if count is None or count >= len(images):
        return images
    return images[np.arange(count) * len(images) // count]


def save_result(directory: Path, step: int, result: Result) -> Path:
    """Write a result with its protocol to `directory`, named by step and protocol; returns the file."""
    protocol = result.protocol
    path = directory / _file_name(step, protocol.weights, protocol.extractor, protocol.generated_count)
    content: dict[str, Any] = {"step": step, **result.to_dict()}
    write_text(path, json.dumps(content, indent=2) + "\n")
    return path


def load_result(directory: Path, step: int, config: Config) -> Result | None:
    """The saved result of the average generator at a step, if it was measured as `config` asks for."""
    section = config.evaluation
    path = directory / _file_name(step, "ema", section.extractor, section.samples)
    try:
        result = Result.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return None  # missing or damaged: to be measured again
    same = result.protocol.seed == section.seed and set(measured(result)) == set(section.metrics)
    return result if same else None


def _file_name(step: int, weights: str, extractor: str, count: int) -> str:
    return f"step_{step:08d}_{weights}_{extractor}_{count}.json".replace(", ", "_").replace(" ", "_")
