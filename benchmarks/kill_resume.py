"""Kill a run at random instants, start it again each time, and compare its end with an undisturbed run's.

`python benchmarks/kill_resume.py --kills 100`. Every process is killed by SIGKILL at a random moment between its start
and the time it would need for the rest of the run; the same command is then given again. Prints how many kills were
survived and whether weights, metrics and logs ended bit-identical.
"""

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from gan.training.checkpoint import checkpoint_paths, read_checkpoint

CONFIG = ROOT / "configs" / "digits" / "dcgan_cr.yaml"
SETTINGS = [
    "generator.width=8", "discriminator.backbone.width=8", "generator.latent_dim=16", "training.batch_size=16",
    "logging.scalars_every=5", "logging.samples_every=10", "logging.sample_count=9", "checkpoint.every=3",
    "evaluation.at_end=false", "data.flip=true",
    "augmentation={operations: [color, translation], target: 0.6, images_to_full: 2000}",
    "objective.regularizers={r1: {weight: 0.1, interval: 4}, lecam: {weight: 0.1}}",
]  # fmt: skip


def command(out: Path, data: Path, steps: int) -> list[str]:
    settings = [*SETTINGS, f"training.steps={steps}", f"data.root={data}"]
    flags = [part for setting in settings for part in ("--set", setting)]
    return [sys.executable, str(ROOT / "train.py"), str(CONFIG), *flags, "--device", "cpu", "--out", str(out)]


def start(arguments: list[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(arguments: list[str]) -> None:
    process = start(arguments)
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"the run failed with status {process.returncode}: {errors.decode().splitlines()[-1]}")


def differences(first: Any, second: Any, place: str = "") -> list[str]:
    """Where two nested values differ, keys joined by slashes."""
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        return [found for key in first for found in differences(first[key], second[key], f"{place}/{key}")]
    if isinstance(first, list | tuple) and isinstance(second, list | tuple) and len(first) == len(second):
        pairs = enumerate(zip(first, second, strict=True))
        return [found for index, pair in pairs for found in differences(*pair, f"{place}/{index}")]
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return [] if torch.equal(first, second) else [place]
    return [] if type(first) is type(second) and first == second else [place]


def outcome(run: Path) -> dict[str, Any]:
    """The last state, the log, the sample grids and the names of all files, without what clocks have written."""
    state = read_checkpoint(checkpoint_paths(run / "checkpoints")[-1])
    state.pop("elapsed")
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    log = [{name: value for name, value in line.items() if not name.startswith("speed/")} for line in log]
    grids = {path.name: path.read_bytes() for path in (run / "samples").glob("*.png")}
    events = {path for path in run.rglob("*") if "tfevents" in path.name}  # one for each start
    names = sorted(str(path.relative_to(run)) for path in run.rglob("*") if path not in events)
    return {"state": state, "log": log, "grids": grids, "files": names}


@click.command()
@click.option("--kills", default=100, show_default=True)
@click.option("--steps", default=400, show_default=True, help="Of the run.")
@click.option("--seed", default=0, show_default=True, help="Of the instants.")
def main(kills: int, steps: int, seed: int) -> None:
    """Kill, resume, compare."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as directory:
        whole, killed, data = (Path(directory) / name for name in ("whole", "killed", "data"))
        began = time.perf_counter()
        finish(command(whole, data, steps))
        duration = time.perf_counter() - began
        done, rounds, refused = 0, 1, 0
        while done < kills:
            process = start(command(killed, data, steps))
            try:
                _, errors = process.communicate(timeout=chance.uniform(0, duration))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                done += 1
                continue
            if process.returncode:
                refused += 1
                click.echo(f"refused after {done} kills: {errors.decode().splitlines()[-1]}")
                break
            if differences(outcome(whole), outcome(killed)):
                break
            for path in sorted(killed.rglob("*"), reverse=True):  # the run ended before enough kills: another one
                path.rmdir() if path.is_dir() else path.unlink()
            rounds += 1
        if not refused:
            finish(command(killed, data, steps))
        different = ["refused"] if refused else differences(outcome(whole), outcome(killed))
        click.echo(
            f"{done} kills survived over {rounds} runs of {steps} steps ({duration:.1f} s undisturbed); "
            f"bit-identical: {'NO: ' + ', '.join(different[:5]) if different else 'yes'}"
        )
        raise SystemExit(1 if different else 0)


if __name__ == "__main__":
    main()
