"""Commands that tell of a wrong command line in one line, as of any other bad input."""

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import click
from click.core import ParameterSource

from gan.errors import UserError, nearest

INTERRUPTED = 130  # as shells have it: 128 and the number of SIGINT


class FilePath(click.Path):
    """A path; an empty one, which Python takes for the current folder, is refused."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("'' found, a path accepted", param, ctx)
        return super().convert(value, param, ctx)


def refuse_given(names: Collection[str], why: str) -> None:
    """Refuse parameters of the running command that were given and that it would not use.

    Raises:
        UserError: one was; `why` says in which case it is not used.
    """
    context = click.get_current_context()
    for parameter in context.command.params:
        name = parameter.name or ""
        if name in names and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise UserError(f"{parameter.opts[0]}: given, but {why}")


class Refused(click.ClickException):
    """A mistake on the command line: one line, told by one process of a host, and exit status 2."""

    exit_code = click.UsageError.exit_code

    def show(self, file: Any = None) -> None:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            click.echo(self.format_message(), err=True)


class OneLineCommand(click.Command):
    """A command whose mistakes on the command line are one line."""

    def make_context(self, info_name: str | None, *arguments: Any, **options: Any) -> click.Context:
        try:
            return super().make_context(info_name, *arguments, **options)
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.UsageError as error:
            raise Refused(_line(error, info_name)) from error


class OneLineGroup(OneLineCommand, click.Group):
    """A group of such commands."""

    command_class = OneLineCommand

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            hint = nearest(args[0], self.list_commands(ctx))
            raise Refused(f"{ctx.command_path}: no such command {args[0]!r}{hint}") from error


def config_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """For the shell's completion: the packaged configs whose names begin with `incomplete`."""
    from gan.config import named

    return [name for name in named.config_names() if name.startswith(incomplete)]


def which_checkpoint(step: int | None, best: bool) -> int | Literal["best"] | None:
    """What `--step` and `--best` ask for; None for the newest.

    Raises:
        UserError: both were given.
    """
    if best and step is not None:
        raise UserError("--best and --step exclude each other")
    return "best" if best else step


def _line(error: click.UsageError, info_name: str | None) -> str:
    name = info_name if error.ctx is None else error.ctx.command_path
    message = " ".join(error.format_message().split())
    kind = error.param.type if isinstance(error, click.BadParameter) and error.param is not None else None
    if isinstance(kind, click.IntRange | click.FloatRange) and " in the range " not in message:
        bounds = [f"{'from' if kind.max is not None else 'at least'} {kind.min}"] if kind.min is not None else []
        bounds += [f"to {kind.max}"] if kind.max is not None else []
        message = f"{message.rstrip('.')}; accepted: a number {' '.join(bounds)}".rstrip()
    wrong = re.search(r"'([^']*)' is not one of ", message)
    if isinstance(kind, click.Choice) and wrong is not None:
        message = f"{message[: wrong.start()]}no {wrong[1]!r}{nearest(wrong[1], kind.choices)}"
    return f"{name}: {message}"
