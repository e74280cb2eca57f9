"""One answer over several experiments: probability of improvement and interquartile mean of log ratios.

Agarwal et al. 2021, arXiv:2108.13264. An experiment is a stratum: its seeds are resampled within it, as pairs.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from gan.errors import UserError
from gan.experiments.compare import kept_outcomes
from gan.experiments.comparison import load_comparison
from gan.experiments.page import Part, Table, Text, markdown, ratio
from gan.experiments.report import finding
from gan.experiments.tuning import tuned
from gan.experiments.verdicts import ArmPair
from gan.files import write_text

RESAMPLES = 2000


@dataclass(frozen=True)
class Task:
    """A pair of arms in one experiment: values by seed, the base's and the arm's, so oriented that less is better.

    A run that diverged is +∞. On a log scale values are logarithms; `log` says whether they are.
    """

    base: np.ndarray
    arm: np.ndarray
    log: bool


@dataclass(frozen=True)
class Interval:
    """A statistic, and the percentile interval of 95 % of its stratified bootstrap."""

    value: float
    low: float
    high: float


def probability_of_improvement(tasks: Sequence[Task]) -> float:
    """The mean over tasks of P(arm better than base), runs drawn apart, a tie counted half (Mann and Whitney's U)."""
    return float(np.mean([_improvement(task.base, task.arm) for task in tasks]))


def _improvement(base: np.ndarray, arm: np.ndarray) -> float:
    better = arm[:, None] < base[None, :]
    equal = arm[:, None] == base[None, :]
    return float((better + 0.5 * equal).mean())


def interquartile_mean(tasks: Sequence[Task]) -> float:
    """The mean of the middle half of all tasks' paired differences log(arm/base), divergence at either end.

    Raises:
        ValueError: a task is not on a log scale.
    """
    if not all(task.log for task in tasks):
        raise ValueError("log ratios of a measure on a linear scale")
    changes = np.concatenate([_changes(task) for task in tasks])
    return float(stats.trim_mean(changes, 0.25))


def _changes(task: Task) -> np.ndarray:
    """arm − base; 0 where both diverged."""
    with np.errstate(invalid="ignore"):
        return np.where(np.isinf(task.arm) & np.isinf(task.base), 0.0, task.arm - task.base)


def stratified(tasks: Sequence[Task], statistic: Callable[[Sequence[Task]], float], seed: int = 0) -> Interval:
    """`statistic` of the tasks with its interval: in every resample each task draws as many of its pairs as it has."""
    random = np.random.default_rng(seed)
    values = []
    for _ in range(RESAMPLES):
        drawn = [random.integers(len(task.arm), size=len(task.arm)) for task in tasks]
        values.append(statistic([Task(t.base[rows], t.arm[rows], t.log) for t, rows in zip(tasks, drawn, strict=True)]))
    low, high = np.quantile(values, [0.025, 0.975], method="inverted_cdf")
    return Interval(statistic(tasks), float(low), float(high))


def summarise(experiments: Sequence[Path], overrides: tuple[str, ...], out: Path | None) -> str:
    """A table with a row for each pair of arms of the experiments, by the names of the arms; written to `out` as well.

    Only what each experiment's rule allows to be read is in it.

    Raises:
        UserError: an experiment is not accepted, or none has reached its first look.
    """
    tasks: dict[ArmPair, dict[str, Task]] = {}
    unread = []
    for number, path in enumerate(experiments):
        if path.stem in [other.stem for other in experiments[:number]]:
            raise UserError(f"{path}: another experiment is called {path.stem} too; different names accepted")
        found = _tasks(path, overrides)
        if not found:
            unread.append(path.stem)
        for both, task in found.items():
            tasks.setdefault(both, {})[path.stem] = task
    if not tasks:
        raise UserError(f"{', '.join(unread)}: no verdict yet; accepted: experiments that reached their first look")
    parts: list[Part] = []
    if unread:
        parts.append(Text((f"No verdict yet, left out: {', '.join(unread)}.",)))
    parts.append(_summary_table(tasks))
    text = markdown("Over several experiments", parts)
    if out is not None:
        write_text(out / "summary.md", text)
    return text


def _tasks(path: Path, overrides: tuple[str, ...]) -> dict[ArmPair, Task]:
    comparison = tuned(load_comparison(path, overrides, Path("outputs") / path.stem))
    rule, outcomes = comparison.config.rule, kept_outcomes(comparison)
    seeds = finding(comparison.config, outcomes).seeds
    measure = comparison.config.primary.measure

    def values(arm: str) -> np.ndarray:
        found = [outcomes[arm][seed].measures.get(measure) for seed in seeds]
        sign = 1 if rule.lower_is_better else -1
        return np.array(
            [math.inf if one is None else sign * (math.log(one) if rule.log else one) for one in found], float
        )

    return {both: Task(values(both[0]), values(both[1]), rule.log) for both in comparison.config.pairs if seeds}


def _summary_table(tasks: Mapping[ArmPair, Mapping[str, Task]]) -> Table:
    rows = []
    for (base, arm), by_name in tasks.items():
        found = list(by_name.values())
        chance = stratified(found, probability_of_improvement)
        cells = [f"{chance.value:.2f}", f"{chance.low:.2f} to {chance.high:.2f}", "", ""]
        if all(task.log for task in found):
            middle = stratified(found, interquartile_mean)
            cells[2:] = ratio(middle.value, middle.low, middle.high)
        runs = str(sum(len(task.arm) for task in found))
        rows.append((f"{arm} / {base}", ", ".join(by_name), runs, *cells))
    columns = (
        "arms", "experiments", "pairs of runs", "P(better)", "95 % interval", "ratio, interquartile mean",
        "95 % interval",
    )  # fmt: skip
    notes = (
        "P(better): that a run of the first arm beats one of the second, mean over experiments. Ratios are below 1 "
        "where the first is better, whatever the measure. Intervals: bootstrap of pairs within experiments, 2,000 "
        "resamples; they are too narrow with few seeds, are not adjusted, and decide nothing."
    )
    return Table("Pairs of arms over the experiments that have both:", columns, tuple(rows), notes)
