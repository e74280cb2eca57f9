"""`gan runs`: a table of runs."""

from pathlib import Path

import click

from gan.commands.command_line import FilePath, OneLineCommand
from gan.commands.reporting import one_line_errors
from gan.processes import importing


@click.command("runs", cls=OneLineCommand, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", default=Path("outputs"), type=FilePath())
def main(folder: Path) -> None:
    """Print the runs in FOLDER (outputs by default): step, last score, whether finished, how to go on."""
    with one_line_errors():
        with importing():
            from gan.commands.runs import table_of_runs
        click.echo(table_of_runs(folder))
