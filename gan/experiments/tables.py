"""The tables of a report: every measure by arm, and paired differences or ratios."""

import math
from collections.abc import Mapping, Sequence

from gan.experiments.comparison import Plan, default_scale
from gan.experiments.outcomes import Outcomes
from gan.experiments.page import Table, difference, ratio, with_range
from gan.experiments.statistics import Estimate, estimate
from gan.experiments.verdicts import ArmPair, Verdict


def sized(log: bool, interval: Estimate) -> tuple[str, str]:
    """A mean difference and its interval, as a ratio where they are logarithms."""
    return (ratio if log else difference)(interval.mean, interval.low, interval.high)


def probability(p: float) -> str:
    """A p-value to the digits that mean something."""
    return f"{p:.1g}" if p < 0.1 else f"{p:.2f}"


def minus(base: str, arm: str) -> str:
    """What the difference of a pair of arms is called."""
    return f"{arm} − {base}"


def arm_table(config: Plan, read: Outcomes, names: Mapping[str, str]) -> Table:
    """Every measure by arm, over the seeds that were read."""
    rows = []
    for arm, seeds in read.items():
        runs = list(seeds.values())
        whole = [run for run in runs if not run.diverged]
        values = {name: [run.measures[name] for run in whole if name in run.measures] for name in names}
        cells = [with_range(found, geometric=_is_log(config, name, found)) for name, found in values.items()]
        minutes = f"{sum(run.seconds for run in runs) / len(runs) / 60:.1f}"
        rows.append((arm, *cells, str(len(runs)), str(len(runs) - len(whole)), minutes))
    columns = ("arm", *names.values(), "seeds", "diverged", "minutes a run")
    title = "Mean over seeds (smallest to largest); the geometric mean where ratios are compared:"
    return Table(title, columns, tuple(rows))


def _is_log(config: Plan, name: str, values: Sequence[float]) -> bool:
    log = config.primary.log if name == config.primary.measure else default_scale(name) == "log"
    return log and bool(values) and min(values) > 0


def pair_tables(config: Plan, verdicts: Mapping[ArmPair, Verdict], name: str) -> list[Table]:
    """The primary measure's paired differences and what they test to; nothing where nothing may be compared."""
    if not verdicts:
        return []
    what = "ratio" if config.primary.log else "difference"
    rows = []
    for (base, arm), verdict in verdicts.items():
        found = verdict.contrast
        size = ("", "") if found.interval is None else sized(config.primary.log, found.interval)
        pairs = str(0 if found.interval is None else found.interval.count)
        p_values = (probability(verdict.p), probability(verdict.equivalence_p))
        needed = "unknown" if verdict.needed is None else f"{verdict.needed:,}"
        called = f"{arm} / {base}" if config.primary.log else minus(base, arm)
        rows.append((called, *size, pairs, found.test, *p_values, verdict.answer, needed))
    columns = (
        "arms", what, "95 % interval", "pairs", "test", "p", f"p, equivalent within {config.resolve:.0%}", "verdict",
        "seeds to decide",
    )  # fmt: skip
    levels = ", ".join(f"{level:.2g}" for level in sorted({verdict.level for verdict in verdicts.values()}))
    notes = (
        f"Both p are adjusted for all comparisons of this table (Holm) and held against {levels}. Seeds to decide: how "
        f"many would find a difference of {config.resolve:.0%}, or show that there is less, with power 0.8."
    )
    return [Table(f"{name}, paired {what} seed by seed:", columns, tuple(rows), notes)]


def measure_tables(config: Plan, read: Outcomes, measure: str, name: str) -> list[Table]:
    """The other measures' paired differences, which decide nothing."""
    if measure == config.primary.measure:
        return []
    every = [one.measures[measure] for seeds in read.values() for one in seeds.values() if measure in one.measures]
    log = _is_log(config, measure, every)
    rows = []
    for base, arm in config.pairs:
        shared = [(read[base][seed].measures, read[arm][seed].measures) for seed in read[base]]
        both = [(first[measure], second[measure]) for first, second in shared if measure in first and measure in second]
        if both:
            changes = [math.log(second / first) if log else second - first for first, second in both]
            rows.append((f"{arm} / {base}" if log else minus(base, arm), *sized(log, estimate(changes))))
    what = "ratio" if log else "difference"
    title = f"{name}, paired {what}:"
    return [Table(title, ("arms", what, "95 % interval"), tuple(rows))] if rows else []
