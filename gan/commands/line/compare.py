"""`gan compare`: arms over seeds. The same command resumes."""

from pathlib import Path

import click

from gan.commands.command_line import FilePath, OneLineCommand, config_names, refuse_given
from gan.commands.reporting import one_line_errors
from gan.errors import UserError
from gan.processes import importing


@click.command("compare", cls=OneLineCommand, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("experiments", metavar="EXPERIMENT...", nargs=-1, required=True, shell_complete=config_names)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of it; repeatable.")
@click.option("--jobs", type=click.IntRange(min=1), help="Runs at once. [default: one on each device]")
@click.option("--device", "devices", default="auto", show_default=True, help="One, or several with commas, in turn.")
@click.option("--out", type=FilePath(), help="[default: outputs/<experiment>]")
@click.option("--report-only", is_flag=True, help="Run nothing; report on the outcomes that are there.")
@click.option("--list", "listing", is_flag=True, help="Run nothing; print a line for each run, its number first.")
@click.option("--task", type=click.IntRange(min=0), metavar="N", help="Run the N-th of --list, nothing else.")
@click.option("--summary", is_flag=True, help="Run nothing; summarise several experiments.")
def main(
    experiments: tuple[str, ...],
    overrides: tuple[str, ...],
    jobs: int | None,
    devices: str,
    out: Path | None,
    report_only: bool,
    listing: bool,
    task: int | None,
    summary: bool,
) -> None:
    """Run every arm of EXPERIMENT with every seed, then report what its rules allow to say.

    EXPERIMENT is a file, or the name of one that comes with the package, such as experiments/smoke.
    Finished runs are kept, interrupted ones go on. The report lands in the experiment's directory.
    """
    with one_line_errors():
        with importing():
            from gan.config import find_config
            from gan.experiments.compare import compare, list_runs, report, run_task
            from gan.experiments.summary import summarise
        modes = {"--report-only": report_only, "--list": listing, "--task": task is not None, "--summary": summary}
        if len(chosen := [name for name, wanted in modes.items() if wanted]) > 1:
            raise UserError(f"{' and '.join(chosen)} exclude each other")
        if task is not None:
            refuse_given(("jobs",), "--task makes one run")
            if "," in devices:
                raise UserError(f"--device: {devices} found; one accepted with --task, which makes one run")
        if summary:
            click.echo(summarise([find_config(name) for name in experiments], overrides, out))
            return
        if len(experiments) > 1:
            raise UserError(f"{len(experiments)} experiments found; one accepted, several with --summary")
        experiment = find_config(experiments[0])
        out = out or Path("outputs") / experiment.stem
        if listing:
            click.echo(list_runs(experiment, overrides, out))
        elif task is not None:
            click.echo(run_task(experiment, overrides, task, devices, out))
        elif report_only:
            click.echo(report(experiment, overrides, out))
        else:
            places = devices.split(",")
            click.echo(compare(experiment, overrides, jobs or len(places), places, out))
