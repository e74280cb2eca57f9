"""From what one pass has kept to scores: each metric by its formula, with an interval where one was asked for."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from gan.errors import UserError
from gan.metrics.accumulators import FeatureBank, GaussianStatistics, SplitProbabilities
from gan.metrics.formulas import FrechetTarget, inception_score_of, kernel_distance
from gan.metrics.neighbourhood import Score, density_and_coverage, precision_and_recall
from gan.metrics.protocol import Protocol
from gan.metrics.reference import ReferenceStatistics, kept_rows
from gan.metrics.results import RESULT_KEYS
from gan.metrics.uncertainty import (
    bootstrap_interval,
    frechet_infinity,
    frechet_influence,
    inception_influence,
    kernel_influence,
)

REFERENCE_FEATURES = ("kid", "prc", "dc", "intra_fid")  # metrics that compare feature by feature
GENERATED_FEATURES = (*REFERENCE_FEATURES, "fid_infinity")


@dataclass
class Tally:
    """What one pass keeps: Gaussian statistics always, the rest for the metrics that need it."""

    gaussian: GaussianStatistics
    features: FeatureBank | None = None
    probabilities: SplitProbabilities | None = None
    logits: FeatureBank | None = None


@dataclass
class Scores:
    """Scores and intervals by key, distances by class."""

    metrics: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    classes: dict[str, float] = field(default_factory=dict)


class Scorer:
    """Scores one tally against one reference; the tally's features are given up when nothing needs them any more.

    Args:
        bootstrap: resamplings of each interval; 0 for none.
        labels: of the generated images `(N,)`, for the distances of each class.
        device: where the formulas are computed.
    """

    def __init__(
        self,
        tally: Tally,
        reference: ReferenceStatistics,
        protocol: Protocol,
        device: torch.device,
        bootstrap: int = 0,
        labels: Tensor | None = None,
        progress: bool = False,
    ) -> None:
        self._tally, self._reference, self._protocol = tally, reference, protocol
        self._device, self._bootstrap, self._labels, self._progress = device, bootstrap, labels, progress
        self._scores = Scores()
        self._target_cache: FrechetTarget | None = None

    def score(self, metrics: tuple[str, ...]) -> Scores:
        """All of `metrics`, in their order.

        Raises:
            UserError: too few images for a metric, or a class without.
        """
        formulas: dict[str, Callable[[], None]] = {
            "fid": self._fid,
            "is": self._inception_score,
            "kid": self._kernel_distance,
            "prc": self._precision_and_recall,
            "dc": self._density_and_coverage,
            "fid_infinity": self._fid_infinity,
            "intra_fid": self._intra_fid,
        }
        # last the distance that needs no features but most memory beside them
        for metric in sorted(metrics, key=lambda metric: metric == "fid"):
            if metric == "fid" and not self._bootstrap:
                self._tally.features = None
            formulas[metric]()
        order = [key for metric in metrics for key in RESULT_KEYS[metric]]
        self._scores.metrics = {key: self._scores.metrics[key] for key in order}
        return self._scores

    def _fid(self) -> None:
        value = self._target().distance(*self._tally.gaussian.result()).item()
        influence = frechet_influence(self._target(), self._fake()) if self._bootstrap else None
        self._add("frechet_distance", value, influence)

    def _inception_score(self) -> None:
        assert self._tally.probabilities is not None
        mean, deviation = (score.item() for score in inception_score_of(self._tally.probabilities))
        influence = None
        if self._bootstrap:
            assert self._tally.logits is not None
            protocol = self._protocol
            logits = self._tally.logits.result()
            influence = inception_influence(logits, protocol.inception_splits, protocol.metric_seed)
        self._add("inception_score_mean", mean, influence)
        self._add("inception_score_std", deviation)

    def _kernel_distance(self) -> None:
        protocol = self._protocol
        subsets, size, seed = protocol.kernel_subsets, protocol.kernel_subset_size, protocol.metric_seed
        # torch-fidelity draws from its first input, the generated images, first
        scores = kernel_distance(self._fake(), self._real(), subsets, size, seed)
        mean, deviation = (score.item() for score in scores)
        influence = kernel_influence(self._fake(), self._real()) if self._bootstrap else None
        self._add("kernel_distance_mean", mean, influence, noise=deviation / subsets**0.5)
        self._add("kernel_distance_std", deviation)

    def _precision_and_recall(self) -> None:
        neighbours = self._protocol.precision_neighbours
        self._add_pair(
            ("precision", "recall"), precision_and_recall(*self._drawn(neighbours), neighbours, self._progress)
        )

    def _density_and_coverage(self) -> None:
        neighbours = self._protocol.coverage_neighbours
        self._add_pair(
            ("density", "coverage"), density_and_coverage(*self._drawn(neighbours), neighbours, self._progress)
        )

    def _fid_infinity(self) -> None:
        features, with_influence = self._fake(), self._bootstrap > 0
        if len(features) < 20:
            raise UserError(f"fid_infinity needs at least 20 images, got {len(features)}")
        seed = self._protocol.metric_seed
        limit, slope, *influences = frechet_infinity(self._target(), features, seed, with_influence, self._progress)
        self._add("frechet_distance_infinity", limit, influences[0])
        self._add("frechet_distance_slope", slope, influences[1])

    def _intra_fid(self) -> None:
        reference = self._reference
        if self._labels is None or reference.labels is None:
            which = "generated" if self._labels is None else "reference"
            raise UserError(f"intra_fid needs labels; the {which} images have none")
        fake, real = self._fake(), self._real()
        for index, name in enumerate(reference.class_names):
            statistics = []
            for which, features, labels in (("generated", fake, self._labels), ("reference", real, reference.labels)):
                members = features[(labels == index).to(features.device)]
                if len(members) < 2:
                    raise UserError(f"intra_fid: class '{name}' has {len(members)} {which} images, at least 2 accepted")
                gaussian = GaussianStatistics(self._device)
                gaussian.update(members)
                statistics.append(gaussian.result())
            self._scores.classes[name] = FrechetTarget(*statistics[1]).distance(*statistics[0]).item()
        distances = np.array(list(self._scores.classes.values()))
        self._add("intra_frechet_distance_mean", float(distances.mean()))
        self._add("intra_frechet_distance_std", float(distances.std()))

    def _target(self) -> FrechetTarget:
        if self._target_cache is None:
            mean, covariance = self._reference.mean.to(self._device), self._reference.covariance.to(self._device)
            self._target_cache = FrechetTarget(mean, covariance)
        return self._target_cache

    def _fake(self) -> Tensor:
        assert self._tally.features is not None
        return self._tally.features.result().to(self._device)

    def _real(self) -> Tensor:
        assert self._reference.features is not None
        return self._reference.features.to(self._device)

    def _drawn(self, neighbours: int) -> tuple[Tensor, Tensor]:
        """The generated and the real features that neighbourhoods see: all, or a seeded draw."""
        protocol = self._protocol
        drawn = []
        counts = (protocol.neighbour_count, protocol.neighbour_reference_count)
        for which, features, count in zip(
            ("generated", "reference"), (self._fake(), self._real()), counts, strict=True
        ):
            if count <= neighbours:
                raise UserError(f"{neighbours} nearest neighbours need more than {count} {which} images")
            rows = torch.from_numpy(kept_rows(len(features), count, protocol.metric_seed)).to(features.device)
            drawn.append(features if count == len(features) else features[rows])
        return drawn[0], drawn[1]

    def _add_pair(self, keys: tuple[str, str], scores: tuple[Score, Score]) -> None:
        for key, score in zip(keys, scores, strict=True):
            self._add(key, score.value, score.influence)

    def _add(self, key: str, value: float, influence: Tensor | None = None, noise: float = 0.0) -> None:
        self._scores.metrics[key] = value
        if self._bootstrap and influence is not None:
            seed = self._protocol.metric_seed
            self._scores.intervals[key] = bootstrap_interval(value, influence, self._bootstrap, seed, noise)
