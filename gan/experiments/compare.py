"""A comparison from its file to its report: what compare.py does once the command line is read."""

import os
from collections.abc import Sequence
from pathlib import Path

import click

from gan.device import resolve_device
from gan.errors import UserError
from gan.experiments.comparison import Comparison, Planned, load_comparison
from gan.experiments.curves import averaged
from gan.experiments.frozen.experiment import if_frozen
from gan.experiments.outcomes import Outcome, load_outcome
from gan.experiments.report import finding, write_report
from gan.experiments.runner import Show, require_buildable, run_all, run_one
from gan.experiments.tuning import missing_trials, tuned
from gan.files import write_text
from gan.training.run_directory import RunDirectory


def compare(experiment: Path, overrides: tuple[str, ...], jobs: int, devices: Sequence[str], out: Path) -> str:
    """Run what is missing of an experiment, look by look until every pair is decided, and report.

    Args:
        experiment: its file.
        overrides: of the file, `key=value`.
        jobs: runs at once.
        devices: where they run, in turn.
        out: its directory.

    Returns:
        The report.

    Raises:
        UserError: the file, a device or a run's config is not accepted, a kept outcome is of another config, or
            another process is at work in `out`.
        StorageError: `out` or the results cannot be written.
    """
    if (frozen := if_frozen(experiment, overrides, out)) is not None:
        return frozen.compare(jobs, devices)
    comparison = tuned(load_comparison(experiment, overrides, out))
    for device in devices:
        resolve_device(device)
    require_buildable(comparison.results, [*comparison.trials, *_settled(comparison)])
    with RunDirectory(out).claimed():
        write_text(out / "experiment.yaml", experiment.read_text(encoding="utf-8"))
        show = _progress(len(comparison.trials), "tuning ")
        run_all(comparison.trials, comparison.results, out, jobs, devices, show)
        comparison = tuned(comparison)
        show = _progress(len(comparison.runs))
        before = 0
        for count in comparison.config.rule.looks:
            number = count * len(comparison.config.arms)
            run_all(comparison.runs[before:number], comparison.results, out, jobs, devices, show)
            before = number
            if finding(comparison.config, kept_outcomes(comparison)).decided:
                break
    return _report(comparison, out)


def report(experiment: Path, overrides: tuple[str, ...], out: Path) -> str:
    """Report on the outcomes that are there, whoever made them; run nothing."""
    if (frozen := if_frozen(experiment, overrides, out)) is not None:
        return frozen.report()
    return _report(tuned(load_comparison(experiment, overrides, out)), out)


def list_runs(experiment: Path, overrides: tuple[str, ...], out: Path) -> str:
    """A line for every run: its number for `run_task`, its name, and whether its outcome is there."""
    comparison = tuned(load_comparison(experiment, overrides, out))
    lines = []
    settled = {planned.name for planned in _settled(comparison)}
    for number, planned in enumerate([*comparison.trials, *comparison.runs]):
        known = planned.trial is not None or planned.name in settled
        state = "finished" if known and load_outcome(comparison.results, planned) is not None else "missing"
        lines.append(f"{number}\t{planned.name}\t{state}")
    return "\n".join(lines)


def run_task(experiment: Path, overrides: tuple[str, ...], number: int, device: str, out: Path) -> str:
    """Run the `number`-th of the lines of `list_runs` and nothing else; any scheduler can be the engine.

    Raises:
        UserError: as `compare`; there is no such run, another process is at work on it, or tuning that comes first
            is not over.
    """
    comparison = tuned(load_comparison(experiment, overrides, out))
    count = len(comparison.trials) + len(comparison.runs)
    if number >= count:
        raise UserError(f"--task: {number} found, 0 to {count - 1} accepted")
    if number >= len(comparison.trials) and (missing := missing_trials(comparison)):
        raise UserError(
            f"--task: {number} found, but {missing} of the {len(comparison.trials)} runs of tuning are missing; they "
            "choose the arms' settings and come first"
        )
    planned = [*comparison.trials, *comparison.runs][number]
    resolve_device(device)
    require_buildable(comparison.results, [planned])
    outcome = run_one(planned, comparison.results, out, device, os.cpu_count() or 1)
    return _line(planned, outcome)


def kept_outcomes(comparison: Comparison) -> dict[str, dict[int, Outcome]]:
    """The outcomes that are there of the runs that count, by arm and seed."""
    outcomes: dict[str, dict[int, Outcome]] = {arm: {} for arm in comparison.config.arms}
    for planned in _settled(comparison):
        if (outcome := load_outcome(comparison.results, planned)) is not None:
            outcomes[planned.arm][planned.seed] = averaged(outcome, comparison.config.primary)
    return outcomes


def _settled(comparison: Comparison) -> Sequence[Planned]:
    """The runs that count; none before tuning is over, for what it chooses is among their settings."""
    return () if missing_trials(comparison) else comparison.runs


def _report(comparison: Comparison, out: Path) -> str:
    text = write_report(comparison, kept_outcomes(comparison), out)
    return f"{text}\nreport: {out / 'report.md'}, {out / 'report.html'}"


def _progress(count: int, what: str = "") -> Show:
    """Tells of every outcome as it comes, and not of its value: whoever watches is not to look before the rule does."""
    done = 0

    def show(planned: Planned, outcome: Outcome) -> None:
        nonlocal done
        done += 1
        click.echo(f"{what}[{done}/{count}] {_line(planned, outcome)}", err=True)

    return show


def _line(planned: Planned, outcome: Outcome) -> str:
    state = "diverged" if outcome.diverged else "finished"
    return f"{planned.name:32} {state} after {outcome.seconds / 60:.1f} min of training"
