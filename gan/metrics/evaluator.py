"""One pass over images feeds every metric: generate or read a batch, extract, accumulate; formulas come at the end."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from gan import distributed
from gan.errors import UserError
from gan.metrics.accumulators import ClassCounts, FeatureBank, GaussianStatistics, SplitProbabilities
from gan.metrics.distributed_evaluation import Share, everywhere, merge, own_share, own_tally, share, unmeasured
from gan.metrics.evidence import Evidence, Tally
from gan.metrics.extractors.interface import Extraction, metric_layers
from gan.metrics.images import ArraySampler, check_images, of_size, to_uint8
from gan.metrics.protocol import Protocol, ReferenceIdentity
from gan.metrics.reference import (
    CacheKey,
    ReferenceStatistics,
    content_hash,
    kept_rows,
    load_statistics,
    require_fitting,
    save_statistics,
)
from gan.metrics.results import Result
from gan.metrics.table import METRICS, Need, require_metrics, score
from gan.progress import passing_bar

REFERENCE_FEATURES = 50_000  # of the reference that are kept at the most; beyond them a seeded draw
NEIGHBOUR_FEATURES = 10_000  # of either set that enter `prc` and `dc` at the most; beyond them a seeded draw
METRIC_SEED = 2020  # torch-fidelity's: of the inception score's shuffle and the kernel distance's subsets


class Evaluator:
    """Scores images against a reference set with one extractor.

    Scores need no global random state and leave it untouched, so that evaluating does not change a training run.
    With fewer images than torch-fidelity's settings need (10 splits, subsets of 1000), where it raises or gives NaN,
    splits and subsets shrink to what there is; the protocol records them, so such scores compare only with their like.

    Args:
        extractor: any torch-fidelity extractor, with the layers that the metrics read; moved to `device`.
        metrics: names of the table of metrics.
        batch_size: images per extraction; the last batch may be smaller.
        progress: a bar on standard error, gone when done.
        bootstrap: resamplings of the intervals; 0 for no intervals.
        dtype, compiled: of the extractor, see `Extraction`.

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
        bootstrap: int = 0,
        dtype: str = "float32",
        compiled: bool = False,
    ) -> None:
        require_metrics(metrics)
        if not metrics or batch_size < 1 or bootstrap < 0:
            raise UserError("an evaluation needs a metric, a batch size of at least 1, and 0 resamplings or more")
        self.device = torch.device(device)
        self.extractor = extractor.to(self.device).eval()
        self._extract = Extraction(self.extractor, dtype, compiled, batch_size)
        self.identity = self._extract.identity
        self.metrics = tuple(metrics)
        self.batch_size = batch_size
        self.progress = progress
        self.bootstrap = bootstrap
        readers = [name for name in self.metrics if {"probabilities", "classes"} & {*METRICS[name].needs}]
        self.layer, self.logits_layer = metric_layers(extractor, readers)
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
        labels: np.ndarray | None = None,
        class_names: Sequence[str] = (),
    ) -> ReferenceStatistics:
        """Statistics of real images, from the cache where it has them: then no image is read.

        With a cache features are kept in it too, whatever the metrics need, for the next evaluation.

        Args:
            images: uint8 `(N, H, W, 1 or 3)`, a memory map will do.
            name, split: what to call the set in the protocol.
            content: a hash of exactly these images in this order; computed from their bytes when None.
            cache_dir: where statistics are kept between runs; None keeps nothing.
            labels, class_names: int64 `(N,)` and what they mean, for `intra_fid`.

        Raises:
            UserError: fewer than 2 images, or not uint8 `(N, H, W, C)`.
            NonFiniteError: the extractor gave NaN or infinity.
        """
        check_images(images)
        count, height, width, channels = images.shape
        if content is None:
            content = distributed.from_main(content_hash(images) if distributed.is_main() else "")
        identity = ReferenceIdentity(name, split, content, count, (channels, height, width))
        key = CacheKey(identity, self.identity, self.layer, REFERENCE_FEATURES, METRIC_SEED)
        cache = None if cache_dir is None or not distributed.is_main() else Path(cache_dir)
        kept = torch.from_numpy(kept_rows(count, REFERENCE_FEATURES, METRIC_SEED))
        with_features = self._needs("reference features")
        statistics = None if cache is None else load_statistics(cache, key, with_features)
        if distributed.from_main(statistics is None):
            statistics = self._measure(images, identity, kept, with_features or cache_dir is not None)
            if cache is not None:
                save_statistics(cache, key, statistics)
            statistics = statistics if with_features else replace(statistics, features=None)
        if statistics is None:  # read by the main rank, which alone needs it
            statistics = unmeasured(identity, self.identity, self.layer)
        kept_labels = None if labels is None else torch.from_numpy(np.asarray(labels))[kept]
        return replace(statistics, identity=identity, labels=kept_labels, class_names=tuple(class_names))

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
        labels: Callable[[], Tensor] | None = None,
        skip: Callable[[int], None] | None = None,
    ) -> Result:
        """Score `count` images, generated batch by batch and never written to disk.

        Of several ranks, all of which call this, each generates and extracts its share; all return the same.

        Args:
            sample: n → n images `(n, 1 or 3, H, W)`, uint8 or float in [−1, 1] (see `to_uint8`), from its own generator
                of random numbers; called under `no_grad`.
            labels: gives those of all images `(count,)` once they were sampled, for `intra_fid`.
            skip: passes over n images of `sample`; without it the main rank generates all of them.
            seed, weights, label_sampling, batch_norm: how `sample` was set up, for the protocol (see `Protocol`).

        Raises:
            UserError: fewer than 2 images; images of another size than the reference; a reference of another extractor.
            NonFiniteError: the images or their features hold NaN or infinity.
            ValueError: `sample` gave another number, type or shape of images than asked for.
        """
        if count < 2:
            raise UserError(f"an evaluation needs at least 2 images, got {count}")
        expected = min(reference.identity.count, REFERENCE_FEATURES) if self._needs("reference features") else None
        if distributed.is_main():
            require_fitting(reference, self.identity, self.layer, expected)
        start = time.perf_counter()
        with own_share(count, self.batch_size, skip) as size:
            whole = self._tally(count)
            tally = own_tally(whole, size)
            self._accumulate(of_size(sample, reference.identity.image_shape[1:]), size, tally, "evaluate")
        merge(tally, self.batch_size)
        if not distributed.is_main():
            return everywhere(None)
        protocol = self.protocol(reference, count, seed, weights, label_sampling, batch_norm)
        evidence = Evidence(
            whole,
            reference,
            protocol,
            self.statistics_device,
            bootstrapped=self.bootstrap > 0,
            labels=labels() if labels else None,
            progress=self.progress,
        )
        scores = score(self.metrics, evidence, self.bootstrap)
        seconds = time.perf_counter() - start
        rate = count / seconds
        return everywhere(
            Result(
                scores.metrics,
                protocol,
                seconds,
                rate,
                scores.intervals,
                self.bootstrap,
                scores.classes,
                len(reference.mean),
            )
        )

    def evaluate_images(
        self, images: np.ndarray, reference: ReferenceStatistics, labels: np.ndarray | None = None
    ) -> Result:
        """Score given uint8 images `(N, H, W, 1 or 3)`, all of them in order, with labels `(N,)` for `intra_fid`.

        Raises:
            UserError, NonFiniteError: as `evaluate`; or the images are not such.
        """
        check_images(images)
        sampler = ArraySampler(images)
        return self.evaluate(
            sampler,
            len(images),
            reference,
            seed=None,
            weights="images",
            label_sampling="none",
            batch_norm="none",
            labels=None if labels is None else lambda: torch.from_numpy(np.asarray(labels)),
            skip=sampler.skip,
        )

    def _measure(
        self, images: np.ndarray, identity: ReferenceIdentity, kept: Tensor, with_features: bool
    ) -> ReferenceStatistics:
        """Statistics of images; all ranks take part, the main one has them."""
        features = FeatureBank(expected=int(kept.sum())) if with_features else None
        first, end = share(len(images), self.batch_size)
        whole = Tally(GaussianStatistics(self.statistics_device), features)
        tally = own_tally(whole, end - first)
        self._accumulate(ArraySampler(images[first:end]), end - first, tally, "reference", kept[first:end])
        merge(tally, self.batch_size, kept)
        if not distributed.is_main():
            return unmeasured(identity, self.identity, self.layer)
        mean, covariance = (tensor.cpu() for tensor in whole.gaussian.result())
        kept_features = features.result() if features else None
        return ReferenceStatistics(identity, self.identity, self.layer, mean, covariance, kept_features)

    def _accumulate(
        self,
        sample: Callable[[int], Tensor],
        count: int,
        tally: Tally | Share,
        description: str,
        kept: Tensor | None = None,
    ) -> None:
        """Stream `count` images through the extractor into `tally`; only rows in `kept` `(count,)` enter the bank."""
        with passing_bar(count, description, "images", self.progress) as bar:
            for start in range(0, count, self.batch_size):
                size = min(self.batch_size, count - start)
                with torch.no_grad():
                    images = sample(size)
                if len(images) != size:
                    raise ValueError(f"asked for {size} images, got {len(images)}")
                layers = self._extract(to_uint8(images.to(self.device)))
                logits = None if self.logits_layer is None else layers.get(self.logits_layer)
                tally.update(layers[self.layer], logits, None if kept is None else kept[start : start + size])
                bar.update(size)

    def protocol(
        self,
        reference: ReferenceStatistics,
        count: int,
        seed: int | None,
        weights: str,
        label_sampling: str,
        batch_norm: str,
    ) -> Protocol:
        """Settings of metrics that were not asked for are recorded too, so that FID alone compares with FID and KID."""
        kept = min(reference.identity.count, REFERENCE_FEATURES)
        options = {name: value for metric in METRICS.values() for name, value in metric.options.items()}
        options["inception_splits"] = min(options["inception_splits"], count)
        options["kernel_subset_size"] = min(options["kernel_subset_size"], count, kept)
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
            kernel_reference_count=kept,
            metric_seed=METRIC_SEED,
            neighbour_count=min(count, NEIGHBOUR_FEATURES),
            neighbour_reference_count=min(kept, NEIGHBOUR_FEATURES),
            **options,
            versions={name: version(name) for name in ("torch", "torchvision", "torch-fidelity", "numpy")},
        )

    def _tally(self, count: int) -> Tally:
        scored = self._needs("probabilities")
        splits = min(METRICS["is"].options["inception_splits"], count)
        return Tally(
            GaussianStatistics(self.statistics_device),
            FeatureBank(expected=count) if self._needs("features") else None,
            SplitProbabilities(count, splits, METRIC_SEED) if scored else None,
            FeatureBank(expected=count) if scored and self.bootstrap else None,
            ClassCounts() if self._needs("classes") else None,
        )

    def _needs(self, need: Need) -> bool:
        """Whether one of the metrics needs that, for its number or for its interval."""
        chosen = [METRICS[name] for name in self.metrics]
        return any(need in metric.needs or (self.bootstrap and need in metric.interval_needs) for metric in chosen)
