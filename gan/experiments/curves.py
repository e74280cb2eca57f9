"""What the logs of runs tell: when they reached a target, and what the stages did at the end."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import geometric_mean, median

from gan.errors import UserError
from gan.experiments.comparison import ComparisonConfig, Primary, lower_is_better
from gan.experiments.outcomes import Outcome, Outcomes
from gan.experiments.page import Table, ratio
from gan.experiments.statistics import estimate
from gan.metrics.table import METRICS

STAGES = {
    "stages/score_correlation": "correlation of scores",
    "stages/correlation_within_real": "within real",
    "stages/correlation_within_fake": "within fake",
    "stages/effective_number": "effective number",
    "stages/weight_cosine": "cosine of weights",
    "stages/auc/": "AUC, from the first",
    "stages/second_moment_gap/": "second-moment gap, from the first",
    "scores/margin/": "margin, from the first",
    "stages/gradient_share/": "share of gradient, from the first",
}


def averaged(outcome: Outcome, primary: Primary) -> Outcome:
    """An outcome whose primary measure is the mean of its last `primary.points` measurements.

    Raises:
        UserError: it has fewer.
    """
    if primary.points == 1 or outcome.diverged:
        return outcome
    key = f"evaluation/{METRICS[primary.measure].keys[0]}"
    values = [*{point["step"]: point[key] for point in outcome.curve if key in point}.values()][-primary.points :]
    if len(values) < primary.points:
        raise UserError(
            f"the outcome of arm {outcome.arm}, seed {outcome.seed} has {len(values)} values of {primary.measure}; "
            f"accepted: {primary.points}, as primary.points says"
        )
    mean = geometric_mean(values) if primary.log and min(values) > 0 else sum(values) / len(values)
    return replace(outcome, measures={**outcome.measures, primary.measure: mean})


def stage_tables(outcomes: Outcomes, arms: Sequence[str]) -> list[Table]:
    """A row for each arm of several stages; a run without diagnostics is left out; nothing where all are.

    Outcomes of earlier versions have fewer diagnostics; a column that would be empty is not there.
    """
    rows: list[dict[str, str]] = []
    for arm in arms:
        ends = [end for outcome in outcomes[arm].values() if (end := _last(outcome.curve))]
        if any(key.endswith("/stage_2") for end in ends for key in end):  # more than one
            rows.append({"arm": arm} | {title: _cell(ends, name) for name, title in STAGES.items()})
    columns = tuple(title for title in ("arm", *STAGES.values()) if any(row[title] for row in rows))
    title = "The stages in the last diagnosed step, mean over seeds:"
    return [Table(title, columns, tuple(tuple(row[name] for name in columns) for row in rows))] if rows else []


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


def reached(config: ComparisonConfig, outcome: Outcome) -> tuple[float, float] | None:
    """Steps and seconds of training after which a run was first measured at the target or beyond; None if it never was.

    A run that is measured every n steps reaches it up to n steps earlier than this says.
    """
    measure, target = config.primary.measure, config.primary.target
    assert target is not None
    key = f"evaluation/{METRICS[measure].keys[0]}"
    for point in outcome.curve:
        if key not in point or "seconds" not in point:
            continue
        if point[key] <= target if lower_is_better(measure) else point[key] >= target:
            return point["step"], point["seconds"]
    return None


def target_tables(config: ComparisonConfig, outcomes: Outcomes, arms: Sequence[str], name: str) -> list[Table]:
    """Steps and minutes to the target by arm, and their paired ratios; nothing without a target.

    Runs that never reached it are censored: they are counted, and their pairs left out of the ratios.
    """
    if config.primary.target is None:
        return []
    times = {arm: {seed: reached(config, one) for seed, one in outcomes[arm].items()} for arm in arms}
    rows = tuple(_arrivals(arm, list(seeds.values())) for arm, seeds in times.items())
    title = f"Until {name} is {config.primary.target:g}:"
    notes = "Median of the runs that reached it; steps are those of the first measurement at the target or beyond."
    tables = [Table(title, ("arm", "reached it", "steps", "minutes"), rows, notes)]
    pairs = tuple(
        _ratios(base, arm, times[base], times[arm]) for base, arm in config.pairs if base in times and arm in times
    )
    if pairs:
        columns = ("arms", "steps, ratio", "95 % interval", "minutes, ratio", "95 % interval", "censored")
        notes = "Censored: pairs of which a run never reached it, or was there at the start. They are left out."
        tables.append(Table("Ratios of these, pair by pair:", columns, pairs, notes))
    return tables


def _arrivals(arm: str, times: Sequence[tuple[float, float] | None]) -> tuple[str, ...]:
    arrived = sorted(time for time in times if time is not None)
    if not arrived:
        return arm, f"0 of {len(times)}", "", ""
    steps, seconds = ([time[place] for time in arrived] for place in (0, 1))
    return arm, f"{len(arrived)} of {len(times)}", f"{median(steps):,.0f}", f"{median(seconds) / 60:.1f}"


def _ratios(
    base: str,
    arm: str,
    first: Mapping[int, tuple[float, float] | None],
    second: Mapping[int, tuple[float, float] | None],
) -> tuple[str, ...]:
    shared = [seed for seed in first if seed in second]
    reached = [(a, b) for seed in shared if (a := first[seed]) is not None and (b := second[seed]) is not None]
    both = [(a, b) for a, b in reached if min(*a, *b) > 0]
    cells: list[str] = []
    for place in (0, 1):
        logs = [math.log(b[place] / a[place]) for a, b in both]
        found = estimate(logs) if logs else None
        cells += ("", "") if found is None else ratio(found.mean, found.low, found.high)
    return f"{arm} / {base}", *cells, f"{len(shared) - len(both)} of {len(shared)}"
