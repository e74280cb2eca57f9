"""How long it takes to a picture: a config raced to a Fréchet distance over several seeds, on all cores of a machine.

    python benchmarks/speedrun.py --change "what is new" --config CONFIG --data cifar10_train.npz --seeds 5
    python benchmarks/speedrun.py --record docs/speedrun.yaml --seeds 2 --dry-run

The clock is the training loop's, start-up and scores left out. Before and after each run, the textbook's iteration
(`benchmarks/textbook.py`) is timed in this process, so that machines can be compared: times are given in its
iterations too. A record needs a mean distance below the target at p < 0.01 (one-sided t test over at least five seeds)
and, in a second feature space, a mean no worse than that of the base, the config that all began with. The test images
are touched by nothing else: settings are searched with `benchmarks/speedrun_search.py`, on training images alone.

Each run is added to the YAML file as it ends, and the table of docs/speedrun.md follows it. The same command goes on
with the seeds that are missing and with what was interrupted, in as many sittings as it takes.
"""

import datetime
import hashlib
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import click
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.contestants import Setting, synthetic_store, textbook_iteration
from benchmarks.speedrun_page import LEVEL, PAGE, RECORDS, SEEDS, page, table
from benchmarks.throughput import commit, machine
from gan.commands.reporting import one_line_errors
from gan.config import Config, dump_yaml, find_config, load_config, parse_yaml
from gan.errors import UserError
from gan.experiments.runner import train
from gan.files import write_text
from gan.sampling.open import open_checkpoint
from gan.scoring.saved_results import newest_result, read_result
from gan.scoring.scorer import Scorer
from gan.training.checkpoint import read_checkpoint
from gan.training.run_directory import RunDirectory

SECOND = "efficientnet_lite0_levels"  # what saw every planned damage that the last layer did not (docs/evaluation.md)
THREADS = os.cpu_count() or 1
TEXTBOOK = Setting("sngan", 48, 48, 32, torch.device("cpu"))  # five steps of D and one of G
PROTOCOL = [
    "evaluation.every=0", "evaluation.at_end=true", "evaluation.extractor=efficientnet_lite0",
    "evaluation.metrics=[fid]", "evaluation.samples=5000", "evaluation.seed=0", "training.precision=float32",
]  # fmt: skip


def config_of(name: str, settings: list[str], data: Path | None, seed: int) -> Config:
    """The config of one run, scored by the fixed protocol."""
    images = [] if data is None else ["data.source=npz", f"data.path={data}"]
    return load_config(find_config(name), [*settings, *images, *PROTOCOL, f"seed={seed}"])


def textbook_seconds(iterations: int = 5) -> float:
    """Median seconds of the textbook's iteration, after one to warm up, on as many threads as a run has."""
    torch.set_num_threads(THREADS)
    iterate = textbook_iteration(TEXTBOOK, synthetic_store(2000))
    iterate()
    times = []
    for _ in range(iterations):
        start = time.perf_counter()
        iterate()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def entry_of(records: dict[str, Any], change: str, name: str, settings: list[str]) -> dict[str, Any]:
    """The records' entry of that change, a new one where there is none; `UserError` where it is another config's."""
    for entry in records["entries"]:
        if entry["change"] == change:
            if (entry["config"], entry["settings"]) != (name, settings):
                whose = " ".join([entry["config"], *entry["settings"]])
                raise UserError(f"--change {change!r} is in the records, of {whose}; find other words for another one")
            return entry
    entry = {"change": change, "config": name, "settings": settings, "runs": []}
    records["entries"].append(entry)
    return entry


def directory_of(out: Path, change: str | None, name: str, settings: list[str], seed: int) -> Path:
    """Where a run lies: each entry's have places of their own, for one that goes on is no race from the start."""
    digest = hashlib.sha256(json.dumps([change, name, settings]).encode()).hexdigest()[:8]
    return out / f"{Path(name).name}_{digest}_seed{seed}"


def raced(config: Config, directory: Path) -> dict[str, Any]:
    """One run: seed, minutes of training, the textbook's seconds, the distance in both feature spaces, and where."""
    before = textbook_seconds()
    if train(config, directory, "cpu", THREADS, f"seed {config.seed}"):
        raise UserError(f"{directory}: diverged")
    newest = RunDirectory(directory).newest_checkpoint()
    assert newest is not None
    distance = read_result(newest_result(directory)).metrics["frechet_distance"]
    return {
        "seed": config.seed, "date": datetime.date.today().isoformat(),
        "minutes": read_checkpoint(newest)["elapsed"] / 60,
        "textbook_seconds": statistics.mean([before, textbook_seconds()]),
        "distance": distance, "second": second_opinion(directory),
        "machine": machine(torch.device("cpu")), "commit": commit(RECORDS, PAGE),
    }  # fmt: skip


def second_opinion(directory: Path) -> float:
    """The Fréchet distance of a run's last generator in the feature space `SECOND`, by the same protocol."""
    generator = open_checkpoint(directory, device="cpu")
    config = generator.config
    evaluation = config.evaluation.model_copy(update={"extractor": SECOND})
    scorer = Scorer(config.model_copy(update={"evaluation": evaluation}), generator.class_names, generator.device)
    return scorer.score(generator.network, "ema").metrics["frechet_distance"]


@click.command()
@click.option("--record", "file", default=RECORDS, type=click.Path(exists=True, path_type=Path))
@click.option("--config", "name", default="cifar10/sngan_cr_small", show_default=True)
@click.option("--set", "settings", multiple=True, help="Override a key of the config.")
@click.option("--change", help="What is new, in a few words.")
@click.option("--seeds", default=SEEDS, show_default=True, help="How many, from 0.")
@click.option("--data", type=click.Path(path_type=Path), help="cifar10_train.npz, with cifar10_test.npz beside it.")
@click.option("--out", default=Path("outputs/speedrun"), show_default=True, type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Show the records and what would be run.")
def main(
    file: Path,
    name: str,
    settings: tuple[str, ...],
    change: str | None,
    seeds: int,
    data: Path | None,
    out: Path,
    dry_run: bool,
) -> None:
    """Race a config and add its runs to the records."""
    with one_line_errors():
        records = parse_yaml(file.read_text(encoding="utf-8"), str(file))
        configs = [config_of(name, list(settings), data, seed) for seed in range(seeds)]
        directories = [directory_of(out, change, name, list(settings), config.seed) for config in configs]
        if dry_run:
            print(f"target: FD {records['target']} at p < {LEVEL} over {SEEDS} seeds or more\n{table(records)}\n")
            for config, directory in zip(configs, directories, strict=True):
                print(f"would run {name} seed {config.seed}: {config.training.steps:,} steps, in {directory}")
            return
        if not change:
            raise click.UsageError("--change: say what is new")
        entry = entry_of(records, change, name, list(settings))
        done = {run["seed"] for run in entry["runs"]}
        for config, directory in zip(configs, directories, strict=True):
            if config.seed not in done:
                entry["runs"].append(raced(config, directory))
                write_text(file, dump_yaml(records))
                if file.resolve() == RECORDS:
                    write_text(PAGE, page(PAGE.read_text(encoding="utf-8")))
        print(table(records))


if __name__ == "__main__":
    main()
