"""What a comparison found: one sentence on the primary measure first, then every number that it rests on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from gan.errors import UserError
from gan.experiments.comparison_config import Comparison, ComparisonConfig
from gan.experiments.figures import draw_curves, draw_differences, draw_samples
from gan.experiments.markdown import difference, table, with_interval
from gan.experiments.outcomes import Outcome
from gan.experiments.stages import stage_table
from gan.experiments.statistics import Paired, compare_pairs, holm
from gan.files import write_text
from gan.metrics.protocol import Protocol, differences
from gan.metrics.results import RESULT_KEYS, label

Outcomes = Mapping[str, Mapping[int, Outcome]]  # by arm, then seed
ArmPair = tuple[str, str]  # base, arm
SIGNIFICANT = 0.05
DIFFERENCE = ("arms", "difference", "t interval", "bootstrap interval")


def write_report(comparison: Comparison, outcomes: Outcomes, out: Path) -> str:
    """Write report.md, report.json and pictures to `out` from the outcomes that are there; returns the text."""
    config = comparison.config
    missing = [f"{run.arm} {run.seed}" for run in comparison.runs if run.seed not in outcomes.get(run.arm, {})]
    arms = [arm for arm in config.arms if outcomes.get(arm)]
    base, *others = config.arms
    wanted = [(base, arm) for arm in others if arm in arms] + [(first, second) for first, second in config.also_compare]
    pairs = {both: _pair(config, outcomes, *both) for both in wanted}
    adjusted = _adjusted(pairs)
    names = _names(outcomes, config.primary)
    parts = [
        [f"# {config.question}"],
        [_sentence(comparison, *both, pair, adjusted[both], names) for both, pair in pairs.items()]
        or [_nothing(config)],
        _warnings(comparison, outcomes, missing, len(pairs)),
        _arm_table(outcomes, arms, names),
        _pair_table(config, pairs, adjusted, names),
        *[_measure_table(config, outcomes, wanted, name, names) for name in names if name != config.primary],
        stage_table(outcomes, arms),
        _protocol_line(outcomes),
    ]
    differences = {_minus(*both): pair.t for both, pair in pairs.items() if pair is not None}
    if picture := draw_differences(_primary_values(config, outcomes, arms), differences, names[config.primary], out):
        parts.insert(3, [f"![every run, runs of one seed joined, and paired differences]({picture})"])
    if picture := draw_curves(comparison, outcomes, out):
        parts.append([f"![{names[config.primary]} over steps and over time]({picture})"])
    if grid := draw_samples(comparison, out):
        parts.append([f"![samples of every arm, seed {config.seeds[0]}]({grid})"])
    text = "\n\n".join("\n".join(lines) for lines in parts if lines) + "\n"
    write_text(out / "report.md", text)
    numbers = {
        "question": config.question,
        "primary": config.primary,
        "arms": {arm: [asdict(outcome) for outcome in outcomes[arm].values()] for arm in arms},
        "pairs": {
            _minus(*both): None if pair is None else {**asdict(pair), "holm_p": adjusted[both]}
            for both, pair in pairs.items()
        },
    }
    write_text(out / "report.json", json.dumps(numbers, indent=1) + "\n")
    return text


def _names(outcomes: Outcomes, primary: str) -> dict[str, str]:
    """Every measure that some run has, with what it may be called, the primary one first."""
    some = [outcome for seeds in outcomes.values() for outcome in seeds.values() if outcome.measures]
    measures = sorted({name for outcome in some for name in outcome.measures}, key=lambda name: (name != primary, name))
    protocol = _protocol(outcomes)
    special = {"modes": "modes covered", "kl_modes": "KL of modes"}
    return {
        name: special.get(name) or (label(name, protocol) if protocol and name in RESULT_KEYS else name)
        for name in measures
    } or {primary: primary}


def _pair(
    config: ComparisonConfig, outcomes: Outcomes, base: str, arm: str, measure: str | None = None
) -> Paired | None:
    """`arm` against `base`, over the seeds in which neither diverged."""
    name = measure or config.primary
    seeds = [seed for seed in config.seeds if all(name in _measures(outcomes, one, seed) for one in (base, arm))]
    if not seeds:
        return None
    first, second = ([_measures(outcomes, one, seed)[name] for seed in seeds] for one in (base, arm))
    smallest = config.resolve * abs(sum(first) / len(first))
    return compare_pairs(first, second, smallest, config.bootstrap)


def _primary_values(config: ComparisonConfig, outcomes: Outcomes, arms: Sequence[str]) -> dict[str, dict[int, float]]:
    """The primary measure by arm and seed, of the runs that have it."""
    name = config.primary
    return {
        arm: {seed: run.measures[name] for seed, run in outcomes[arm].items() if name in run.measures} for arm in arms
    }


def _adjusted(pairs: Mapping[ArmPair, Paired | None]) -> dict[ArmPair, float]:
    """p of every pair's t test, adjusted for all of them; 1 where there is none."""
    found = {both: pair.t_p for both, pair in pairs.items() if pair is not None}
    return dict.fromkeys(pairs, 1.0) | dict(zip(found, holm(list(found.values())), strict=True))


