"""The table of metrics. A new one is its formula and one record here, whose options are fields of `Protocol` as well:
all else reads them from this table.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from gan.errors import UserError, nearest
from gan.metrics.accumulators import GaussianStatistics
from gan.metrics.evidence import Evidence
from gan.metrics.formulas import FrechetTarget, divergence_from_uniform, inception_score, kernel_distance
from gan.metrics.neighbourhood import Score, authenticity, density_and_coverage, precision_and_recall
from gan.metrics.similarity import clip_discrepancy, discrepancy_influence, vendi_score
from gan.metrics.transport import monge_inception_distance, transport_influence
from gan.metrics.uncertainty import (
    INFINITY_POINTS,
    bootstrap_interval,
    frechet_infinity,
    frechet_influence,
    inception_influence,
    kernel_influence,
)

Need = Literal["features", "reference features", "probabilities", "classes"]


@dataclass(frozen=True)
class Metric:
    """All that there is to know of a metric.

    Args:
        name: what configs and commands call it, and what it is, in one line.
        keys: of its numbers among the results, the one that counts first.
        official: its label where it is of Inception with the official weights in float32; None where that has none.
        general: its label otherwise.
        formula: from the evidence to a score for each key.
        needs: what a pass has to keep beside Gaussian statistics.
        interval_needs: what it has to keep beside that for intervals.
        options: settings of the formula, which the protocol names.
        higher_is_better: which way is up.
        multiplicative: whether comparisons speak of ratios, as of distances that are never negative.
        spread: whether the second number is a standard deviation, over splits, subsets or classes.
        digits: decimal places that are shown.
    """

    name: str
    meaning: str
    keys: tuple[str, ...]
    general: str
    formula: Callable[[Evidence], Sequence[Score]]
    official: str | None = None
    needs: tuple[Need, ...] = ()
    interval_needs: tuple[Need, ...] = ()
    options: Mapping[str, int] = field(default_factory=dict)
    higher_is_better: bool = False
    multiplicative: bool = False
    spread: bool = False
    digits: int = 3


def require_metrics(names: Sequence[str], key: str = "evaluation.metrics") -> None:
    """Refuse a name that is no metric; `key` is where it was read."""
    for name in names:
        if name not in METRICS:
            raise UserError(f"{key}: no metric {name!r}{nearest(name, METRICS)}")


@dataclass
class Scores:
    """Scores and intervals by key, distances by class."""

    metrics: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    classes: dict[str, float] = field(default_factory=dict)


def score(names: Sequence[str], evidence: Evidence, resamples: int = 0) -> Scores:
    """All metrics of `names`, with 95 % intervals by `resamples` bootstrap resamplings where there are any.

    Raises:
        UserError: too few images for a metric, or a class without.
    """
    found = Scores()
    # What needs no features but most memory beside them comes last, when they have been given up.
    for name in sorted(names, key=lambda name: not METRICS[name].needs):
        metric = METRICS[name]
        if not metric.needs and not resamples:
            evidence.tally.features = None
        for key, one in zip(metric.keys, metric.formula(evidence), strict=True):
            found.metrics[key] = one.value
            if resamples and one.influence is not None:
                seed = evidence.protocol.metric_seed
                found.intervals[key] = bootstrap_interval(one.value, one.influence, resamples, seed, one.noise)
    found.metrics = {key: found.metrics[key] for name in names for key in METRICS[name].keys}
    found.classes = evidence.classes
    return found


def _fid(evidence: Evidence) -> Sequence[Score]:
    value = evidence.target.distance(*evidence.tally.gaussian.result()).item()
    return [Score(value, frechet_influence(evidence.target, evidence.fake) if evidence.bootstrapped else None)]


def _inception_score(evidence: Evidence) -> Sequence[Score]:
    tally, protocol = evidence.tally, evidence.protocol
    assert tally.probabilities is not None
    mean, deviation = (score.item() for score in inception_score(tally.probabilities))
    influence = None
    if evidence.bootstrapped:
        assert tally.logits is not None
        influence = inception_influence(tally.logits.result(), protocol.inception_splits, protocol.metric_seed)
    return [Score(mean, influence), Score(deviation)]


def _kernel_distance(evidence: Evidence) -> Sequence[Score]:
    protocol = evidence.protocol
    subsets, size, seed = protocol.kernel_subsets, protocol.kernel_subset_size, protocol.metric_seed
    # torch-fidelity draws from its first input, the generated images, first.
    mean, deviation = (score.item() for score in kernel_distance(evidence.fake, evidence.real, subsets, size, seed))
    influence = kernel_influence(evidence.fake, evidence.real, seed) if evidence.bootstrapped else None
    return [Score(mean, influence, noise=deviation / subsets**0.5), Score(deviation)]


def _precision_and_recall(evidence: Evidence) -> Sequence[Score]:
    neighbours = evidence.protocol.precision_neighbours
    return precision_and_recall(*evidence.drawn(neighbours), neighbours, evidence.progress)


def _density_and_coverage(evidence: Evidence) -> Sequence[Score]:
    neighbours = evidence.protocol.coverage_neighbours
    return density_and_coverage(*evidence.drawn(neighbours), neighbours, evidence.progress)


def _transport(evidence: Evidence) -> Sequence[Score]:
    protocol = evidence.protocol
    setting = evidence.fake, evidence.real, protocol.mind_projections, protocol.metric_seed
    return [Score(monge_inception_distance(*setting), transport_influence(*setting) if evidence.bootstrapped else None)]


def _clip_discrepancy(evidence: Evidence) -> Sequence[Score]:
    influence = discrepancy_influence(evidence.fake, evidence.real) if evidence.bootstrapped else None
    return [Score(clip_discrepancy(evidence.fake, evidence.real), influence)]


def _vendi_score(evidence: Evidence) -> Sequence[Score]:
    return [Score(vendi_score(evidence.fake))]


def _authenticity(evidence: Evidence) -> Sequence[Score]:
    return [authenticity(evidence.fake, evidence.real, evidence.progress)]


def _fid_infinity(evidence: Evidence) -> Sequence[Score]:
    features, seed = evidence.fake, evidence.protocol.metric_seed
    if len(features) < 20:
        raise UserError(f"fid_infinity needs at least 20 images, got {len(features)}")
    limit, slope, *influences = frechet_infinity(
        evidence.target, features, seed, evidence.bootstrapped, evidence.progress
    )
    return [Score(limit, influences[0]), Score(slope, influences[1])]


def _intra_fid(evidence: Evidence) -> Sequence[Score]:
    labels, reference = evidence.labels, evidence.reference
    if labels is None or reference.labels is None:
        raise UserError(
            f"intra_fid needs labels; the {'generated' if labels is None else 'reference'} images have none"
        )
    sets = (("generated", evidence.fake, labels), ("reference", evidence.real, reference.labels))
    for index, name in enumerate(reference.class_names):
        statistics = []
        for which, features, given in sets:
            members = features[(given == index).to(features.device)]
            if len(members) < 2:
                raise UserError(f"intra_fid: class '{name}' has {len(members)} {which} images, at least 2 accepted")
            gaussian = GaussianStatistics(evidence.device)
            gaussian.update(members)
            statistics.append(gaussian.result())
        evidence.classes[name] = FrechetTarget(*statistics[1]).distance(*statistics[0]).item()
    distances = np.array(list(evidence.classes.values()))
    return [Score(float(distances.mean())), Score(float(distances.std()))]


def _mode_divergence(evidence: Evidence) -> Sequence[Score]:
    assert evidence.tally.classes is not None
    return [Score(divergence_from_uniform(evidence.tally.classes.result()).item())]


def _mode_count(evidence: Evidence) -> Sequence[Score]:
    assert evidence.tally.classes is not None
    return [Score(float((evidence.tally.classes.result() > 0).sum()))]


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "fid", "Fréchet distance of the features' Gaussians (Heusel et al. 2017)", ("frechet_distance",), "FD",
            _fid, official="FID", interval_needs=("features",), multiplicative=True,
        ),
        Metric(
            "is", "inception score (Salimans et al. 2016)", ("inception_score_mean", "inception_score_std"),
            "class score", _inception_score, official="IS", needs=("probabilities",), options={"inception_splits": 10},
            higher_is_better=True, spread=True,
        ),
        Metric(
            "kid", "kernel distance (Bińkowski et al. 2018)", ("kernel_distance_mean", "kernel_distance_std"), "KD",
            _kernel_distance, official="KID", needs=("features", "reference features"),
            options={"kernel_subsets": 100, "kernel_subset_size": 1000}, spread=True, digits=5,
        ),
        Metric(
            "prc", "precision and recall (Kynkäänniemi et al. 2019)", ("precision", "recall"), "precision / recall",
            _precision_and_recall, needs=("features", "reference features"), options={"precision_neighbours": 3},
            higher_is_better=True,
        ),
        Metric(
            "dc", "density and coverage (Naeem et al. 2020)", ("density", "coverage"), "density / coverage",
            _density_and_coverage, needs=("features", "reference features"), options={"coverage_neighbours": 5},
            higher_is_better=True,
        ),
        Metric(
            "mind", "sliced 2-Wasserstein distance of the features (Berthet et al. 2026)",
            ("monge_inception_distance",), "sliced W₂²", _transport, official="MIND",
            needs=("features", "reference features"), options={"mind_projections": 1000}, multiplicative=True,
        ),
        Metric(
            "cmmd", "maximum mean discrepancy of unit features (Jayasumana et al. 2024)", ("clip_discrepancy",), "CMMD",
            _clip_discrepancy, needs=("features", "reference features"), multiplicative=True,
        ),
        Metric(
            "vendi", "effective number of different images (Friedman & Dieng 2022)", ("vendi_score",), "Vendi",
            _vendi_score, needs=("features",), higher_is_better=True, multiplicative=True,
        ),
        Metric(
            "authenticity", "share of images that copy none of the reference's (Alaa et al. 2022)", ("authenticity",),
            "authenticity", _authenticity, needs=("features", "reference features"), higher_is_better=True,
        ),
        Metric(
            "fid_infinity", "Fréchet distance extrapolated to endless samples (Chong & Forsyth 2020)",
            ("frechet_distance_infinity", "frechet_distance_slope"), "FD∞ / slope", _fid_infinity,
            official="FID∞ / slope", needs=("features",), options={"infinity_points": INFINITY_POINTS},
            multiplicative=True,
        ),
        Metric(
            "intra_fid", "mean Fréchet distance class by class (Miyato & Koyama 2018)",
            ("intra_frechet_distance_mean", "intra_frechet_distance_std"), "intra-FD", _intra_fid,
            official="intra-FID", needs=("features", "reference features"), multiplicative=True, spread=True,
        ),
        Metric(
            "mode_divergence", "KL divergence of the classes read from uniform ones (Metz et al. 2017)",
            ("mode_divergence",), "KL of modes from uniform", _mode_divergence, needs=("classes",), multiplicative=True,
        ),
        Metric(
            "mode_count", "classes that are read in at least one image (Metz et al. 2017)", ("mode_count",), "modes",
            _mode_count, needs=("classes",), higher_is_better=True, digits=0,
        ),
    )
}  # fmt: skip
