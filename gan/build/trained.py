"""The generator of a run: its config, the checkpoint that is meant, and its weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import nn

from gan.config import Config, load_tree, validate
from gan.errors import UserError
from gan.training.best import BEST
from gan.training.checkpoint import checkpoint_paths
from gan.training.run_directory import RunDirectory


def read_config(run: RunDirectory, settings: Mapping[str, Any]) -> Config:
    """The config of a run, with some of its evaluation settings replaced.

    Raises:
        UserError: there is none, or it is not accepted; or a setting is not.
    """
    if not run.config.is_file():
        raise UserError(f"{run.path}: no run here, config.yaml is missing")
    tree = load_tree(run.config)
    if not isinstance(tree.get("evaluation"), dict):
        raise UserError(f"{run.config}: not the config of a run")
    try:
        validate(tree)
    except UserError as error:
        raise UserError(f"{run.config}: {error}") from error
    if "metrics" in settings:  # what a run keeps its best checkpoint by need not be among them
        settings = {"best": None, **settings}
    return validate({**tree, "evaluation": {**tree["evaluation"], **settings}})


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
        raise UserError(f"step {step}: no such checkpoint in {run.path}; accepted: {', '.join(map(str, paths))}")
    return paths[max(paths) if step is None else step]


def load_generator(generator: nn.Module, state: Mapping[str, Any], weights: str, path: Path) -> None:
    """Put the average (`ema`) or the raw weights of a checkpoint into `generator`."""
    try:
        generator.load_state_dict(state["ema" if weights == "ema" else "generator"])
    except (RuntimeError, KeyError) as error:
        raise UserError(f"{path}: the checkpoint is not of a run of this config") from error
