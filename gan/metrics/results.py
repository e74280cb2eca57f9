"""A measured result, and how results are shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gan.errors import UserError, printable
from gan.metrics.protocol import Protocol, differences
from gan.metrics.table import METRICS

WIDTH = 120  # of a table
OF_THE_GENERATOR = ("seed", "weights", "batch_norm", "label_sampling")  # in a protocol, what real images have none of


@dataclass(frozen=True)
class Result:
    """Scores by key (see `Metric`), how they were measured, and how long it took, generation included.

    `intervals` has 95 % bootstrap intervals by key, over `bootstrap` resamplings; `classes` has the Fréchet distance
    of each class by its name, where it was asked for. `feature_dimensions` is None where an old result did not say.
    """

    metrics: Mapping[str, float]
    protocol: Protocol
    seconds: float
    images_per_second: float
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    bootstrap: int = 0
    classes: Mapping[str, float] = field(default_factory=dict)
    feature_dimensions: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; `labels` and `remarks` are for people and not read back."""
        return {
            "metrics": dict(self.metrics),
            "labels": {metric: label(metric, self.protocol) for metric in measured(self)},
            "intervals": {key: list(interval) for key, interval in self.intervals.items()},
            "bootstrap": self.bootstrap,
            "classes": dict(self.classes),
            "feature_dimensions": self.feature_dimensions,
            "remarks": remarks(self),
            "protocol": self.protocol.to_dict(),
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Result":
        """The inverse of `to_dict`.

        Raises:
            UserError: the protocol lacks a field or has an unknown one.
            KeyError: the result lacks a part.
            TypeError, ValueError: a number is none.
        """
        protocol = Protocol.from_dict(values["protocol"])
        return cls(
            metrics={key: _checked(value) for key, value in values["metrics"].items()},
            protocol=protocol,
            seconds=_checked(values["seconds"]),
            images_per_second=_checked(values["images_per_second"]),
            intervals={key: (_checked(low), _checked(high)) for key, (low, high) in values["intervals"].items()},
            bootstrap=values["bootstrap"],
            classes={name: _checked(value) for name, value in values["classes"].items()},
            feature_dimensions=None if (count := values.get("feature_dimensions")) is None else int(_checked(count)),
        )


def _checked(value: float) -> float:
    if type(value) is not float and not (type(value) is int and abs(value) < 2**63):
        raise TypeError("a number is accepted")
    return value


def label(name: str, protocol: Protocol) -> str:
    """What a metric may be called: FID, IS and KID belong to Inception with its official weights in float32 alone."""
    metric = METRICS[name]
    if protocol.extractor == "inception" and protocol.dtype == "float32" and metric.official is not None:
        return metric.official
    dtype = "" if protocol.dtype == "float32" else f", {protocol.dtype}"
    return f"{metric.general} ({protocol.extractor}{dtype})"


def short_names(name: str, protocol: Protocol) -> list[str]:
    """What each number of a metric is called in a chart: "FID (inception, 50000 vs 10000 test)".

    Beside the name as of `label`: the extractor, how many generated images were measured against how many real ones,
    and of which split.
    """
    metric, reference = METRICS[name], protocol.reference
    called, _, how = label(name, protocol).partition(" (")
    names = [called, f"{called} deviation"] if metric.spread else called.split(" / ")
    how = how.removesuffix(")") or protocol.extractor
    counts = f"{protocol.generated_count} vs {reference.count} {reference.split}"
    return [f"{one} ({how}, {counts})" for one in names]


def score_tags(result: Result) -> dict[str, str]:
    """`short_names` of all numbers of a result, by their keys."""
    keys_and_names = ((METRICS[name].keys, short_names(name, result.protocol)) for name in measured(result))
    return {key: name for keys, names in keys_and_names for key, name in zip(keys, names, strict=True)}


def measured(result: Result) -> list[str]:
    """The metrics that a result has."""
    return [name for name, metric in METRICS.items() if all(key in result.metrics for key in metric.keys)]


def remarks(result: Result) -> list[str]:
    """What has to be known beside the numbers: Gaussians fitted to fewer images than their features have dimensions,
    sorted projections of as few, and subsets that are all the images there are.
    """
    dimensions, protocol = result.feature_dimensions or 0, result.protocol
    found = []
    for metric, classes in (("fid", 1), ("intra_fid", max(1, len(result.classes))), ("mind", 1)):
        counts = {"generated": protocol.generated_count // classes, "reference": protocol.reference.count // classes}
        few = [f"{count:,} {which}" for which, count in counts.items() if count < dimensions]
        if METRICS[metric].keys[0] in result.metrics and few:
            images = f"{' and '.join(few)} images{' a class' if classes > 1 else ''}"
            found.append(
                f"{label(metric, protocol)}: {images} are fewer than the {dimensions:,} dimensions of the features; "
                "much of the distance may be its bias"
            )
    fewest = min(protocol.generated_count, protocol.reference.count)
    if METRICS["kid"].keys[0] in result.metrics and protocol.kernel_subset_size >= fewest:
        found.append(f"{label('kid', protocol)}: each subset is all {fewest:,} images, so ± says nothing")
    return found


_NO_DISTANCE = 1e-5  # the same images twice are so near to each other, by rounding


def frechet_ratios(generated: Sequence[Result], held_out: Sequence[Result]) -> dict[str, float]:
    """By feature space FD(generated) / FD(held-out real images), whose mean is FDr (arXiv:2604.28190).

    1 for generated images that are as near to the reference as other real ones.

    Args:
        generated, held_out: results of the same feature spaces in the same order, of equally many images.

    Raises:
        UserError: two results of a feature space were not measured alike, or have no Fréchet distance; or the held-out
            images are at none from the reference.
    """
    ratios = {}
    for one, other in zip(generated, held_out, strict=True):
        differing = [name for name in differences(one.protocol, other.protocol) if name not in OF_THE_GENERATOR]
        if differing:
            raise UserError(f"FDr: generated and held-out images were measured with another {', '.join(differing)}")
        if not {"frechet_distance"} <= one.metrics.keys() & other.metrics.keys():
            raise UserError("FDr: no Fréchet distance; accepted: results with fid among their metrics")
        space, distance = one.protocol.extractor, other.metrics["frechet_distance"]
        if distance < _NO_DISTANCE:
            raise UserError(
                f"FDr: the held-out images are at a distance of {distance:.1e} ({space}) from the reference; "
                "other real images than the reference accepted"
            )
        ratios[space] = one.metrics["frechet_distance"] / distance
    return ratios


def format_table(results: Mapping[str, Result | Sequence[Result]]) -> str:
    """A plain-text table: one row per name, one column per label; the other way round where that is too wide.

    A row may have several results, of several feature spaces; its speed is that of the first.
    `±` spans splits, subsets or classes, not seeds; `[low, high]` is a 95 % bootstrap interval. Remarks stand below.
    """
    labels: list[str] = []
    rows = []
    several = {name: [found] if isinstance(found, Result) else list(found) for name, found in results.items()}
    for name, found in several.items():
        cells = {label(metric, one.protocol): _cell(metric, one) for one in found for metric in measured(one)}
        labels += [column for column in cells if column not in labels]
        rows.append((name, cells, str(found[0].protocol.generated_count), f"{found[0].images_per_second:.1f}"))
    table = [["", *labels, "images", "images/s"]]
    table += [[name, *(cells.get(column, "–") for column in labels), count, rate] for name, cells, count, rate in rows]
    aligned = _align(table)
    if len(aligned.splitlines()[0]) > WIDTH:
        aligned = _align(list(zip(*table, strict=True)))
    said = (line for found in several.values() for result in found for line in remarks(result))
    return "\n".join([aligned, *dict.fromkeys(said)])


def _cell(name: str, result: Result) -> str:
    metric = METRICS[name]
    first, *second = (_number(key, result, metric.digits) for key in metric.keys)
    return (" ± " if metric.spread else " / ").join([first, *second])


def _number(key: str, result: Result, digits: int) -> str:
    text = f"{result.metrics[key]:z.{digits}f}"  # z: no −0.000
    if key not in result.intervals:
        return text
    low, high = result.intervals[key]
    return f"{text} [{low:z.{digits}f}, {high:z.{digits}f}]"


def _align(table: Sequence[Sequence[str]]) -> str:
    table = [[printable(cell) for cell in row] for row in table]
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        others = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *others]))
    return "\n".join(lines)
