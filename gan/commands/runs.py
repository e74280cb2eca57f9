"""What the runs below a folder are and how far they have come: a table, which only reads."""

import shlex
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from gan.commands.initial_weights import read_origin
from gan.config import Config
from gan.errors import UserError, printable
from gan.files import is_locked
from gan.processes import gan_command
from gan.sampling.open import read_config
from gan.training.run_directory import RunDirectory
from gan.training.tracking import read_log

COLUMNS = ("run", "config", "step", "score", "last written", "state")


def table_of_runs(folder: Path) -> str:
    """A row for every run in `folder` or below it, then how those that were stopped go on.

    Raises:
        UserError: there is no such folder, or no run in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; accepted: one that holds run directories")
    rows: list[tuple[str, ...]] = [COLUMNS]
    notes: list[str] = []
    for log in sorted(folder.rglob("metrics.jsonl")):
        run = RunDirectory(log.parent)
        try:
            config = read_config(run, {})
            lines = read_log(log)
        except UserError as error:
            notes.append(f"damaged: {' '.join(str(error).split())}")
            continue
        state = _state(run, config)
        written = datetime.fromtimestamp(log.stat().st_mtime).strftime("%Y-%m-%d %H:%M")
        step = f"{max((int(line['step']) for line in lines), default=0):,} of {config.training.steps:,}"
        rows.append((str(run.path), _named(config), step, _score(lines), written, state))
        if state == "stopped":
            notes.append(f"to go on: {_command(run, config)}")
    if len(rows) == 1 and not notes:
        raise UserError(f"{folder}: no runs; accepted: a folder that holds run directories")
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(map(printable, [*table, *([""] if notes else []), *notes]))


def _command(run: RunDirectory, config: Config) -> str:
    """The command that goes on; before its first checkpoint a run has to be given its initial weights again."""
    command = f"{gan_command()} train {shlex.quote(str(run.config))} --out {shlex.quote(str(run.path))}"
    origin = config.training.init_from
    if origin is None or run.newest_checkpoint() is not None:
        return command
    if (told := read_origin(origin)) is not None:  # a run's config has no path of another; most lie side by side
        checkpoint = RunDirectory(run.path.resolve().parent / told[0]).checkpoints / told[1]
        if checkpoint.is_file():
            return f"{command} --init-from {shlex.quote(str(checkpoint))}"
    return f"{command} --init-from RUN, where RUN is the path of {origin}"


def _named(config: Config) -> str:
    return f"{config.data.source} {config.generator.name} {config.discriminator.head.name} seed {config.seed}"


def _state(run: RunDirectory, config: Config) -> str:
    """A run is finished with the checkpoint of its last step; a process that trains in it holds its lock."""
    if is_locked(run.path / ".lock"):
        return "training now"
    newest = run.newest_checkpoint()
    step = 0 if newest is None else int(newest.stem.removeprefix("step_"))
    return "finished" if step >= config.training.steps else "stopped"


def _score(lines: list[dict[str, Any]]) -> str:
    """The first number of the last score."""
    scored = [line for line in lines if "evaluation/seconds" in line]
    return "–" if not scored else _first(scored[-1])


def _first(line: Mapping[str, Any]) -> str:
    name, value = next(item for item in line.items() if item[0].startswith("evaluation/"))
    return f"{name.removeprefix('evaluation/')} {value:z.3f}"
