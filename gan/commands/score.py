"""Scores of a run or of two sets of images: what `evaluate.py checkpoint` and `evaluate.py images` do."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import numpy as np
import torch

from gan import distributed
from gan.allocator import keep_freed_memory
from gan.commands.image_sets import ImageSet, open_set, resolution_of, run_of, user_cache
from gan.config import EvaluationConfig
from gan.device import resolve_device
from gan.errors import UserError, printable
from gan.metrics.evaluator import Evaluator
from gan.metrics.extractors.catalogue import build_extractor, require_known
from gan.metrics.images import ArraySampler, check_images
from gan.metrics.protocol import differences
from gan.metrics.results import Result, format_table, frechet_ratios
from gan.metrics.table import require_metrics
from gan.sampling.card import read_result
from gan.sampling.generate import LoadedGenerator
from gan.sampling.open import exported_folder, open_checkpoint, open_exported
from gan.scoring.saved_results import save_result
from gan.scoring.scorer import Scorer, require_same_classes
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
    Of several ranks, all of which call this, the main one alone saves, and what it returns is to be told.

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
    step, scored = generator.description.step, _scored(generator, weights)
    if not distributed.is_main():
        return ""
    files = [save_result(RunDirectory(path).evaluations, step, result, section) for section, result in scored]
    if as_json:
        return _one_or_list([file.read_text(encoding="utf-8").rstrip() for file in files])
    reference = scored[0][1].protocol.reference
    rows = {f"{path} step {step} {weights}": [result for _, result in scored]}
    return (
        f"{format_table(rows)}\n\nagainst {reference.count:,} images of {reference.name} {reference.split}; "
        f"protocol in {', '.join(map(str, files))}"
    )


def _scored(generator: LoadedGenerator, weights: str) -> list[tuple[EvaluationConfig, Result]]:
    """Scores by each extractor that `evaluation.extractor` names, and the section that asks for it alone."""
    section = generator.config.evaluation
    names = section.extractor.split(",")
    require_usable(names, section.weights, "evaluation.extractor")
    found = []
    for name in names:
        alone = section.model_copy(update={"extractor": name})
        config = generator.config.model_copy(update={"evaluation": alone})
        scorer = Scorer(config, generator.class_names, generator.device)
        found.append((alone, scorer.score(generator.network, weights)))
    return found


def _one_or_list(objects: Sequence[str]) -> str:
    return objects[0] if len(objects) == 1 else f"[{', '.join(objects)}]"


def require_usable(extractors: Sequence[str], weights: str | None, key: str) -> None:
    """Refuse extractors that are not there, and several with one file of weights; `key` is where they were read."""
    for name in extractors:
        require_known(name, key)
    if weights is not None and len(extractors) > 1:
        raise UserError(f"--weights: given with {len(extractors)} extractors, one accepted")


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
    results = [result for _, result in _scored(generator, weights)]
    if as_json:
        return _one_or_list([json.dumps({"step": description.step, **one.to_dict()}, indent=2) for one in results])
    rows = {f"{folder} step {description.step} {weights}": results}
    for before in map(read_result, description.evaluations):
        if before is not None and any(not differences(before.protocol, one.protocol) for one in results):
            rows.setdefault("  when it was exported", []).append(before)
    reference = results[0].protocol.reference
    return f"{format_table(rows)}\n\nagainst {reference.count:,} images of {reference.name} {reference.split}"


def score_images(
    images: str,
    reference: str,
    *,
    extractors: Sequence[str],
    weights: str | None,
    weights_sha256: str | None,
    resize: str,
    metrics: Sequence[str],
    resolution: int | None,
    limit: int | None,
    reference_limit: int | None,
    held_out: str | None,
    skip_corrupt: bool,
    bootstrap: int,
    dtype: str,
    compiled: bool,
    device: str,
    batch_size: int,
    cache: Path | None,
    as_json: bool,
) -> str:
    """Score one set of images against another; returns a table, or JSON; all ranks call this.

    Args:
        images, reference: see `gan.commands.image_sets.open_set`.
        extractors: names; the sets are measured in the feature space of each.
        weights, weights_sha256, resize, metrics, bootstrap, dtype, compiled, batch_size: as in a config's
            `evaluation` section.
        resolution: what both sets are brought to; None for that of a run among them, else 32.
        limit: take at most so many images of each, at even distances.
        reference_limit: of the reference, where that differs.
        held_out: real images, as many as there are of `images`, that FDr compares with.
        skip_corrupt: pass over files that cannot be read, and say how many.
        device: as on the command line.
        cache: where prepared images and features are kept; None for `user_cache`.
        as_json: return JSON with the protocol.

    Raises:
        UserError: a set cannot be read, or an argument is not accepted.
    """
    keep_freed_memory()
    require_usable(extractors, weights, "--extractor")
    require_metrics(metrics, "--metrics")
    if held_out is not None and "fid" not in metrics:
        raise UserError("--held-out: given, but fid is not among --metrics")
    place, cache = resolve_device(device), cache or user_cache()
    names = [images, reference, *([] if held_out is None else [held_out])]
    asked = list(zip(names, (limit, reference_limit or limit, limit), strict=False))
    resolution = resolution or resolution_of(tuple(names))
    sets = _opened(asked, resolution, place, skip_corrupt, cache)
    if "intra_fid" in metrics:
        _require_same_classes(names, sets)
    rows: dict[str, list[Result]] = {name: [] for name in (images, *names[2:])}
    for extractor in extractors:
        network = build_extractor(
            extractor, weights=weights, device=place, expected_sha256=weights_sha256, resize=resize
        )
        evaluator = Evaluator(
            network,
            place,
            metrics,
            batch_size,
            distributed.is_main(),
            bootstrap=bootstrap,
            dtype=dtype,
            compiled=compiled,
        )
        for results, role in zip(rows.values(), (0, 2), strict=False):
            results.append(_compare(evaluator, sets[role], sets[1], cache))
    ratios = {} if held_out is None else frechet_ratios(rows[images], rows[held_out])
    skipped = {name: sets[role].skipped for role, name in enumerate(names) if sets[role].skipped}
    return _as_json(rows, ratios, skipped) if as_json else _as_table(rows, ratios, skipped, reference)


def _opened(
    asked: Sequence[tuple[str, int | None]], resolution: int, place: torch.device, skip_corrupt: bool, cache: Path
) -> dict[int, ImageSet]:
    """The sets by their places; what has to be generated comes last: a mistake in another is known by then."""
    sets = {}
    for role, (name, count) in sorted(enumerate(asked), key=lambda item: run_of(item[1][0]) is not None):
        sets[role] = open_set(name, resolution, count, place, skip_corrupt, cache)
    for role, (name, _) in enumerate(asked):
        if len(sets[role].images) < 2:
            raise UserError(f"{name}: {len(sets[role].images)} image found, at least 2 accepted")
    scored, *held_out = [len(sets[role].images) for role in sorted(sets) if role != 1]
    if held_out and held_out != [scored]:
        raise UserError(f"--held-out: {held_out[0]:,} images found; as many as are scored, {scored:,}, accepted")
    return sets


def _require_same_classes(names: Sequence[str], sets: Mapping[int, ImageSet]) -> None:
    reference = sets[1]
    for role, one in sets.items():
        if one.labels is not None and reference.labels is not None:
            require_same_classes(f"{names[role]}'s", one.class_names, f"{names[1]}'s", reference.class_names)


def _as_json(rows: Mapping[str, Sequence[Result]], ratios: Mapping[str, float], skipped: Mapping[str, int]) -> str:
    """One result is an object by itself; several are lists by the names of their images."""
    (first, *others), *held_out = rows.values()
    if not others and not held_out:
        return json.dumps({**first.to_dict(), "skipped": skipped}, indent=2)
    found: dict[str, Any] = {name: [result.to_dict() for result in results] for name, results in rows.items()}
    ratio = mean(ratios.values()) if ratios else None
    scores = {"results": found, "frechet_ratio": ratio, "frechet_ratios": dict(ratios), "skipped": skipped}
    return json.dumps(scores, indent=2)


def _as_table(
    rows: Mapping[str, Sequence[Result]], ratios: Mapping[str, float], skipped: Mapping[str, int], reference: str
) -> str:
    first = next(iter(rows.values()))
    lines = [format_table(rows), ""]
    lines += [f"{name}: {score:z.3f}" for result in first for name, score in result.classes.items()]
    if ratios:
        parts = ", ".join(f"{ratio:.3f} ({space})" for space, ratio in ratios.items())
        lines += [f"FDr: {mean(ratios.values()):.3f}, the mean of {parts}"]
    lines += [f"against {first[0].protocol.reference.count:,} images of {reference}"]
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
    labels, sampler = first.labels, ArraySampler(first.images)
    return evaluator.evaluate(
        sampler,
        len(first.images),
        statistics,
        seed=first.seed,
        weights=first.weights,
        label_sampling=first.label_sampling,
        batch_norm="none" if first.weights == "images" else "running",
        labels=None if labels is None else lambda: torch.from_numpy(np.array(labels)),
        skip=sampler.skip,
    )