def _measures(outcomes: Outcomes, arm: str, seed: int) -> Mapping[str, float]:
    outcome = outcomes.get(arm, {}).get(seed)
    return {} if outcome is None else outcome.measures


def _minus(base: str, arm: str) -> str:
    return f"{arm} − {base}"


def _sentence(
    comparison: Comparison, base: str, arm: str, pair: Paired | None, adjusted: float, names: Mapping[str, str]
) -> str:
    config = comparison.config
    name = names.get(config.primary, config.primary)
    if pair is None or pair.t.count < 2:
        return f"- **{arm}** against {base}: too few pairs of finished runs to say anything."
    mean, bounds = difference(pair.t.mean, pair.t.low, pair.t.high)
    interval = f"{mean}, 95 % interval {bounds}, {pair.t.count} seeds"
    if not pair.t.excludes_zero:
        return f"- **{arm}** against {base}: these runs do not tell them apart in {name} ({interval})."
    better = (pair.t.mean < 0) == comparison.lower_is_better
    verdict = "better" if better else "worse"
    if adjusted > SIGNIFICANT:
        return (
            f"- **{arm}** looks {verdict} than {base} in {name} ({interval}), but not beyond what so many comparisons "
            f"find by chance (p {adjusted:.2g})."
        )
    return f"- **{arm}** is {verdict} than {base} in {name} ({interval})."


def _nothing(config: ComparisonConfig) -> str:
    only = len(config.arms) == 1
    return "One arm: nothing to compare." if only else "Nothing to compare yet: no two arms have runs."


def _warnings(comparison: Comparison, outcomes: Outcomes, missing: Sequence[str], pairs: int) -> list[str]:
    lines = []
    if missing:
        listed = ", ".join([*missing[:8], *(["…"] if len(missing) > 8 else [])])
        lines.append(f"**{len(missing)} runs are missing**: {listed}.")
    diverged = [f"{arm} {seed}" for arm, seeds in outcomes.items() for seed, one in seeds.items() if one.diverged]
    lines.append(f"Runs that diverged: {', '.join(diverged) or 'none'}. Their pairs are left out of the differences.")
    heads = [run.config.discriminator.head for run in comparison.runs]
    controlled = any(head.name == "independent" or head.options.get("rejection") == "none" for head in heads)
    if any(head != heads[0] for head in heads) and not controlled:
        lines.append(
            "**No `independent` arm**: a difference between these heads may come from the number of scores, or their "
            "parameters, and not from rejection."
        )
    if pairs > 1:
        lines.append(f"{pairs} comparisons; each interval is of 95 % by itself, p is adjusted for all of them.")
    return lines


