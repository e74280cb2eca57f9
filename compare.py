"""Compare arms over seeds: `python compare.py configs/experiments/NAME.yaml`. The same command resumes."""

from pathlib import Path

import click

from gan.commands.command_line import OneLineCommand
from gan.commands.reporting import one_line_errors
from gan.processes import importing


@click.command(cls=OneLineCommand, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("experiment", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of it; repeatable.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at once.")
@click.option("--device", "devices", default="auto", show_default=True, help="One, or several with commas, in turn.")
@click.option("--out", type=click.Path(path_type=Path), help="[default: outputs/<experiment>]")
@click.option("--report-only", is_flag=True, help="Run nothing; report on the outcomes that are there.")
def main(
    experiment: Path, overrides: tuple[str, ...], jobs: int, devices: str, out: Path | None, report_only: bool
) -> None:
    """Run every arm of EXPERIMENT with every seed, then report what the runs tell.

    Finished runs are kept, interrupted ones go on. The report lands in the experiment's directory.
    """
    with one_line_errors("compare.py"):
        with importing():
            from gan.experiments.compare import compare
        out = out or Path("outputs") / experiment.stem
        click.echo(compare(experiment, overrides, jobs, devices.split(","), out, report_only))


if __name__ == "__main__":
    main()
