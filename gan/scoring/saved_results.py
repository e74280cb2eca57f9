"""Results in the `evaluations/` of a run, one file for every question that was asked of a checkpoint; side by side."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gan.config import EvaluationConfig
from gan.errors import UserError
from gan.files import write_text
from gan.metrics.protocol import require_same, version_differences
from gan.metrics.results import Result, format_table
from gan.training.run_directory import RunDirectory

# Of the evaluation section, what no number depends on.
IRRELEVANT = {"every", "at_end", "best", "batch_size", "compile"}


def result_path(directory: Path, step: int, weights: str, asked: EvaluationConfig) -> Path:
    """Where the answer is kept; another question has another name.

    Args:
        directory: `evaluations/` of the run.
        step: of the checkpoint.
        weights: whose: `ema` or `raw`.
        asked: what to measure, and how.
    """
    question = asked.model_dump(exclude=IRRELEVANT, exclude_defaults=True) | {"metrics": sorted(set(asked.metrics))}
    return directory / f"step_{step:08d}_{weights}_{asked.extractor}_{asked.samples}_{_digest(question)}.json"


def yardstick(asked: EvaluationConfig) -> str:
    """What tells measurements apart that cannot be compared: a digest of how each metric is measured."""
    return _digest(asked.model_dump(exclude={*IRRELEVANT, "metrics", "bootstrap"}, exclude_defaults=True))


def _digest(question: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:8]


def save_result(directory: Path, step: int, result: Result, asked: EvaluationConfig) -> Path:
    """Write a result with its protocol to `result_path`; returns the file."""
    path = result_path(directory, step, result.protocol.weights, asked)
    content: dict[str, Any] = {"step": step, **result.to_dict()}
    write_text(path, json.dumps(content, indent=2) + "\n")
    return path


def load_result(directory: Path, step: int, asked: EvaluationConfig) -> Result | None:
    """The saved result of the average generator at a step, if it was measured as asked."""
    try:
        return read_result(result_path(directory, step, "ema", asked))
    except UserError:
        return None  # missing or damaged: to be measured again


def drop_results(directory: Path, step: int) -> None:
    """Remove the results of steps after `step`, which are taken anew and may come to other weights."""
    for path in directory.glob("step_*_*.json"):
        if (number := path.name.split("_")[1]).isdecimal() and int(number) > step:
            path.unlink(missing_ok=True)


def newest_result(run: Path) -> Path:
    """The result of a run's last scored step; among those of one step, the one written last.

    Raises:
        UserError: there is none.
    """
    files = list(RunDirectory(run).evaluations.glob("step_*.json"))
    if not files:
        raise UserError(f"{run}: no results in {RunDirectory(run).evaluations}; accepted: a run that was scored")
    return max(files, key=lambda file: (file.name.split("_")[1], file.stat().st_mtime_ns))


def read_result(file: Path) -> Result:
    """A saved result.

    Raises:
        UserError: it cannot be read, or is not one.
    """
    try:
        return Result.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"{file}: {error.strerror or error}") from error
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(f"{file}: not a saved result; accepted: JSON that evaluate.py has written") from error


def compare_results(paths: Sequence[Path], as_json: bool) -> str:
    """A table of results that were measured alike, one row each; or JSON.

    Args:
        paths: JSON files of results, or run directories, whose newest result is taken.

    Raises:
        UserError: a result is missing or damaged, or their protocols differ.
    """
    results: dict[str, Result] = {}
    for path in paths:
        file = newest_result(path) if path.is_dir() else path
        name = str(path) if not path.is_dir() else f"{path} {file.stem.split('_')[1].lstrip('0') or '0'}"
        results[name] = read_result(file)
    first_name, *others = results
    for other in others:
        try:
            require_same(results[first_name].protocol, results[other].protocol)
        except UserError as error:
            raise UserError(f"{first_name} and {other}: {error}") from error
    if as_json:
        return json.dumps({name: result.to_dict() for name, result in results.items()}, indent=2)
    protocol = results[first_name].protocol
    lines = [
        format_table(results),
        "",
        f"against {protocol.reference.count:,} images of {protocol.reference.name} {protocol.reference.split}",
    ]
    for other in others:
        if names := version_differences(protocol, results[other].protocol):
            lines.append(f"{other} was measured with other versions of {', '.join(names)}")
    return "\n".join(lines)
