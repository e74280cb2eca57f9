"""A finished or running run, scored: what `evaluate.py checkpoint` does once the command line is read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from gan.allocator import keep_freed_memory
from gan.build import build_generator, image_facts
from gan.build.trained import find_checkpoint, load_generator, read_config
from gan.commands.saved_results import save_result
from gan.commands.scoring import Scorer
from gan.device import resolve_device
from gan.metrics.results import format_table
from gan.training.checkpoint import read_checkpoint
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
    file = save_result(run.evaluations, state["step"], result, config.evaluation)
    if as_json:
        return file.read_text(encoding="utf-8").rstrip()
    reference = result.protocol.reference
    name = f"{path} step {state['step']} {weights}"
    return (
        f"{format_table({name: result})}\n\n"
        f"against {reference.count:,} images of {reference.name} {reference.split}; protocol in {file}"
    )
