"""One pass over images feeds every metric: generate or read a batch, extract, accumulate; formulas come at the end."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from tqdm import tqdm

from gan.errors import UserError, nearest
from gan.metrics.accumulators import FeatureBank, GaussianStatistics
from gan.metrics.extractors import extract, identify
from gan.metrics.formulas import frechet_distance, inception_score, kernel_distance
from gan.metrics.images import array_sampler, check_images, of_size, to_uint8
from gan.metrics.protocol import Protocol, ReferenceIdentity
from gan.metrics.reference import CacheKey, ReferenceStatistics, content_hash, kept_rows, load, save
from gan.metrics.results import RESULT_KEYS, Result

METRIC_SEED = 2020  # torch-fidelity's: of the inception score's shuffle and the kernel distance's subsets
INCEPTION_SPLITS = 10
KERNEL_SUBSETS = 100
KERNEL_SUBSET_SIZE = 1000


@dataclass
class Tally:
    """What one pass keeps: Gaussian statistics always, features and logits for the metrics that need them."""

    gaussian: GaussianStatistics
    features: FeatureBank | None
    logits: FeatureBank | None


class Evaluator:
    """Scores images against a reference set with one extractor.

    Scores need no global random state and leave it untouched, so that evaluating does not change a training run.
    With fewer images than torch-fidelity's settings need (10 splits, subsets of 1000), where it raises or gives NaN,
    splits and subsets shrink to what there is; the protocol records them, so such scores compare only with their like.

    Args:
        extractor: any torch-fidelity extractor, with the layers that the metrics read; moved to `device`.
        metrics: of `fid` (Fréchet distance), `is` (inception score), `kid` (kernel distance).
        batch_size: images per extraction; the last batch may be smaller.
        progress: a bar on standard error, gone when done.
        reference_features: at most so many reference features are kept for `kid`; a seeded draw when there are more.
        code_version: of this code, for the protocol.

    Raises:
        UserError: an unknown metric, none, or a layer that the extractor does not give.
    """

    def __init__(
        self,
        extractor: FeatureExtractorBase,
        device: torch.device | str = "cpu",
        metrics: Sequence[str] = ("fid", "is", "kid"),
        batch_size: int = 64,
        progress: bool = True,
        reference_features: int = 50_000,
        code_version: str | None = None,
    ) -> None:
        for metric in metrics:
            if metric not in RESULT_KEYS:
                raise UserError(f"no metric '{metric}'{nearest(metric, RESULT_KEYS)}")
        if not metrics or batch_size < 1 or reference_features < 2:
            raise UserError("an evaluation needs a metric, a batch size of at least 1 and 2 reference features or more")
        self.device = torch.device(device)
        self.extractor = extractor.to(self.device).eval()
        self.identity = identify(extractor)
        self.metrics = tuple(metrics)
        self.batch_size = batch_size
        self.progress = progress
        self.reference_features = reference_features
        self.code_version = code_version
        self.layer, self.logits_layer = self._layers()
        # Apple's GPUs have no float64
        self.statistics_device = self.device if self.device.type == "cuda" else torch.device("cpu")

    def reference(
        self,
        images: np.ndarray,
        *,
        name: str,
        split: str,
        content: str | None = None,
        cache_dir: str | Path | None = None,
    ) -> ReferenceStatistics:
        """Statistics of real images, from the cache where it has them.

        Args:
            images: uint8 `(N, H, W, 1 or 3)`, a memory map will do.
            name, split: what to call the set in the protocol.
            content: a hash of exactly these images in this order; computed from their bytes when None.
            cache_dir: where statistics are kept between runs; None keeps nothing.

        Raises:
            UserError: fewer than 2 images, or not uint8 `(N, H, W, C)`.
            NonFiniteError: the extractor gave NaN or infinity.
        """
        check_images(images)
        count, height, width, channels = images.shape
        identity = ReferenceIdentity(name, split, content or content_hash(images), count, (channels, height, width))
        key = CacheKey(identity, self.identity, self.layer, self.reference_features, METRIC_SEED)
        with_features = "kid" in self.metrics
        if cache_dir is not None and (cached := load(Path(cache_dir), key, with_features)):
            return cached
        tally = self._tally(logits=False)
        kept = torch.from_numpy(kept_rows(count, self.reference_features, METRIC_SEED))
        self._accumulate(array_sampler(images), count, tally, "reference", kept)
        mean, covariance = (tensor.cpu() for tensor in tally.gaussian.result())
        features = tally.features.result() if tally.features else None
        statistics = ReferenceStatistics(identity, self.identity, self.layer, mean, covariance, features)
        if cache_dir is not None:
            save(Path(cache_dir), key, statistics)
        return statistics

    def evaluate(
        self,
        sample: Callable[[int], Tensor],
        count: int,
        reference: ReferenceStatistics,
        *,
        seed: int | None,
        weights: str,
        label_sampling: str,
        batch_norm: str = "running",
    ) -> Result:
        """Score `count` images, generated batch by batch and never written to disk.

        Args:
            sample: n → n images `(n, 1 or 3, H, W)`, uint8 or float in [−1, 1] (see `to_uint8`), from its own generator
                of random numbers; called under `no_grad`.
            seed, weights, label_sampling, batch_norm: how `sample` was set up, for the protocol (see `Protocol`).

        Raises:
            UserError: fewer than 2 images; images of another size than the reference; a reference of another extractor.
            NonFiniteError: the images or their features hold NaN or infinity.
            ValueError: `sample` gave another number, type or shape of images than asked for.
        """
        if count < 2:
            raise UserError(f"an evaluation needs at least 2 images, got {count}")
        self._check_reference(reference)
        height_width = reference.identity.image_shape[1:]
        start = time.perf_counter()
        tally = self._tally(logits="is" in self.metrics)
        self._accumulate(of_size(sample, height_width), count, tally, "evaluate")
        protocol = self._protocol(reference, count, seed, weights, label_sampling, batch_norm)
        metrics = self._scores(tally, reference, protocol)
        seconds = time.perf_counter() - start
        return Result(metrics, protocol, seconds, count / seconds)

    def evaluate_images(self, images: np.ndarray, reference: ReferenceStatistics) -> Result:
        """Score given uint8 images `(N, H, W, 1 or 3)`, all of them in order.

        Raises:
            UserError, NonFiniteError: as `evaluate`; or the images are not such.
        """
        check_images(images)
        options = {"weights": "images", "label_sampling": "none", "batch_norm": "none"}
        return self.evaluate(array_sampler(images), len(images), reference, seed=None, **options)

    def _accumulate(
        self,
        sample: Callable[[int], Tensor],
        count: int,
        tally: Tally,
        description: str,
        kept: Tensor | None = None,
    ) -> None:
        """Stream `count` images through the extractor into `tally`; only rows in `kept` `(count,)` enter the bank."""
        with tqdm(total=count, desc=description, unit="img", leave=False, disable=not self.progress) as bar:
            for start in range(0, count, self.batch_size):
                size = min(self.batch_size, count - start)
                with torch.no_grad():
                    images = sample(size)
                if len(images) != size:
                    raise ValueError(f"asked for {size} images, got {len(images)}")
                layers = extract(self.extractor, to_uint8(images.to(self.device)))
                features = layers[self.layer]
                tally.gaussian.update(features)
                if tally.features is not None:
                    rows = slice(None) if kept is None else kept[start : start + size].to(features.device)
                    tally.features.update(features[rows])
                if tally.logits is not None and self.logits_layer is not None:
                    tally.logits.update(layers[self.logits_layer])
                bar.update(size)

    def _scores(self, tally: Tally, reference: ReferenceStatistics, protocol: Protocol) -> dict[str, float]:
        """The formulas, each on what the pass has kept for it."""
        device = self.statistics_device
        scores: list[Tensor] = []
        for metric in self.metrics:
            if metric == "fid":
                real = reference.mean.to(device), reference.covariance.to(device)
                scores.append(frechet_distance(*real, *tally.gaussian.result()))
            elif metric == "is" and tally.logits is not None:
                scores += inception_score(tally.logits.result(), protocol.inception_splits, METRIC_SEED)
            elif metric == "kid" and tally.features is not None and reference.features is not None:
                fake_features, real_features = tally.features.result().to(device), reference.features.to(device)
                size = protocol.kernel_subset_size
                # torch-fidelity draws from its first input, the generated images, first
                scores += kernel_distance(fake_features, real_features, KERNEL_SUBSETS, size, METRIC_SEED)
        keys = [key for metric in self.metrics for key in RESULT_KEYS[metric]]
        return {key: float(score) for key, score in zip(keys, scores, strict=True)}

    def _protocol(
        self,
        reference: ReferenceStatistics,
        count: int,
        seed: int | None,
        weights: str,
        label_sampling: str,
        batch_norm: str,
    ) -> Protocol:
        """Settings of metrics that were not asked for are recorded too, so that FID alone compares with FID and KID."""
        kernel_reference_count = min(reference.identity.count, self.reference_features)
        return Protocol(
            extractor=self.identity.name,
            extractor_weights=self.identity.weights,
            layer=self.layer,
            logits_layer=self.logits_layer,
            resize=self.identity.resize,
            dtype=self.identity.dtype,
            reference=reference.identity,
            generated_count=count,
            seed=seed,
            weights=weights,
            batch_norm=batch_norm,
            label_sampling=label_sampling,
            inception_splits=min(INCEPTION_SPLITS, count),
            kernel_subsets=KERNEL_SUBSETS,
            kernel_subset_size=min(KERNEL_SUBSET_SIZE, count, kernel_reference_count),
            kernel_reference_count=kernel_reference_count,
            metric_seed=METRIC_SEED,
            versions=_versions(self.code_version),
        )

    def _tally(self, logits: bool) -> Tally:
        features = FeatureBank() if "kid" in self.metrics else None
        return Tally(GaussianStatistics(self.statistics_device), features, FeatureBank() if logits else None)

    def _layers(self) -> tuple[str, str | None]:
        """The layers of the distances and of the inception score, checked against what the extractor gives."""
        layer = self.extractor.get_default_feature_layer_for_metric("fid")
        try:
            logits_layer = self.extractor.get_default_feature_layer_for_metric("isc")
        except KeyError:
            logits_layer = None
        needed = [layer, logits_layer] if "is" in self.metrics else [layer]
        given = self.extractor.get_requested_features_list()
        for wanted in needed:
            if wanted not in given:
                raise UserError(
                    f"{', '.join(self.metrics)} need layer '{wanted}' of extractor '{self.identity.name}', "
                    f"which gives {', '.join(given)}"
                )
        return layer, logits_layer

    def _check_reference(self, reference: ReferenceStatistics) -> None:
        if (reference.extractor, reference.layer) != (self.identity, self.layer):
            raise UserError(
                f"the reference was measured with extractor '{reference.extractor.name}' "
                f"({reference.extractor.weights[:8]}, layer {reference.layer}), not with '{self.identity.name}' "
                f"({self.identity.weights[:8]}, layer {self.layer})"
            )
        expected = min(reference.identity.count, self.reference_features)
        if "kid" in self.metrics and (reference.features is None or len(reference.features) != expected):
            raise UserError(f"kid needs {expected} reference features; compute the reference with this evaluator")


def _versions(code_version: str | None) -> dict[str, str]:
    versions = {name: version(name) for name in ("torch", "torchvision", "torch-fidelity", "numpy")}
    return versions if code_version is None else versions | {"gan": code_version}
