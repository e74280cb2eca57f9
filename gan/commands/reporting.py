"""What a user can cause is one line on standard error and an exit status, never a traceback."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from gan.commands.command_line import INTERRUPTED
from gan.errors import StorageError, UserError, is_out_of_memory, printable

CLOSED_PIPE = 141  # as shells have it: 128 and the number of SIGPIPE


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Within the block, errors a user can cause end the process: 2 bad input, 3 non-finite training, 4 storage,
    130 interrupted. The line begins with the command as it was called."""
    command = click.get_current_context().command_path
    try:
        yield
    except UserError as error:
        _exit(command, str(error), error.exit_status)
    except BrokenPipeError:  # whoever read what is printed, such as `head`, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python says so when it ends
        sys.exit(CLOSED_PIPE)
    except OSError as error:
        _exit(command, _described(error), StorageError.exit_status)
    except KeyboardInterrupt:
        _exit(command, "interrupted; the same command begins or goes on again", INTERRUPTED)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        hint = "lower training.batch_size, evaluation.batch_size or a width"
        _exit(command, f"the device is out of memory; {hint}", UserError.exit_status)


def _described(error: OSError) -> str:
    return f"{error.filename or 'a file'}: {error.strerror or error}"


def _exit(command: str, message: str, status: int) -> None:
    click.echo(printable(f"{command}: {' '.join(message.split())}"), err=True)
    sys.exit(status)
