"""A measured result, and how results are shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gan.metrics.protocol import Protocol

# metric → its keys among the results
RESULT_KEYS = {
    "fid": ("frechet_distance",),
    "is": ("inception_score_mean", "inception_score_std"),
    "kid": ("kernel_distance_mean", "kernel_distance_std"),
}


@dataclass(frozen=True)
class Result:
    """Scores by key (see `RESULT_KEYS`), how they were measured, and how long it took, generation included."""

    metrics: Mapping[str, float]
    protocol: Protocol
    seconds: float
    images_per_second: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; `labels` are for people and not read back."""
        return {
            "metrics": dict(self.metrics),
            "labels": {metric: label(metric, self.protocol) for metric in measured(self)},
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
        """
        protocol = Protocol.from_dict(values["protocol"])
        return cls(dict(values["metrics"]), protocol, values["seconds"], values["images_per_second"])


def label(metric: str, protocol: Protocol) -> str:
    """What a metric may be called: FID, IS and KID belong to Inception with its official weights alone."""
    if protocol.extractor == "inception":
        return {"fid": "FID", "is": "IS", "kid": "KID"}[metric]
    return f"{ {'fid': 'FD', 'is': 'class score', 'kid': 'KD'}[metric] } ({protocol.extractor})"


def measured(result: Result) -> list[str]:
    """The metrics, of `RESULT_KEYS`, that a result has."""
    return [metric for metric, keys in RESULT_KEYS.items() if keys[0] in result.metrics]


def format_table(results: Mapping[str, Result]) -> str:
    """A plain-text table: one row per named result, one column per label; `±` spans splits or subsets, not seeds."""
    labels: list[str] = []
    rows = []
    for name, result in results.items():
        cells = {label(metric, result.protocol): _cell(metric, result.metrics) for metric in measured(result)}
        labels += [column for column in cells if column not in labels]
        rows.append((name, cells, str(result.protocol.generated_count), f"{result.images_per_second:.1f}"))
    table = [["", *labels, "images", "images/s"]]
    table += [[name, *(cells.get(column, "–") for column in labels), count, rate] for name, cells, count, rate in rows]
    return _align(table)


def _cell(metric: str, metrics: Mapping[str, float]) -> str:
    keys = RESULT_KEYS[metric]
    # a kernel distance is of order 1e-3, the others of order 1 to 100
    digits = 5 if metric == "kid" else 3
    return " ± ".join(f"{metrics[key]:.{digits}f}" for key in keys)


def _align(table: Sequence[Sequence[str]]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        others = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *others]))
    return "\n".join(lines)