def _arm_table(outcomes: Outcomes, arms: Sequence[str], names: Mapping[str, str]) -> list[str]:
    rows = []
    for arm in arms:
        runs = list(outcomes[arm].values())
        whole = [run for run in runs if not run.diverged]
        cells = [with_interval([run.measures[name] for run in whole if name in run.measures]) for name in names]
        minutes = f"{sum(run.seconds for run in runs) / len(runs) / 60:.1f}"
        rows.append([arm, *cells, str(len(runs)), str(len(runs) - len(whole)), minutes])
    columns = ["arm", *names.values(), "seeds", "diverged", "minutes a run"]
    return ["Mean ± half a 95 % t interval over seeds:", "", *table(columns, rows)]


def _pair_table(
    config: ComparisonConfig,
    pairs: Mapping[ArmPair, Paired | None],
    adjusted: Mapping[ArmPair, float],
    names: Mapping[str, str],
) -> list[str]:
    found = {arms: pair for arms, pair in pairs.items() if pair is not None}
    if not found:
        return []
    rows = [
        [_minus(*arms), *_cells(pair), f"{pair.t_p:.2g}", f"{adjusted[arms]:.2g}", f"{pair.sign_p:.2g}", _needed(pair)]
        for arms, pair in found.items()
    ]
    columns = [*DIFFERENCE, "effect d_z", "t test p", "p, Holm", "sign test p", "seeds to resolve"]
    lines = [f"{names.get(config.primary, config.primary)}, paired difference seed by seed:", "", *table(columns, rows)]
    return [
        *lines,
        "",
        "p, Holm: adjusted for all comparisons of this table. "
        f"Seeds to resolve: how many would find a difference of {config.resolve:.0%} with power 0.8.",
    ]


def _measure_table(
    config: ComparisonConfig,
    outcomes: Outcomes,
    pairs: Sequence[tuple[str, str]],
    measure: str,
    names: Mapping[str, str],
) -> list[str]:
    found = [(arms, _pair(config, outcomes, *arms, measure)) for arms in pairs]
    rows = [[_minus(*arms), *_cells(pair)[:-1]] for arms, pair in found if pair is not None]
    return [f"{names[measure]}, paired difference:", "", *table(DIFFERENCE, rows)] if rows else []


def _cells(pair: Paired) -> list[str]:
    resampled = difference(pair.t.mean, *pair.bootstrap)[1]
    return [*difference(pair.t.mean, pair.t.low, pair.t.high), resampled, f"{pair.effect:.2f}"]


def _needed(pair: Paired) -> str:
    return "unknown" if pair.pairs_needed is None else str(pair.pairs_needed)


def _protocol(outcomes: Outcomes) -> Protocol | None:
    """The one protocol that all outcomes were measured by.

    Raises:
        UserError: two of them differ, or are of an earlier version.
    """
    found: Protocol | None = None
    for arm, seeds in outcomes.items():
        for seed, outcome in seeds.items():
            if outcome.protocol:
                protocol = Protocol.from_dict(outcome.protocol)
                if found is not None and (fields := differences(found, protocol)):
                    raise UserError(f"arm {arm}, seed {seed}: {', '.join(fields)} differ from the other runs")
                found = found or protocol
    return found


def _protocol_line(outcomes: Outcomes) -> list[str]:
    protocol = _protocol(outcomes)
    if protocol is None:
        return []
    reference = protocol.reference
    machines = sorted({outcome.machine for seeds in outcomes.values() for outcome in seeds.values()})
    return [
        f"Protocol: {protocol.extractor}, {protocol.generated_count:,} images of the {protocol.weights} generator, "
        f"seed {protocol.seed}, against {reference.count:,} of {reference.name} {reference.split} "
        f"({reference.content_hash[:12]}). Machines: {'; '.join(machines)}."
    ]
