"""What a comparison on frozen features found: the verdicts, the predictions held against the values, every number."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from gan.experiments.figures import draw_differences
from gan.experiments.frozen.config import FrozenConfig, Prediction
from gan.experiments.outcomes import Outcome, Outcomes
from gan.experiments.page import Part, Picture, Table, Text, markdown, web_page
from gan.experiments.report import finding, finite, numbers, sentences
from gan.experiments.statistics import Estimate, estimate
from gan.experiments.tables import arm_table, pair_tables
from gan.files import write_text

PRIMARY = {"readout_error": "read-out error (1 − AUC)"}


def write_report(config: FrozenConfig, outcomes: Outcomes, out: Path) -> str:
    """Write report.md, report.html, report.json and the picture to `out`; returns the text.

    Values are in them from the first look on, of the seeds that it has.
    """
    found = finding(config, outcomes)
    read = {arm: {seed: outcomes[arm][seed] for seed in found.seeds} for arm in config.arms}
    primary = PRIMARY.get(config.primary.measure, config.primary.measure)
    parts: list[Part] = [Text(tuple(sentences(config, found, primary)), bullets=True)]
    if (picture := draw_differences(config, read, found.verdicts, primary, out)) is not None:
        parts.insert(0, Picture(picture, "every run, runs of one seed joined, and paired differences"))
    if found.seeds:
        if config.predictions:
            rows = tuple(_row(prediction, read) for prediction in config.predictions)
            columns = ("prediction", "arm", "measure", "mean and 95 % interval", "predicted", "outcome")
            notes = "Confirmed or refuted where the whole interval is on one side; each interval is of 95 % by itself."
            parts.append(Table("What was predicted before any run:", columns, rows, notes))
        parts += _arm_tables(config, read, primary)
        parts += pair_tables(config, found.verdicts, primary)
        parts.append(_made_by(read))
    text = markdown(config.question, parts)
    write_text(out / "report.md", text)
    write_text(out / "report.html", web_page(config.question, parts, out))
    write_text(out / "report.json", json.dumps(finite(numbers(config, read, found)), indent=1) + "\n")
    return text


def _row(prediction: Prediction, read: Outcomes) -> tuple[str, ...]:
    found, threshold = measured(prediction, read)
    what = f"{prediction.measure} − that of {prediction.than}" if prediction.than else prediction.measure
    expected = f"{prediction.direction} {threshold:g}"
    if found is None:
        return prediction.says, prediction.arm, what, "none", expected, "open"
    interval = f"{found.mean:.4g} ({found.low:.4g} to {found.high:.4g})"
    return prediction.says, prediction.arm, what, interval, expected, outcome(prediction, found, threshold)


def measured(prediction: Prediction, read: Outcomes) -> tuple[Estimate | None, float]:
    """The mean that a prediction is about, or that of the paired differences, and what it is held against."""
    values = _by_seed(read[prediction.arm], prediction.measure)
    if prediction.than is None:
        assert prediction.value is not None
        return (estimate([*values.values()]) if values else None), prediction.value
    others = _by_seed(read[prediction.than], prediction.measure)
    differences = [values[seed] - others[seed] for seed in values if seed in others]
    return (estimate(differences) if differences else None), 0.0


def outcome(prediction: Prediction, found: Estimate, threshold: float) -> str:
    """Whether the interval lies on the predicted side of the threshold, on the other, or on both."""
    below, above = found.high < threshold, found.low > threshold
    if not below and not above:
        return "open"
    return "confirmed" if below == (prediction.direction == "below") else "refuted"


def _by_seed(outcomes: Mapping[int, Outcome], measure: str) -> dict[int, float]:
    return {seed: one.measures[measure] for seed, one in outcomes.items() if measure in one.measures}


def _arm_tables(config: FrozenConfig, read: Outcomes, primary: str) -> list[Part]:
    """Measures by arm: of the whole, then of each stage."""
    every = {name for seeds in read.values() for one in seeds.values() for name in one.measures}
    names = sorted(every, key=lambda name: (name != config.primary.measure, name))
    whole = [name for name in names if not _of_stage(name)]
    tables: list[Part] = [arm_table(config, read, {name: name if name != names[0] else primary for name in whole})]
    if stages := [name for name in names if _of_stage(name)]:
        tables.append(arm_table(config, read, {name: name for name in stages}))
    return tables


def _of_stage(name: str) -> bool:
    return any(part.isdigit() for part in name.split("_"))


def _made_by(read: Outcomes) -> Text:
    every: Sequence[Outcome] = [one for seeds in read.values() for one in seeds.values()]
    generators = sorted({str(one.made_by["generator"])[:12] for one in every})
    machines = sorted({one.machine for one in every})
    commits = sorted({str(one.made_by.get("commit"))[:7] for one in every})
    line = f"Generator {', '.join(generators)}. Machines: {'; '.join(machines)}. Commits: {', '.join(commits)}."
    return Text((line,))
