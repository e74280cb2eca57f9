"""Damaged and hostile input for every reader: each case must be read or refused in one line, nothing else.

`python benchmarks/fuzz.py --cases 1000000` divides the cases among the readers by their shares; `--reader config`
fuzzes one. Cases follow from `--seed` alone. A reader ends at its first case that gives anything but a
result or a UserError; the script then exits with 1.
"""

import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import click
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import fuzz_configs, fuzz_files, fuzz_shapes, fuzz_structures
from benchmarks.fuzz_bytes import Case
from gan.errors import UserError

SECONDS = 60  # for a case
MEMORY = 12 * 2**30  # for all of them, of addresses

# each with its share of the cases: fewer of what takes long
READERS: dict[str, tuple[Callable[[random.Random, Path], Case], int]] = {
    "config": (fuzz_configs.config_cases, 3500),
    "yaml": (fuzz_configs.yaml_cases, 500),
    "override": (fuzz_configs.override_cases, 500),
    "experiment": (fuzz_configs.experiment_cases, 200),
    "checkpoint": (fuzz_files.checkpoint_cases, 3000),
    "npz": (fuzz_files.npz_cases, 1500),
    "image_folder": (fuzz_files.image_cases, 400),
    "archive": (fuzz_files.archive_cases, 80),
    "prepared": (fuzz_files.prepared_cases, 200),
    "export": (fuzz_files.export_cases, 200),
    "result": (fuzz_files.result_cases, 700),
    "outcome": (fuzz_files.outcome_cases, 400),
    "statistics": (fuzz_files.statistics_cases, 300),
    "weights": (fuzz_files.weights_cases, 400),
    "state": (fuzz_structures.state_cases, 60),
    "description": (fuzz_structures.export_structure_cases, 100),
    "outcome values": (fuzz_structures.outcome_structure_cases, 200),
    "result values": (fuzz_structures.result_structure_cases, 500),
    "log": (fuzz_structures.log_cases, 100),
    "picture": (fuzz_shapes.picture_cases, 200),
    "scalar": (fuzz_shapes.scalar_cases, 300),
    "name": (fuzz_shapes.name_cases, 60),
}


class TooLong(BaseException):
    """A case that is not done after a minute; no reader takes it for an error of its own."""


def _too_long(number: int, frame: object) -> None:
    raise TooLong(f"not done after {SECONDS} seconds")


def fuzz(reader: str, cases: int, seed: int) -> tuple[int, int]:
    """Run `cases` of one reader; returns how many were read and how many refused.

    Raises:
        AssertionError: a case ended otherwise; it says which.
    """
    read = refused = 0
    signal.signal(signal.SIGALRM, _too_long)
    with tempfile.TemporaryDirectory() as directory:
        for number in range(cases):
            case = READERS[reader][0](random.Random(f"{reader} {seed} {number}"), Path(directory))
            signal.alarm(SECONDS)
            try:
                case()
                read += 1
            except UserError as error:  # status 3: what a generator of damaged weights makes is not finite
                assert error.exit_status in (2, 3), f"{reader} case {number}: status {error.exit_status}: {error}"
                assert str(error).strip(), f"{reader} case {number}: an empty message"
                refused += 1
            except (Exception, TooLong) as error:
                raise AssertionError(
                    f"{reader} case {number} of seed {seed}: {type(error).__name__}: {error}"
                ) from error
            finally:
                signal.alarm(0)
    return read, refused


@click.command()
@click.option("--cases", default=10_000, show_default=True, help="In all.")
@click.option("--seed", default=0, show_default=True)
@click.option("--reader", "readers", type=click.Choice(list(READERS)), multiple=True, default=list(READERS))
def main(cases: int, seed: int, readers: tuple[str, ...]) -> None:
    """Fuzz the readers."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.RLIM_INFINITY))
    torch.set_num_threads(1)
    shares = {reader: READERS[reader][1] for reader in readers}
    failed = 0
    for reader, share in shares.items():
        start = time.perf_counter()
        try:
            read, refused = fuzz(reader, cases * share // sum(shares.values()), seed)
        except AssertionError:
            failed += 1
            click.echo(f"{reader:14} FAILED\n{traceback.format_exc()}")
            continue
        click.echo(f"{reader:14} {read + refused:9,} cases: {read:9,} read, {refused:9,} refused, "
                   f"{time.perf_counter() - start:7.0f} s")  # fmt: skip
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
