"""Cases for what is well formed and hostile: states, descriptions and JSON whose values are not what they should be."""

import copy
import json
import math
import random
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import gan
from benchmarks.fuzz_bytes import Case, flipped
from benchmarks.fuzz_files import planned, whole_outcome, write_export
from gan.build import build_game, build_latents, build_loader, build_schedule, image_facts, prepare_images
from gan.build.image_record import image_record, recorded_images
from gan.commands.launch import build_preview, load_state
from gan.commands.runs import table_of_runs
from gan.config import dump_yaml, load_config, parse_yaml
from gan.errors import UserError
from gan.experiments.outcomes import curve, load_outcome, outcome_path
from gan.scoring.saved_results import compare_results
from gan.training.best import BestCheckpoint
from gan.training.checkpoint import FORMAT, Checkpoints, digest, read_checkpoint, write_checkpoint
from gan.training.ema import ExponentialMovingAverage
from gan.training.run_directory import RunDirectory, run_identity
from gan.training.steps import discriminator_step, generator_step
from gan.training.tracking import LOG, SilentTracker, Tracker, is_logged, read_log
from gan.training.trainer import Trainer, has_numbers

CPU = torch.device("cpu")
CONFIG = ROOT / "configs" / "digits" / "dcgan_cr.yaml"
SETTINGS = [
    "generator.name=dcgan", "generator.width=4", "discriminator.backbone.name=dcgan", "discriminator.backbone.width=4",
    "generator.latent_dim=8", "training.batch_size=8", "evaluation.at_end=false", "conditional=true",
]  # fmt: skip
PLAIN: list[Any] = [
    None, True, -1, 0, 3, 10**12, 2**63, 10**400, -0.5, 1e300, math.nan, math.inf, "", "x", "ema", "\x1b[31m", "é\n",
    "<script>", [], {}, [[]], {"a": [1]}, [None], ["a", "a"], list(range(20)), "9" * 5000,
]  # fmt: skip


