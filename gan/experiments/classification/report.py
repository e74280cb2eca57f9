"""The table of a classification experiment, from the results that lie in its directory."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gan.experiments.page import table, with_interval
from gan.experiments.statistics import paired_difference
from gan.files import write_text

COLUMNS = {"test_accuracy": "test accuracy %", "accuracy_gap": "train − test %", "test_loss": "test loss"}


def write_report(out: Path, arms: Sequence[str], seeds: Sequence[int]) -> str:
    """Write report.md and report.json to `out`; returns the text."""
    results = {arm: [_read(out / "results" / f"{arm}_seed{seed}.json") for seed in seeds] for arm in arms}
    text = "\n".join([*_means(results), "", *_differences(results), "", *_stages(results), ""])
    write_text(out / "report.md", text)
    write_text(out / "report.json", json.dumps(results, indent=2) + "\n")
    return f"{text}\nreport         {out / 'report.md'}"


def _read(path: Path) -> dict[str, Any]:
    saved: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {name: value for name, value in saved.items() if name != "settings"}


def _means(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    seeds = len(next(iter(results.values())))
    rows = [[arm, *(with_interval([run[name] for run in runs]) for name in COLUMNS)] for arm, runs in results.items()]
    return [f"Mean ± half a 95 % t interval, {seeds} seeds:", "", *table(["arm", *COLUMNS.values()], rows)]


def _differences(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    base, *others = results
    rows = []
    for arm in others:
        cells = []
        for name in COLUMNS:
            pair = ([run[name] for run in results[base]], [run[name] for run in results[arm]])
            difference = paired_difference(*pair)
            cells.append(f"{difference.mean:+.3g} [{difference.low:+.3g}, {difference.high:+.3g}]")
        rows.append([arm, *cells])
    title = f"Paired difference from {base}, seed by seed, 95 % t interval:"
    return [title, "", *table(["arm", *COLUMNS.values()], rows)] if others else []


def _stages(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    rows = []
    for arm, runs in results.items():
        columns = zip(*(run["stage_test_accuracy"] for run in runs), strict=True)
        rows.append([arm, ", ".join(f"{sum(column) / len(column):.2f}" for column in columns)])
    return ["Test accuracy of each stage alone, %:", "", *table(["arm", "stages, from the first"], rows)]
