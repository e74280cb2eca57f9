"""What a comparison found: the picture and one sentence a pair first, then every number that they rest on."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gan.errors import UserError
from gan.experiments.comparison import Comparison, Plan
from gan.experiments.curves import stage_tables, target_tables
from gan.experiments.figures import draw_curves, draw_differences, draw_samples
from gan.experiments.outcomes import Outcomes
from gan.experiments.page import Part, Picture, Text, markdown, web_page
from gan.experiments.tables import arm_table, measure_tables, minus, pair_tables, probability, sized
from gan.experiments.tuning import missing_trials, tuning_tables
from gan.experiments.verdicts import ArmPair, Values, Verdict, judge
from gan.files import write_text
from gan.metrics.protocol import Protocol, differences
from gan.metrics.results import label
from gan.metrics.table import METRICS


@dataclass(frozen=True)
class Finding:
    """What may be read: verdicts by pair of arms and the seeds that they rest on, none before the first look.

    `complete` is how many seeds, from the plan's first on, all arms have.
    """

    verdicts: Mapping[ArmPair, Verdict]
    seeds: tuple[int, ...]
    complete: int

    @property
    def decided(self) -> bool:
        """Whether there are pairs of arms and none is undecided."""
        return bool(self.verdicts) and all(one.answer != "undecided" for one in self.verdicts.values())


def finding(config: Plan, outcomes: Outcomes) -> Finding:
    """What the outcomes that are there allow to say.

    Raises:
        UserError: a value cannot be on the scale that the experiment's file names.
    """
    complete = 0
    while complete < len(config.seeds) and all(config.seeds[complete] in outcomes[arm] for arm in config.arms):
        complete += 1
    reached = max((look for look in config.rule.looks if look <= complete), default=0)
    seeds = tuple(config.seeds[:reached])
    values = {arm: _values(config, arm, outcomes[arm], seeds) for arm in config.arms}
    pairs = {(base, arm): (values[base], values[arm]) for base, arm in config.pairs}
    return Finding(judge(config.rule, pairs, seeds), seeds, complete)


def _values(config: Plan, arm: str, outcomes: Mapping[int, Any], seeds: Sequence[int]) -> Values:
    name = config.primary.measure
    values: dict[int, float | None] = {}
    for seed in seeds:
        if not outcomes[seed].diverged and name not in outcomes[seed].measures:
            raise UserError(f"the outcome of arm {arm}, seed {seed} has no {name}; remove it, and it is made anew")
        values[seed] = value = None if outcomes[seed].diverged else outcomes[seed].measures[name]
        if value is not None:
            config.require_on_scale(value, arm, seed)
    return values


def write_report(comparison: Comparison, outcomes: Outcomes, out: Path) -> str:
    """Write report.md, report.html, report.json and pictures to `out`; returns the text.

    Values are in them from the first look on, of the seeds that it has.

    Raises:
        UserError: a value cannot be on its scale, or two outcomes were measured by different protocols.
    """
    config = comparison.config
    found = finding(config, outcomes)
    read = {arm: {seed: outcomes[arm][seed] for seed in found.seeds} for arm in config.arms}
    arms = [arm for arm in config.arms if read[arm]]
    protocol = _protocol(read)
    names = _names(read, config.primary.measure, protocol)
    primary = names.get(config.primary.measure, config.primary.measure)
    parts: list[Part] = [Text(tuple(sentences(config, found, primary)), bullets=True)]
    if (picture := draw_differences(config, read, found.verdicts, primary, out)) is not None:
        parts.insert(0, Picture(picture, "every run, runs of one seed joined, and paired differences"))
    parts += _remarks(comparison, outcomes, found)
    if arms:
        parts.append(arm_table(config, read, names))
        parts += pair_tables(config, found.verdicts, primary)
        parts += [table for name in names for table in measure_tables(config, read, name, names[name])]
        parts += target_tables(config, read, arms, primary)
        parts += stage_tables(read, arms)
        parts += tuning_tables(comparison, primary)
        parts += _protocol_line(read, protocol)
        if (picture := draw_curves(config, read, out)) is not None:
            parts.append(Picture(picture, f"{primary} over steps and over time"))
        if (picture := draw_samples(comparison, out)) is not None:
            parts.append(Picture(picture, f"samples of every arm, seed {config.seeds[0]}"))
    text = markdown(config.question, parts)
    write_text(out / "report.md", text)
    write_text(out / "report.html", web_page(config.question, parts, out))
    write_text(out / "report.json", json.dumps(finite(numbers(config, read, found)), indent=1) + "\n")
    return text


def numbers(config: Plan, read: Outcomes, found: Finding) -> dict[str, Any]:
    return {
        "question": config.question,
        "primary": {**config.primary.model_dump(), "scale": "log" if config.primary.log else "linear"},
        "seeds": list(found.seeds),
        "arms": {arm: [asdict(outcome) for outcome in seeds.values()] for arm, seeds in read.items()},
        "pairs": {
            minus(*both): {**asdict(verdict), "needed": verdict.needed} for both, verdict in found.verdicts.items()
        },
    }


def finite(tree: Any) -> Any:
    """The same with null for what JSON has no number for."""
    if isinstance(tree, Mapping):
        return {key: finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def _names(read: Outcomes, primary: str, protocol: Protocol | None) -> dict[str, str]:
    """Every measure that some run has, with what it may be called, the primary one first."""
    measured = {name for seeds in read.values() for outcome in seeds.values() for name in outcome.measures}
    special = {"modes": "modes covered", "kl_modes": "KL of modes"}
    return {
        name: special.get(name)
        or (label(name, protocol) if protocol and name in METRICS else name.replace("fdr", "FDr"))
        for name in sorted(measured, key=lambda name: (name != primary, name))
    }


def sentences(config: Plan, found: Finding, name: str) -> list[str]:
    if len(config.arms) == 1:
        return ["One arm: nothing to compare."]
    if not found.verdicts:
        first = config.rule.looks[0]
        return [f"**{found.complete} of {len(config.seeds)} seeds, no verdict yet**: values are read from {first} on."]
    return [_sentence(config, *both, verdict, name) for both, verdict in found.verdicts.items()]


def _sentence(config: Plan, base: str, arm: str, verdict: Verdict, name: str) -> str:
    found = verdict.contrast
    seeds = f"{len(found.differences)} seeds"
    if found.interval is None:
        size = f"no pair of finished runs, {seeds}"
    else:
        mean, bounds = sized(config.primary.log, found.interval)
        times = f"{mean} times that of {base}" if config.primary.log else mean
        size = f"{times}, 95 % interval {bounds}, {seeds}"
    if found.left_out:
        listed = ", ".join(map(str, found.left_out))
        size += f", without seed{'s' if len(found.left_out) > 1 else ''} {listed}, where a run diverged"
    within = f"within {config.resolve:.0%}"
    match verdict.answer:
        case "better" | "worse":
            less = f", though by less than {config.resolve:.0%}" if verdict.within else ""
            said = f"is {verdict.answer} than {base} in {name}{less} ({size}; p {probability(verdict.p)})"
        case "equivalent":
            said = f"is equivalent to {base} in {name} {within} ({size})"
        case "undecided":
            said = f"against {base}: undecided in {name} ({size}; {_needed(verdict)} would decide)"
    looks = config.rule.looks
    early = f", decided at {looks[verdict.look]} seeds" if len(looks) > 1 and verdict.answer != "undecided" else ""
    return f"**{arm}** {said}{early}."


def _needed(verdict: Verdict) -> str:
    return "an unknown number of seeds" if verdict.needed is None else f"about {verdict.needed:,} seeds"


def _remarks(comparison: Comparison, outcomes: Outcomes, found: Finding) -> list[Part]:
    config, lines = comparison.config, []
    if trials := missing_trials(comparison):
        lines.append(f"**{trials} of the {len(comparison.trials)} runs of tuning are missing**; they come first.")
    missing = [run.name for run in comparison.runs if run.seed not in outcomes[run.arm]]
    if missing and found.decided:
        lines.append(f"{len(missing)} runs were not needed: every pair was decided before.")
    elif missing:
        listed = ", ".join([*missing[:8], *(["…"] if len(missing) > 8 else [])])
        lines.append(f"**{len(missing)} runs are missing**: {listed}.")
    diverged = [f"{arm} {seed}" for arm, seeds in outcomes.items() for seed, one in seeds.items() if one.diverged]
    lines.append(f"Runs that diverged: {', '.join(diverged) or 'none'}. They count as the worst; intervals lack them.")
    if mixed := [seed for seed in config.seeds if len(_precisions(outcomes, seed)) > 1]:
        listed = ", ".join(map(str, mixed))
        lines.append(f"**Arms of a seed were computed in different precisions**: {listed}. Their differences mix both.")
    heads = [run.config.discriminator.head for run in comparison.runs]
    controlled = any(head.name == "independent" or head.options.get("rejection") == "none" for head in heads)
    if any(head != heads[0] for head in heads) and not controlled:
        lines.append(
            "**No `independent` arm**: a difference between these heads may come from the number of scores, or their "
            "parameters, and not from rejection."
        )
    if len(config.pairs) > 1 and found.verdicts:
        lines.append(
            f"{len(config.pairs)} comparisons; each interval is of 95 % by itself, p is adjusted for all (Holm)."
        )
    return [Text(tuple(lines))]


def _precisions(outcomes: Outcomes, seed: int) -> set[str]:
    """Those that runs of a seed were asked to find for themselves, and found."""
    runs = [seeds[seed] for seeds in outcomes.values() if seed in seeds]
    chosen = [run.made_by.get("precision") for run in runs if run.config["training"]["precision"] == "auto"]
    return {one for one in chosen if one is not None}


def _protocol(read: Outcomes) -> Protocol | None:
    """The one protocol that all outcomes were measured by; those of each of FDr's feature spaces are compared too.

    Raises:
        UserError: two of them differ, or are of an earlier version.
    """
    found: dict[str, Protocol] = {}  # by feature space; "" for that of the runs' own scores
    for arm, seeds in read.items():
        for seed, outcome in seeds.items():
            for space, tree in {"": outcome.protocol, **outcome.feature_spaces}.items():
                if tree:
                    protocol = Protocol.from_dict(tree)
                    if fields := differences(found.setdefault(space, protocol), protocol):
                        raise UserError(f"arm {arm}, seed {seed}: {', '.join(fields)} differ from the other runs")
    return found.get("")


def _protocol_line(read: Outcomes, protocol: Protocol | None) -> list[Part]:
    if protocol is None:
        return []
    reference = protocol.reference
    every = [outcome for seeds in read.values() for outcome in seeds.values()]
    machines = sorted({outcome.machine for outcome in every})
    commits = sorted({_commit(outcome.made_by) for outcome in every if outcome.made_by.get("commit")})
    line = (
        f"Protocol: {protocol.extractor}, {protocol.generated_count:,} images of the {protocol.weights} generator, "
        f"seed {protocol.seed}, against {reference.count:,} of {reference.name} {reference.split} "
        f"({reference.content_hash[:12]}). Machines: {'; '.join(machines)}."
    )
    precisions = sorted({str(outcome.made_by["precision"]) for outcome in every if "precision" in outcome.made_by})
    line += f" Precision: {', '.join(precisions)}." if precisions else ""
    spaces = sorted({", ".join(outcome.feature_spaces) for outcome in every if outcome.feature_spaces})
    line += f" FDr over {'; '.join(spaces)}." if spaces else ""
    return [Text((f"{line} Commits: {', '.join(commits)}." if commits else line,))]


def _commit(made_by: Mapping[str, Any]) -> str:
    return f"{made_by['commit'][:7]}{'' if made_by.get('clean') else ' with changes'}"
