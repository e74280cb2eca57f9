"""What the stages of each arm did at the end: the last diagnostics of its runs, averaged over seeds."""

from collections.abc import Iterable, Mapping, Sequence

from gan.experiments.markdown import table
from gan.experiments.outcomes import Outcome

COLUMNS = {
    "stages/score_correlation": "correlation of scores",
    "stages/weight_cosine": "cosine of weights",
    "stages/auc/": "AUC, from the first",
    "scores/margin/": "margin, from the first",
    "stages/gradient_share/": "share of gradient, from the first",
}


def stage_table(outcomes: Mapping[str, Mapping[int, Outcome]], arms: Sequence[str]) -> list[str]:
    """A row for each arm of several stages; a run without diagnostics is left out."""
    rows = []
    for arm in arms:
        ends = [end for outcome in outcomes[arm].values() if (end := _last(outcome.curve))]
        cells = [_cell(ends, name) for name in COLUMNS]
        if any(key.endswith("/stage_2") for end in ends for key in end):  # more than one
            rows.append([arm, *cells])
    if not rows:
        return []
    return ["The stages in the last diagnosed step, mean over seeds:", "", *table(["arm", *COLUMNS.values()], rows)]


def _last(curve: Iterable[Mapping[str, float]]) -> Mapping[str, float]:
    return next((point for point in reversed([*curve]) if any(name.startswith("stages/") for name in point)), {})


def _cell(ends: Sequence[Mapping[str, float]], name: str) -> str:
    """The mean of a diagnostic, or those of each stage where its name ends with a slash."""
    names = sorted({key for end in ends for key in end if key.startswith(name)}, key=_stage)
    columns = [[end[key] for end in ends if key in end] for key in names]
    return ", ".join(f"{sum(values) / len(values):.2f}" for values in columns)


def _stage(name: str) -> int:
    suffix = name.rpartition("_")[2]
    return int(suffix) if suffix.isdigit() else 0
