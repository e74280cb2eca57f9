"""Saved results side by side: what `evaluate.py compare` does once the command line is read."""

import json
from collections.abc import Sequence
from pathlib import Path

from gan.commands.saved_results import newest_result, read_result
from gan.errors import UserError
from gan.metrics.protocol import require_same, version_differences
from gan.metrics.results import Result, format_table


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
