"""Which settings make a picture soonest: successive halving on training images alone.

    python benchmarks/speedrun_search.py benchmarks/speedrun_search_1.yaml --data cifar10_train.npz [--jobs 2]

Every tenth training image is held out and never trained on. A rung's minutes are of one core: before it, all its
settings' steps are timed in turn in this process, and a setting gets as many steps as fit. Outcomes are kept, one small
JSON each, and what is there is not run again.
"""

import hashlib
import json
import statistics
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.throughput import commit, machine
from gan.build import build_game, build_latents, build_loader, image_facts, prepare_images
from gan.commands.reporting import one_line_errors
from gan.config import Config, find_config, load_config, parse_yaml
from gan.errors import UserError
from gan.experiments.runner import train
from gan.files import atomic_path, write_text
from gan.scoring.saved_results import newest_result, read_result
from gan.training.run_directory import RunDirectory
from gan.training.steps import discriminator_step, generator_step

CPU = torch.device("cpu")


def split(data: Path, folder: Path) -> Path:
    """The training images without every tenth, as `fit_train.npz`, with those as `fit_test.npz` beside it.

    They lie in a folder of `folder` that is named after the archive's checksums: another archive has another.

    Raises:
        UserError: `data` is no archive with `images` and `labels`.
    """
    try:
        with zipfile.ZipFile(data) as archive:
            known = sorted(f"{member.filename} {member.file_size} {member.CRC}" for member in archive.infolist())
        path = folder / hashlib.sha256("\n".join(known).encode()).hexdigest()[:16] / "fit_train.npz"
        if path.exists():
            return path
        with np.load(data) as whole:
            images, labels = whole["images"], whole["labels"]
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"--data: {data} has no images and labels ({error}); accepted: cifar10_train.npz") from error
    held_out = np.arange(len(images)) % 10 == 0
    for rows, place in ((held_out, path.with_name("fit_test.npz")), (~held_out, path)):  # complete with the second
        with atomic_path(place) as temporary, temporary.open("wb") as file:
            np.savez(file, images=images[rows], labels=labels[rows])
    return path


def seconds_a_step(configs: dict[str, Config], rounds: int = 6) -> dict[str, float]:
    """Median processor seconds of an iteration of each, in turn, after one round to warm up."""
    plays = {name: _play(config) for name, config in configs.items()}
    times: dict[str, list[float]] = {name: [] for name in configs}
    for _ in range(rounds + 1):
        for name, play in plays.items():
            start = time.process_time()
            play()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(found[1:]) for name, found in times.items()}


def _play(config: Config) -> Any:
    facts = image_facts(config)
    game, latents = build_game(config, facts, CPU), build_latents(config, facts, CPU)
    batches = build_loader(config, prepare_images(config.data), CPU)

    def iteration() -> None:
        for _ in range(config.training.discriminator_steps):
            images, labels = batches.next_batch()
            given, fake_labels = latents.next("discriminator", len(images))
            labels = labels if fake_labels is not None else None
            discriminator_step(game, images, labels, given, fake_labels)
        if not config.training.shared_latents:
            given, fake_labels = latents.next("generator", len(images))
        generator_step(game, given, fake_labels, images, labels)

    return iteration


def steps_begun(directory: Path) -> int | None:
    """The steps of a run that was interrupted, which goes on with them; None where there is none."""
    config = RunDirectory(directory).config
    return load_config(config, []).training.steps if config.is_file() else None


def outcome_of(config: Config, directory: Path, seconds: float) -> dict[str, Any]:
    """Train and score one run on one thread."""
    if train(config, directory, "cpu", 1, directory.name):
        return {"distance": float("inf"), "steps": config.training.steps, "seconds_a_step": seconds}
    distance = read_result(newest_result(directory)).metrics["frechet_distance"]
    made = {"machine": machine(CPU), "commit": commit()}
    return {"distance": distance, "steps": config.training.steps, "seconds_a_step": seconds, **made}


@click.command()
@click.argument("file", metavar="PLAN", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path), help="cifar10_train.npz")
@click.option("--out", default=Path("outputs/speedrun_search"), show_default=True, type=click.Path(path_type=Path))
@click.option("--jobs", default=2, show_default=True)
def main(file: Path, data: Path, out: Path, jobs: int) -> None:
    """Run all rungs of PLAN and print the survivors of each."""
    with one_line_errors():
        torch.set_num_threads(1)
        plan = parse_yaml(file.read_text(encoding="utf-8"), str(file))
        results = file.parent / plan["results"]
        images = split(data, out / "data")
        base = [
            *plan["common"],
            "data.source=npz",
            f"data.path={images}",
            "evaluation.every=0",
            "logging.samples_every=100000",
        ]
        names = list(plan["settings"])
        for number, rung in enumerate(plan["rungs"]):

            def config_of(name: str, steps: int = 1, seed: int = rung["seed"]) -> Config:
                overrides = [*base, *plan["settings"][name], f"training.steps={steps}", f"seed={seed}"]
                return load_config(find_config(plan["base"]), overrides)

            folder = results / f"rung_{number}"
            waiting = [name for name in names if not (folder / f"{name}.json").exists()]
            times = seconds_a_step({name: config_of(name) for name in waiting}) if waiting else {}

            def run(
                name: str, folder: Path = folder, number: int = number, times: Any = times, rung: Any = rung
            ) -> None:
                directory = out / file.stem / f"rung_{number}" / name
                steps = steps_begun(directory) or round(rung["minutes"] * 60 / times[name])
                found = outcome_of(config_of(name, steps), directory, rung["minutes"] * 60 / steps)
                write_text(folder / f"{name}.json", json.dumps(found, indent=2) + "\n")

            with ThreadPoolExecutor(jobs) as pool:
                list(pool.map(run, waiting))
            found = {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in names}
            ranked = sorted(names, key=lambda name: found[name]["distance"])
            print(f"rung {number}, {rung['minutes']} minutes of one core:")
            for name in ranked:
                print(f"  {found[name]['distance']:8.1f}  {found[name]['steps']:6,} steps  {name}")
            names = ranked[: rung["keep"]]
        if not names:
            raise UserError(f"{file}: no settings")


if __name__ == "__main__":
    main()
