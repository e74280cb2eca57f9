"""A finished or running run, scored: what `evaluate.py checkpoint` does once the command line is read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from gan.allocator import keep_freed_memory
from gan.commands.saved_results import save_result
from gan.commands.scoring import Scorer
from gan.metrics.results import format_table
from gan.sampling.open import open_checkpoint
from gan.training.run_directory import RunDirectory


def score_run(
    path: Path,
    step: int | Literal["best"] | None,
    weights: Literal["ema", "raw"],
    device: str,
    settings: Mapping[str, Any],
    as_json: bool,
    cache: Path | None = None,
) -> str:
    """Score a checkpoint of the run at `path`; returns a table, or JSON, and saves the result in the run.

    Args:
        path: the run directory.
        step: of the checkpoint; None for the newest, "best" for the one with the best score.
        weights: whose: `ema` or `raw`.
        device: as on the command line.
        settings: values that replace those of the config's `evaluation` section.
        as_json: return the saved JSON.
        cache: where prepared images and features are kept; see `gan.sampling.open.cache_of`.

    Raises:
        UserError: no such run or checkpoint, or a setting that is not accepted.
    """
    keep_freed_memory()
    generator = open_checkpoint(path, step=step, weights=weights, device=device, settings=settings, cache=cache)
    config, step = generator.config, generator.description.step
    result = Scorer(config, generator.num_classes, generator.device).score(generator.network, weights)
    file = save_result(RunDirectory(path).evaluations, step, result, config.evaluation)
    if as_json:
        return file.read_text(encoding="utf-8").rstrip()
    reference = result.protocol.reference
    name = f"{path} step {step} {weights}"
    return (
        f"{format_table({name: result})}\n\n"
        f"against {reference.count:,} images of {reference.name} {reference.split}; protocol in {file}"
    )
