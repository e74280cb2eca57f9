"""A finished or running run, scored: what `evaluate.py checkpoint` does once the command line is read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import nn

from gan.allocator import keep_freed_memory
from gan.build import build_generator, image_facts
from gan.commands.scoring import Scorer, save_result
from gan.config import Config, parse_yaml, validate
from gan.device import resolve_device
from gan.errors import UserError
from gan.metrics.results import format_table
from gan.training.best import BEST
from gan.training.checkpoint import checkpoint_paths, read_checkpoint
from gan.training.run_directory import RunDirectory


def score_run(
    path: Path,
    step: int | Literal["best"] | None,
    weights: str,
    device: str,
    settings: Mapping[str, Any],
    as_json: bool,
) -> str:
    """Score a checkpoint of the run at `path`; returns a table, or JSON, and saves the result in the run.

    Args:
        path: the run directory.
        step: of the checkpoint; None for the newest, "best" for the one with the best score.
        weights: whose: `ema` or `raw`.
        device: as on the command line.
        settings: values that replace those of the config's `evaluation` section.
        as_json: return the saved JSON.

    Raises:
        UserError: no such run or checkpoint, or a setting that is not accepted.
    """
    keep_freed_memory()
    run = RunDirectory(path)
    config = read_config(run, settings)
    state = read_checkpoint(find_checkpoint(run, step))
    facts = image_facts(config)
    place = resolve_device(device)
    generator = build_generator(config, facts)
    load_generator(generator, state, weights, path)
    result = Scorer(config, facts.num_classes, place).score(generator.to(place), weights)
    file = save_result(run.evaluations, state["step"], result)
    if as_json:
        return file.read_text(encoding="utf-8").rstrip()
    reference = result.protocol.reference
    name = f"{path} step {state['step']} {weights}"
    return (
        f"{format_table({name: result})}\n\n"
        f"against {reference.count:,} images of {reference.name} {reference.split}; protocol in {file}"
    )


def read_config(run: RunDirectory, settings: Mapping[str, Any]) -> Config:
    """The config of a run, with some of its evaluation settings replaced."""
    if not run.config.is_file():
        raise UserError(f"{run.path}: no run here, config.yaml is missing")
    tree = parse_yaml(run.config.read_text(encoding="utf-8"), str(run.config))
    if not isinstance(tree, dict) or not isinstance(tree.get("evaluation"), dict):
        raise UserError(f"{run.config}: not the config of a run")
    tree["evaluation"] = {**tree["evaluation"], **settings}
    return validate(tree)


def find_checkpoint(run: RunDirectory, step: int | Literal["best"] | None) -> Path:
    """The checkpoint of a step, the newest (None), or the one with the best score."""
    if step == "best":
        if not (run.checkpoints / BEST).is_file():
            raise UserError(f"{run.path}: no {BEST} in {run.checkpoints}; it is kept with evaluation.best: fid")
        return run.checkpoints / BEST
    paths = {int(path.stem.removeprefix("step_")): path for path in checkpoint_paths(run.checkpoints)}
    if not paths:
        raise UserError(f"{run.path}: no checkpoint in {run.checkpoints}")
    if step is not None and step not in paths:
        raise UserError(f"--step {step}: no such checkpoint in {run.path}; accepted: {', '.join(map(str, paths))}")
    return paths[max(paths) if step is None else step]


def load_generator(generator: nn.Module, state: Mapping[str, Any], weights: str, path: Path) -> None:
    """Put the average (`ema`) or the raw weights of a checkpoint into `generator`."""
    try:
        generator.load_state_dict(state["ema" if weights == "ema" else "generator"])
    except (RuntimeError, KeyError) as error:
        raise UserError(f"{path}: the checkpoint is not of a run of this config") from error
