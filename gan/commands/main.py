"""The command `gan`: its subcommands, each imported when it is asked for."""

from importlib import import_module

import click

import gan
from gan.commands.command_line import OneLineGroup

COMMANDS = ("train", "evaluate", "compare", "sample", "export", "prepare", "list", "runs")


class LazyGroup(OneLineGroup):
    """A group whose command NAME is `main` of gan/commands/line/NAME.py."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return import_module(f"gan.commands.line.{cmd_name}").main if cmd_name in COMMANDS else None


@click.group("gan", cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(gan.__version__, message="%(prog)s %(version)s")
def main() -> None:
    """GANs around cascading-rejection discriminators: train, score, compare and share them."""


if __name__ == "__main__":
    main()
