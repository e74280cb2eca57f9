"""A generator as a folder to be shared: weights, config, description, model card and a sample grid."""

import json
from pathlib import Path
from typing import Any, Literal

from gan.config import Config
from gan.errors import UserError, nearest
from gan.files import atomic_folder
from gan.sampling.description import Description
from gan.sampling.formats import FORMATS
from gan.sampling.generator import LoadedGenerator
from gan.sampling.load import DESCRIPTION, load
from gan.sampling.model_card import model_card, read_result
from gan.sampling.pictures import class_rows, save_grid
from gan.training.run_directory import RunDirectory

GRID_COLUMNS = 8
GRID_CLASSES = 10


def export(
    path: Path,
    fmt: str,
    out: Path,
    *,
    licence: str | None = None,
    step: int | Literal["best"] | None = None,
    weights: Literal["ema", "raw"] | None = None,
) -> Path:
    """Write the generator at `path` to the new folder `out`, whole or not at all; returns `out`.

    Args:
        path, step, weights: as `gan.sampling.load.load`.
        fmt: of `FORMATS`.
        out: an empty or new folder.
        licence: one line, best an SPDX identifier; None for "unknown", or for that of an exported folder.

    Raises:
        UserError: nothing to load, an unknown format, or `out` is not empty.
        StorageError: `out` cannot be written.
    """
    if fmt not in FORMATS:
        raise UserError(f"--format: no {fmt!r}{nearest(fmt, FORMATS)}")
    if licence is not None and (not licence.strip() or not licence.isprintable()):
        raise UserError(f"--license: {licence!r} found, one line such as mit or cc-by-4.0 accepted")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: is there and not empty; accepted: an empty or new folder")
    generator = load(path, step=step, weights=weights, device="cpu")
    description = generator.description
    results = description.evaluations or evaluations(path, description)
    description = description.model_copy(update={"licence": licence or description.licence, "evaluations": results})
    config = without_local_paths(generator.config)
    with atomic_folder(out) as folder:
        FORMATS[fmt](generator, folder)
        (folder / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
        description.write(folder / DESCRIPTION)
        card = model_card(description, config, fmt, out.resolve().name)
        (folder / "README.md").write_text(card, encoding="utf-8")
        _save_samples(generator, folder / "samples.png")
    return out


def evaluations(path: Path, description: Description) -> tuple[dict[str, Any], ...]:
    """The results in the run's `evaluations/` that were measured of this step and these weights."""
    run = RunDirectory(path.parent.parent if path.suffix == ".pt" else path)
    found = []
    for file in sorted(run.evaluations.glob("*.json")):
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if not isinstance(values, dict) or values.get("step") != description.step:
            continue
        result = read_result(values)
        if result is not None and result.protocol.weights == description.weights:
            found.append(values)
    return tuple(found)


def without_local_paths(config: Config) -> Config:
    """The config with paths cut to their last part: where files lay on one machine means nothing on another."""
    data, evaluation = config.data, config.evaluation
    cut = {"path": _last(data.path), "root": type(data).model_fields["root"].default}
    kept = {"weights": _last(evaluation.weights), "reference_path": _last(evaluation.reference_path)}
    return config.model_copy(
        update={"data": data.model_copy(update=cut), "evaluation": evaluation.model_copy(update=kept)}
    )


def _last(path: str | None) -> str | None:
    return None if path is None else Path(path).name


def _save_samples(generator: LoadedGenerator, path: Path) -> None:
    if generator.num_classes is None:
        save_grid(generator.sample(GRID_COLUMNS**2), GRID_COLUMNS, path)
    else:
        classes = range(min(generator.num_classes, GRID_CLASSES))
        save_grid(class_rows(generator, classes, GRID_COLUMNS), GRID_COLUMNS, path)
