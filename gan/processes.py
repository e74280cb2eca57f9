"""What a process knows of the job it was started in, from torchrun's environment alone: so it is quick to ask."""

import ctypes
import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gan.errors import is_out_of_memory

INSTALLATION = "`make environment` makes .venv with all that is needed, `source .venv/bin/activate` takes it"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_claims: list[Callable[[], bool]] = []  # the last says whether this process is the first of the job to speak


def started_with_others() -> bool:
    """Whether torchrun has started other processes beside this one, be they joined or not."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ and "LOCAL_RANK" in os.environ


def command_again() -> str:
    """The command line that starts this process, or all of its job, once more."""
    program, *arguments = sys.argv
    name = Path(program).name
    if name == "__main__.py":
        words = [_launcher() or python(), "-m", Path(program).parent.name]
    elif name.endswith(".py"):
        words = [_launcher() or python(), shlex.quote(program)]
    else:
        words = [f"{_launcher()} --no-python {name}" if started_with_others() else shlex.quote(program)]
    return " ".join([*words, *map(shlex.quote, arguments)])


def gan_command() -> str:
    """How the command `gan` is called here: where this process was started by it, as it is, else as a module."""
    return "gan" if Path(sys.argv[0]).name == "gan" else f"{python()} -m gan"


def python() -> str:
    """What starts this interpreter: `python` where the shell finds it by that name, else its path from here."""
    found, own = shutil.which("python"), Path(sys.executable)
    if found is not None and Path(found).parent == own.parent:
        return "python"
    here = Path.cwd()
    return shlex.quote(str(own.relative_to(here) if own.is_relative_to(here) else own))


def _launcher() -> str:
    """torchrun with what tells its hosts apart left out; nothing where this process was started alone."""
    if not started_with_others():
        return ""
    hosts = int(os.environ.get("GROUP_WORLD_SIZE", "1"))
    nodes = f" --nnodes={hosts} (and the rendezvous as before)" if hosts > 1 else ""
    return f"torchrun{nodes} --nproc_per_node={os.environ.get('LOCAL_WORLD_SIZE', '1')}"


def stop_with_parent() -> None:
    """On Linux: be asked to save and stop, as by SIGTERM, should the process that started this one be killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def importing() -> Iterator[None]:
    """Within the block, which is of imports, Ctrl-C ends the process at once: half imported libraries swallow it.

    A library that is not installed ends it with one line, and status 2.
    """
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_DFL) if main else None
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("", "gan"):
            raise
        print(f"{error.name} is not installed for {sys.executable}; {INSTALLATION}", file=sys.stderr)
        sys.exit(2)
    finally:
        if main:
            signal.signal(signal.SIGINT, before)


@contextmanager
def one_voice() -> Iterator[None]:
    """An error that a user can cause leaves the block in one process only; the others end silently, with its status."""
    try:
        yield
    except Exception as error:
        theirs = hasattr(error, "exit_status") or isinstance(error, OSError) or is_out_of_memory(error)
        if not theirs or _is_first_to_speak():
            raise
        sys.exit(getattr(error, "exit_status", 1))


@contextmanager
def speaking_by(claim: Callable[[], bool]) -> Iterator[None]:
    """Within the block `claim` tells which process speaks; without it, one a host."""
    _claims.append(claim)
    yield
    _claims.clear()  # not after an error, which is still to be told


def _is_first_to_speak() -> bool:
    if not _claims:
        return not started_with_others() or os.environ["LOCAL_RANK"] == "0"
    try:
        return _claims[-1]()
    except RuntimeError:  # the host of the store is gone, and nobody can be asked
        return True
