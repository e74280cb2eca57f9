"""`gan list`: the names that a config or a command accepts."""

import click

from gan.commands.command_line import OneLineCommand
from gan.commands.reporting import one_line_errors
from gan.processes import importing

KINDS = (
    "heads", "losses", "backbones", "generators", "attention", "regularizers", "metrics", "sources", "configs",
)  # fmt: skip


@click.command("list", cls=OneLineCommand, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("kind", shell_complete=lambda ctx, param, incomplete: [k for k in KINDS if k.startswith(incomplete)])
def main(kind: str) -> None:
    """Print what there is of KIND, with the meaning of each name, its options and their defaults.

    KIND is heads, losses, backbones, generators, attention, regularizers, metrics, sources or configs.
    """
    with one_line_errors():
        with importing():
            from gan.commands.listing import listing
        click.echo(listing(kind))
