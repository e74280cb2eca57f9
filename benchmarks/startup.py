"""How long the command line takes to answer, and to have trained and logged its first step.

`python benchmarks/startup.py [--runs 3]`. Processes of their own, one after another; medians, files in the page cache.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.throughput import machine
from gan.device import resolve_device

TRAIN = [sys.executable, str(ROOT / "train.py")]


def seconds(arguments: list[str]) -> float:
    """Wall time of a process that must end well."""
    start = time.perf_counter()
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def first_step(arguments: list[str]) -> float:
    """Wall time until metrics.jsonl of a run has its first line; the run is then killed."""
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        log = Path(out) / "run" / "metrics.jsonl"
        process = subprocess.Popen([*arguments, "--out", str(log.parent)], stderr=subprocess.PIPE)
        try:
            while not (log.is_file() and log.stat().st_size):
                if process.poll() is not None:
                    errors = process.stderr.read().decode() if process.stderr else ""
                    raise SystemExit(f"train.py ended with status {process.returncode}: {errors.splitlines()[-1]}")
                time.sleep(0.01)
            return time.perf_counter() - start
        finally:
            process.kill()
            process.communicate()


@click.command()
@click.option("--runs", default=3, show_default=True, help="Of each, after one that is not counted.")
def main(runs: int) -> None:
    """Time the starts."""
    click.echo(machine(resolve_device("auto")))
    asks = {
        "import torch": lambda: seconds([sys.executable, "-c", "import torch"]),
        "train.py --dry-run": lambda: seconds([*TRAIN, "--dry-run"]),
        "first step, default config": lambda: first_step([*TRAIN, "--set", "logging.scalars_every=1"]),
    }
    for name, ask in asks.items():
        times = [ask() for _ in range(1 + runs)][1:]
        click.echo(f"{name:28} {statistics.median(times):6.2f} s ({min(times):.2f} to {max(times):.2f})")


if __name__ == "__main__":
    main()
