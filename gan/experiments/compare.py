"""A comparison from its file to its report: what compare.py does once the command line is read."""

from collections.abc import Sequence
from pathlib import Path

import click

from gan.device import resolve_device
from gan.experiments.comparison_config import Planned, load_comparison
from gan.experiments.outcomes import Outcome, load_outcome
from gan.experiments.report import write_report
from gan.experiments.runner import require_buildable, run_all
from gan.files import write_text
from gan.training.run_directory import RunDirectory


def compare(
    experiment: Path, overrides: tuple[str, ...], jobs: int, devices: Sequence[str], out: Path, report_only: bool
) -> str:
    """Run what is missing of an experiment, and report; returns the report.

    Args:
        experiment: its file.
        overrides: of the file, `key=value`.
        jobs: runs at once.
        devices: where they run, in turn.
        out: its directory.
        report_only: run nothing.

    Raises:
        UserError: the file, a device or a run's config is not accepted, a kept outcome is of another config, or
            another process is at work in `out`.
        StorageError: `out` or the results cannot be written.
    """
    comparison = load_comparison(experiment, overrides, out)
    for device in devices:
        resolve_device(device)
    outcomes: dict[str, dict[int, Outcome]] = {arm: {} for arm in comparison.config.arms}

    def show(planned: Planned, outcome: Outcome) -> None:
        outcomes[planned.arm][planned.seed] = outcome
        done = sum(map(len, outcomes.values()))
        value = outcome.measures.get(comparison.config.primary)
        found = "diverged" if outcome.diverged else f"{comparison.config.primary} {value:.4g}"
        line = f"[{done}/{len(comparison.runs)}] {planned.arm:20} seed {planned.seed:<6} {found}"
        click.echo(f"{line}  {outcome.seconds / 60:.1f} min", err=True)

    if report_only:
        for planned in comparison.runs:
            if (outcome := load_outcome(comparison.results, planned)) is not None:
                outcomes[planned.arm][planned.seed] = outcome
    else:
        require_buildable(comparison)
        with RunDirectory(out).claimed():
            write_text(out / "experiment.yaml", experiment.read_text(encoding="utf-8"))
            run_all(comparison, out, jobs, devices, show)
    ordered = {arm: dict(sorted(seeds.items())) for arm, seeds in outcomes.items()}
    return f"{write_report(comparison, ordered, out)}\nreport: {out / 'report.md'}"
