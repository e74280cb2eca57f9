"""Equal tuning: every arm tries the same grid on the same seeds and takes what did best; the runs are discarded."""

import math
from collections.abc import Iterable, Mapping

from gan.experiments.comparison import Comparison, ComparisonConfig, lower_is_better
from gan.experiments.curves import averaged
from gan.experiments.outcomes import Outcome, load_outcome
from gan.experiments.page import Table

Trials = Mapping[str, Mapping[int, Mapping[int, Outcome]]]  # by arm, point of the grid, seed


def kept_trials(comparison: Comparison) -> Trials:
    """The outcomes of tuning that are there."""
    found: dict[str, dict[int, dict[int, Outcome]]] = {arm: {} for arm in comparison.config.arms}
    for planned in comparison.trials:
        if (outcome := load_outcome(comparison.results, planned)) is not None:
            assert planned.trial is not None
            found[planned.arm].setdefault(planned.trial, {})[planned.seed] = averaged(
                outcome, comparison.config.primary
            )
    return found


def missing_trials(comparison: Comparison) -> int:
    """How many runs of tuning have no outcome yet."""
    return sum(load_outcome(comparison.results, planned) is None for planned in comparison.trials)


def tuned(comparison: Comparison) -> Comparison:
    """The comparison with what tuning chose for every arm; as it was where it tunes nothing, or is not over."""
    config = comparison.config
    if config.tuning is None or missing_trials(comparison):
        return comparison
    trials, points = kept_trials(comparison), config.tuning.points
    return comparison.tuned({arm: points[best_point(config, trials[arm])] for arm in config.arms})


def best_point(config: ComparisonConfig, points: Mapping[int, Mapping[int, Outcome]]) -> int:
    """The point with the best mean of the primary measure on its scale; one with a divergence comes behind all others.

    Of equal ones the first of the grid.
    """
    return min(points, key=lambda point: (_score(config, points[point].values()), point))


def _score(config: ComparisonConfig, outcomes: Iterable[Outcome]) -> float:
    primary = config.primary
    values: list[float] = []
    for outcome in outcomes:
        if outcome.diverged:
            return math.inf
        value = outcome.measures[primary.measure]
        config.require_on_scale(value, outcome.arm, outcome.seed)
        values.append(math.log(value) if primary.log else value)
    mean = sum(values) / len(values)
    return mean if lower_is_better(primary.measure) else -mean


def tuning_tables(comparison: Comparison, name: str) -> list[Table]:
    """What every arm chose, how well each point did, and what it cost; nothing without tuning or before it is over."""
    config = comparison.config
    if config.tuning is None or missing_trials(comparison):
        return []
    rows = []
    for arm, points in kept_trials(comparison).items():
        best = best_point(config, points)
        runs = [outcome for seeds in points.values() for outcome in seeds.values()]
        diverged = sum(outcome.diverged for outcome in runs)
        minutes = sum(outcome.seconds for outcome in runs) / 60
        rows.append((arm, ", ".join(config.tuning.points[best]), str(len(runs)), str(diverged), f"{minutes:.1f}"))
    seeds = ", ".join(map(str, config.tuning.seeds))
    title = f"Every arm was tuned on the same grid by {name}, on seeds that are not used again ({seeds}):"
    return [Table(title, ("arm", "chosen", "runs", "diverged", "minutes in all"), tuple(rows))]
