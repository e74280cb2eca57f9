"""Scores of a run or of two sets of images: what `evaluate.py checkpoint` and `evaluate.py images` do."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from gan.allocator import keep_freed_memory
from gan.commands.image_sets import ImageSet, open_set, resolution_of, run_of, user_cache
from gan.commands.saved_results import save_result
from gan.commands.scoring import Scorer
from gan.device import resolve_device
from gan.errors import UserError, printable
from gan.metrics.evaluator import Evaluator
from gan.metrics.extractors.catalogue import build_extractor, require_known
from gan.metrics.images import array_sampler, check_images
from gan.metrics.protocol import differences
from gan.metrics.results import Result, format_table
from gan.sampling.card import read_result
from gan.sampling.open import exported_folder, open_checkpoint, open_exported
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

    An exported folder is not written into; what was measured of it before, by the same protocol, is shown below.

    Args:
        path: the run directory, or an exported folder.
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
    if (folder := exported_folder(path)) is not None:
        return _score_exported(folder, step, weights, device, settings, as_json, cache or user_cache())
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


def _score_exported(
    folder: Path,
    step: int | Literal["best"] | None,
    weights: Literal["ema", "raw"],
    device: str,
    settings: Mapping[str, Any],
    as_json: bool,
    cache: Path,
) -> str:
    generator = open_exported(folder, step=step, weights=weights, device=device, settings=settings, cache=cache)
    description = generator.description
    result = Scorer(generator.config, generator.num_classes, generator.device).score(generator.network, weights)
    if as_json:
        return json.dumps({"step": description.step, **result.to_dict()}, indent=2)
    rows = {f"{folder} step {description.step} {weights}": result}
    for before in map(read_result, description.evaluations):
        if before is not None and not differences(before.protocol, result.protocol):
            rows["  when it was exported"] = before
    reference = result.protocol.reference
    return f"{format_table(rows)}\n\nagainst {reference.count:,} images of {reference.name} {reference.split}"


def score_images(
    images: str,
    reference: str,
    *,
    extractor: str,
    weights: str | None,
    weights_sha256: str | None,
    metrics: Sequence[str],
    resolution: int | None,
    limit: int | None,
    reference_limit: int | None,
    skip_corrupt: bool,
    bootstrap: int,
    dtype: str,
    compiled: bool,
    device: str,
    batch_size: int,
    cache: Path | None,
    as_json: bool,
) -> str:
    """Score one set of images against another; returns a table, or JSON.

    Args:
        images, reference: see `gan.commands.image_sets.open_set`.
        extractor, weights, weights_sha256, metrics, bootstrap, dtype, compiled, batch_size: as in a config's
            `evaluation` section.
        resolution: what both sets are brought to; None for that of a run among them, else 32.
        limit: take at most so many images of each, at even distances.
        reference_limit: of the reference, where that differs.
        skip_corrupt: pass over files that cannot be read, and say how many.
        device: as on the command line.
        cache: where prepared images and features are kept; None for `user_cache`.
        as_json: return JSON with the protocol.

    Raises:
        UserError: a set cannot be read, or an argument is not accepted.
    """
    keep_freed_memory()
    require_known(extractor, "--extractor")
    place, cache = resolve_device(device), cache or user_cache()
    resolution = resolution or resolution_of((images, reference))
    asked = [(images, limit), (reference, reference_limit or limit)]
    sets = {  # what has to be generated last: a mistake in the other is known by then
        role: open_set(name, resolution, count, place, skip_corrupt, cache)
        for role, (name, count) in sorted(enumerate(asked), key=lambda item: run_of(item[1][0]) is not None)
    }
    first, second = sets[0], sets[1]
    for name, opened in ((images, first), (reference, second)):
        if len(opened.images) < 2:
            raise UserError(f"{name}: {len(opened.images)} image found, at least 2 accepted")
    network = build_extractor(extractor, weights=weights, device=place, expected_sha256=weights_sha256)
    evaluator = Evaluator(network, place, metrics, batch_size, bootstrap=bootstrap, dtype=dtype, compiled=compiled)
    result = _compare(evaluator, first, second, cache)
    skipped = {name: opened.skipped for name, opened in ((images, first), (reference, second)) if opened.skipped}
    if as_json:
        return json.dumps({**result.to_dict(), "skipped": skipped}, indent=2)
    lines = [format_table({images: result}), ""]
    lines += [f"{name}: {score:z.3f}" for name, score in result.classes.items()]
    lines += [f"against {result.protocol.reference.count:,} images of {reference}"]
    lines += [f"skipped {count} files of {name} that cannot be read" for name, count in skipped.items()]
    return "\n".join(map(printable, lines))


def _compare(evaluator: Evaluator, first: ImageSet, second: ImageSet, cache: Path) -> Result:
    check_images(first.images)
    statistics = evaluator.reference(
        second.images,
        name=second.source,
        split=second.split,
        content=second.content,
        cache_dir=cache / "reference",
        labels=second.labels,
        class_names=second.class_names,
    )
    labels = first.labels
    return evaluator.evaluate(
        array_sampler(first.images),
        len(first.images),
        statistics,
        seed=first.seed,
        weights=first.weights,
        label_sampling=first.label_sampling,
        batch_norm="none" if first.weights == "images" else "running",
        labels=None if labels is None else lambda: torch.from_numpy(np.array(labels)),
    )
