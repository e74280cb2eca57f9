"""Prepare images of any number: `python -m gan.data prepare FOLDER --out DIR`, the same as `gan prepare`."""

import click

from gan.commands.command_line import OneLineGroup
from gan.commands.line.prepare import main as prepare


@click.group(cls=OneLineGroup, context_settings={"help_option_names": ["-h", "--help"]}, commands=[prepare])
def main() -> None:
    """Work on images before training."""


if __name__ == "__main__":
    main(prog_name="python -m gan.data")