def _tensors() -> list[Any]:
    shared: list[Any] = []
    for _ in range(40):
        shared = [shared, shared]
    recursive: list[Any] = []
    recursive.append(recursive)
    deep: list[Any] = []
    for _ in range(200):
        deep = [deep]
    return [
        torch.zeros(1).expand(10**12), torch.eye(3).to_sparse(), torch.empty(5, device="meta"), torch.zeros(2, 2),
        torch.zeros(3, dtype=torch.complex64), torch.full((4,), math.nan), torch.zeros(()), torch.zeros(0),
        torch.zeros(4, dtype=torch.int64), torch.zeros(4, dtype=torch.bfloat16), torch.tensor([True]),
        torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8), shared, recursive, deep, torch.float32,
        torch.Size([2]), {1: 2}, {(1, 2): 3}, (1, 2), b"bytes", 1 + 2j,
    ]  # fmt: skip


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in nested mappings and lists."""
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in entries:
        yield (*path, key)
        yield from places(value, (*path, key))


def damaged(tree: Any, chance: random.Random, values: list[Any]) -> Any:
    """A copy with one to three places removed, renamed, doubled or replaced, by `values` or by one another."""
    whole, tree = tree, _copied(tree)
    every = list(places(tree))
    for _ in range(chance.randint(1, 3)):
        *parents, key = chance.choice(every)
        change, value = chance.randrange(5), chance.choice(values)
        try:
            section = _at(tree, parents)
            if change == 0:
                del section[key]
            elif change == 1:
                section[key] = _copied(_at(whole, chance.choice(every)))
            elif change == 2 and isinstance(section, dict):
                section[f"{key}x"] = section.pop(key)
            else:
                section[key] = value
        except (KeyError, IndexError, TypeError):  # an earlier change has taken the place away
            continue
    return tree


def _copied(value: Any) -> Any:
    """Of mappings and lists alone: nothing changes tensors in place."""
    if isinstance(value, dict):
        return {key: _copied(entry) for key, entry in value.items()}
    return [_copied(entry) for entry in value] if isinstance(value, list) else value


def _at(tree: Any, path: Any) -> Any:
    for key in path:
        tree = tree[key]
    return tree


@cache
def _trainer(folder: Path) -> Trainer:
    """Of a run that writes nothing."""
    config = load_config(CONFIG, [*SETTINGS, f"data.root={folder / 'data'}"])
    facts, store = image_facts(config), prepare_images(config.data)
    game = build_game(config, facts, CPU)
    record = image_record(facts, store)
    identity = run_identity(config.model_dump())
    checkpoints = Checkpoints(folder / "none", 1, identity, writes=False, images=record.model_dump())
    return Trainer(
        game, partial(discriminator_step, game), partial(generator_step, game), game.parts,
        ExponentialMovingAverage(game.generator, config.ema.decay, config.ema.warm_up),
        build_loader(config, store, CPU), build_latents(config, facts, CPU), build_schedule(config), SilentTracker(),
        checkpoints, build_preview(config, record), None, BestCheckpoint(checkpoints, None),
    )  # fmt: skip


@cache
def _begun(folder: Path) -> dict[str, Any]:
    """The state of a run of one step, whose directory is written too."""
    trainer = _trainer(folder)
    trainer._play_discriminator()
    trainer._play_generator()
    trainer.step = 1
    state = {"step": 1, **trainer.state_dict(), "run": trainer.checkpoints.run, "images": trainer.checkpoints.images}
    path = folder / "begun" / "checkpoints" / "step_00000001.pt"
    config = load_config(CONFIG, [*SETTINGS, f"data.root={folder / 'data'}"])
    write_checkpoint(path, state)
    RunDirectory(folder / "begun").config.write_text(config.to_yaml(), encoding="utf-8")
    return copy.deepcopy(state)


def state_cases(chance: random.Random, folder: Path) -> Case:
    """A checkpoint whose digest is right and whose values are not: training goes on from it, or it is refused."""
    trainer = _trainer(folder)
    state = damaged(_begun(folder), chance, PLAIN + _tensors())
    path = folder / "begun" / "checkpoints" / "step_00000001.pt"
    torch.save({"format": FORMAT, **state, "digest": _digest(state)}, path)

    def read() -> None:
        found = read_checkpoint(path)
        recorded_images(found)
        if not has_numbers(found):
            raise UserError("no numbers")
        load_state(trainer, found)
        trainer._play_discriminator()
        trainer._play_generator()

    return read if chance.random() < 0.5 else lambda: gan.load(folder / "begun", device="cpu").sample(1)


def _digest(state: Any) -> str:
    """The right one, unless that would take for ever."""
    return digest(state) if _entries(state, 20_000) else ""


def _entries(value: Any, left: int, depth: int = 0) -> int:
    """How many of `left` entries remain once `value` is counted; 0 for none, or where it is too deep."""
    entries = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    for entry in entries:
        left = 0 if depth > 50 or not left else _entries(entry, left - 1, depth + 1)
    large = isinstance(value, torch.Tensor) and (value.numel() > 10**6 or value.is_sparse or value.is_meta)
    return 0 if large else left


def export_structure_cases(chance: random.Random, folder: Path) -> Case:
    """An exported generator whose description or config is hostile."""
    whole, hostile = folder / "exported", folder / "hostile"
    if not whole.exists():
        whole.mkdir()
        write_export(whole)
    shutil.rmtree(hostile, ignore_errors=True)
    shutil.copytree(whole, hostile)
    description = json.loads((whole / "config.json").read_text())
    if chance.random() < 0.7:
        (hostile / "config.json").write_text(_json(damaged(description, chance, PLAIN)))
    else:
        config = parse_yaml((whole / "config.yaml").read_text(), "config")
        values = [value for value in PLAIN if value == value]
        (hostile / "config.yaml").write_text(dump_yaml(damaged(config, chance, values)))
    return lambda: gan.load(hostile, device="cpu").sample(1)


def _json(tree: Any) -> str:
    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(tree)
    finally:
        sys.set_int_max_str_digits(4300)


def outcome_structure_cases(chance: random.Random, folder: Path) -> Case:
    """A kept outcome, as JSON with hostile values."""
    path = outcome_path(folder, planned())
    path.write_text(_json(damaged(json.loads(json.dumps(asdict(whole_outcome()))), chance, PLAIN)))
    return lambda: load_outcome(folder, planned())


def result_structure_cases(chance: random.Random, folder: Path) -> Case:
    """A saved result with hostile values, and the table that shows it."""
    path = folder / "result.json"
    path.write_text(_json(damaged(json.loads((ROOT / "tests" / "result.json").read_text()), chance, PLAIN)))
    return lambda: compare_results([path], as_json=False)


LINE = {"step": 2, "loss/generator": 0.5, "stages/auc/stage_1": 0.7, "speed/seconds_per_step": 0.1}
SCORED = {"step": 2, "evaluation/frechet_distance": 3.5, "evaluation/seconds": 1.0}


def log_cases(chance: random.Random, folder: Path) -> Case:
    """A run's log with hostile values or damaged bytes: it is read, listed, scored by, and gone on with."""
    run = RunDirectory(folder / "logged")
    run.path.mkdir(exist_ok=True)
    run.config.write_text(load_config(CONFIG, SETTINGS).to_yaml())
    lines = [LINE, SCORED, {**LINE, "step": 4}]
    if chance.random() < 0.5:
        lines = damaged(lines, chance, PLAIN)
    content = "".join(f"{_json(line)}\n" for line in lines).encode()
    (run.path / LOG).write_bytes(content if chance.random() < 0.5 else flipped(content, chance))

    def read() -> None:
        table_of_runs(run.path)
        is_logged(run.path / LOG, 2, {"frechet_distance": 3.5})
        tracker = Tracker(run.path, chance.randrange(6))
        tracker.scores(2, {"frechet_distance": 3.5}, 1.0, {})
        tracker.close()
        for events in run.path.glob("events.*"):
            events.unlink()
        curve(read_log(run.path / LOG))

    return read
