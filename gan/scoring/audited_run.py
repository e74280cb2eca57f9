"""What both audits begin with: a run's generator, its training images, and features of either."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from gan.allocator import keep_freed_memory
from gan.build import prepare_images
from gan.config import Config
from gan.data.recipe import Pixels
from gan.data.store import ImageStore
from gan.files import write_text
from gan.metrics.audits.features import Features, audit_extractor, feature_batches, real_features
from gan.metrics.audits.whitening import Whitening, fit_whitening
from gan.metrics.extractors.interface import identify
from gan.metrics.images import ArraySampler
from gan.metrics.reference import content_hash
from gan.sampling.generate import LoadedGenerator
from gan.sampling.open import open_checkpoint
from gan.scoring.reference_images import evenly, reference_images


@dataclass(frozen=True)
class AuditOptions:
    """What both audits are asked for.

    Args:
        gallery, held_out: at most so many training and held-out images, at even distances; all when None.
        neighbours: k.
        components, variance: of the whitening; see `fit_whitening`.
    """

    gallery: int | None
    held_out: int | None
    neighbours: int
    components: int | None
    variance: float | None

    def whitening(self, features: Features, **otherwise: Any) -> Whitening:
        """The whitening that is asked for, or `otherwise` where none is."""
        if self.components is None and self.variance is None:
            return fit_whitening(features, **otherwise)
        return fit_whitening(features, self.components, self.variance)


@dataclass(frozen=True)
class MeasuredImages:
    """Images uint8 `(N, H, W, C)` and their features `(N, F)`, row by row; `identity` says which they are."""

    images: Pixels
    features: Features
    identity: dict[str, Any]

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, chosen: np.ndarray) -> "MeasuredImages":
        """The images at some rows."""
        return MeasuredImages(self.images[chosen], self.features[chosen], {**self.identity, "count": len(chosen)})


@dataclass(frozen=True)
class AuditedRun:
    """A checkpoint of a run, ready to be audited."""

    path: Path
    step: int
    weights: str  # ema or raw
    config: Config
    num_classes: int | None
    generator: LoadedGenerator
    device: torch.device

    @cached_property
    def extractor(self) -> FeatureExtractorBase:
        """The one that `evaluation.extractor` names."""
        section = self.config.evaluation
        return audit_extractor(section.extractor, section.weights, self.device, section.weights_sha256, section.resize)

    def training_images(self) -> ImageStore:
        """Those that the run was trained on."""
        return prepare_images(self.config.data)

    def held_out_images(self) -> ImageStore | None:
        """Real images that the run was not trained on: its source's test split, or the file or folder beside its own
        that `evaluation.reference: auto` finds, or `evaluation.reference_path`; None where there are none.
        """
        store = reference_images(self.config.data, "auto", self.config.evaluation.reference_path)
        return None if store.content_hash == self.training_images().content_hash else store

    def measured(self, store: ImageStore, count: int | None) -> MeasuredImages:
        """`count` images of a store at even distances, all when None; their features are kept for the next audit."""
        images = evenly(store.images, count)
        content = store.content_hash if len(images) == store.num_images else content_hash(images)
        directory = Path(self.config.data.root) / "features"
        features = real_features(
            self.extractor, images, content, directory, self.config.evaluation.batch_size, self.device
        )
        identity = {"name": store.source, "split": store.split, "content_hash": content, "count": len(images)}
        return MeasuredImages(images, features, identity)

    def generated(self, extractor: FeatureExtractorBase) -> MeasuredImages:
        """`evaluation.samples` images, the same ones that are scored, and their features."""
        section = self.config.evaluation
        pixels, _ = self.generator.sample_to_disk(section.samples, section.seed, section.batch_size)
        batches = feature_batches(
            extractor,
            ArraySampler(pixels),
            section.samples,
            section.batch_size,
            self.device,
            "features of generated images",
        )
        features = np.concatenate([found.numpy() for _, found in batches])
        identity = {
            "count": section.samples,
            "seed": section.seed,
            "weights": self.weights,
            "step": self.step,
            "label_sampling": "none" if self.num_classes is None else "uniform",
        }
        return MeasuredImages(pixels, features, identity)

    def reader(self, whitening: Whitening) -> dict[str, Any]:
        """How features were made, for a protocol."""
        values = asdict(identify(self.extractor))
        return {
            "extractor": values.pop("name"),
            "extractor_weights": values.pop("weights"),
            "layer": self.extractor.get_default_feature_layer_for_metric("fid"),
            **values,
            "whitening_components": whitening.components,
            "whitening_variance_share": whitening.variance_share,
            "whitening_fitted_on": "training",
            "distance": "1 - cosine",
        }

    def save(self, stem: str, content: Mapping[str, Any], protocol: Mapping[str, Any]) -> Path:
        """Write an audit's result with its protocol to RUN/audits; returns the file."""
        path = self.path / "audits" / f"{stem}.json"
        versions = {name: version(name) for name in ("torch", "numpy", "scipy", "scikit-learn", "infomap")}
        whole = {"step": self.step, **content, "protocol": {**protocol, "versions": versions}}
        write_text(path, json.dumps(whole, indent=2) + "\n")
        return path

    def stem(self, audit: str, reader: str) -> str:
        """The beginning of the names of an audit's files: audit, step, weights, what read the images, how many."""
        name = f"{audit}_step_{self.step:08d}_{self.weights}_{reader}_{self.config.evaluation.samples}"
        return name.replace(", ", "_").replace(" ", "_")


def open_run(
    path: Path,
    step: int | None,
    weights: Literal["ema", "raw"],
    device: str,
    settings: Mapping[str, Any],
    cache: Path | None = None,
) -> AuditedRun:
    """Open a checkpoint for an audit.

    Args:
        path: the run directory.
        step: of the checkpoint; None for the newest.
        weights: whose: `ema` or `raw`.
        device: as on the command line.
        settings: values that replace those of the config's `evaluation` section.
        cache: where prepared images and features are kept; see `gan.sampling.open.cache_of`.

    Raises:
        UserError: no such run or checkpoint, or a setting that is not accepted.
    """
    keep_freed_memory()
    found = open_checkpoint(path, step=step, weights=weights, device=device, settings=settings, cache=cache)
    step, classes = found.description.step, found.num_classes
    return AuditedRun(path, step, weights, found.config, classes, found, found.device)
