"""Does a run's generator copy its training images: what `evaluate.py neighbours` does."""

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from gan.errors import UserError
from gan.files import atomic_path
from gan.metrics.audits.data_copying import DataCopying
from gan.metrics.audits.memorisation import Duplicates, Memorisation, examine
from gan.metrics.audits.neighbours import Neighbours
from gan.metrics.extractors.interface import identify
from gan.pictures import Row, captioned_rows
from gan.scoring.audited_run import AuditedRun, AuditOptions, MeasuredImages

WHITENING = {"variance": 0.9}  # finds altered copies better than fewer columns do: docs/results/whitening.md
SHOWN = 20  # pairs in the grid and in the JSON


def audit_neighbours(run: AuditedRun, options: AuditOptions, quantile: float, as_json: bool) -> str:
    """Compare generated and held-out images by their distance to the training images; returns a table, or JSON.

    Args:
        run: as `open_run` gives it.
        options: `neighbours` are the training images beside each generated one in the grid.
        quantile: share of held-out images that are as near as a duplicate.
        as_json: return the saved JSON.

    Raises:
        UserError: no held-out images, or they are training images; an option out of range.
    """
    if not 0 < quantile <= 0.5:  # a range of numbers lets NaN through
        raise UserError(f"--quantile: {quantile} found; accepted: above 0, at most 0.5")
    store = run.held_out_images()
    if store is None:
        raise UserError(f"{run.path}: no held-out images found; accepted: --held-out-path FILE or FOLDER of them")
    training = run.measured(run.training_images(), options.gallery)
    real, identical = without_copies(run.measured(store, options.held_out), training)
    whitening = options.whitening(training.features, **WHITENING)
    generated = run.generated(run.extractor)
    found = examine(
        *(whitening.transform(images.features) for images in (generated, real, training)),
        neighbours=options.neighbours,
        quantile=quantile,
        device=run.device,
    )
    stem = run.stem("neighbours", identify(run.extractor).name)
    picture = run.path / "audits" / f"{stem}.png"
    save_closest(picture, found.nearest, generated, training)
    protocol = {
        **run.reader(whitening),
        "quantile": quantile,
        "training": training.identity,
        "held_out": real.identity | {"identical_to_training": identical},
        "generated": generated.identity,
    }
    file = run.save(stem, summary(found, generated, training), protocol)
    if as_json:
        return file.read_text(encoding="utf-8").rstrip()
    return f"{table(run, found, identical)}\n\nprotocol in {file}, closest pairs in {picture}"


def summary(found: Memorisation, generated: MeasuredImages, training: MeasuredImages) -> dict[str, Any]:
    """The result, ready for JSON."""
    repeats = asdict(found.repeats)
    return {
        "audit": "neighbours",
        "suspicious": found.suspicious,
        "closeness": asdict(found.closeness),
        "duplicates": asdict(found.duplicates),
        "relative_duplicates": asdict(found.relative_duplicates),
        "data_copying": asdict(found.copying),
        # The images of a set are each other's neighbours, hence not independent: no interval and no p-value.
        "repeats": {key: value for key, value in repeats.items() if key not in ("p_value", "low", "high")},
        "closest": closest_pairs(found.nearest, generated, training),
    }


def without_copies(held_out: MeasuredImages, training: MeasuredImages) -> tuple[MeasuredImages, int]:
    """The held-out images that are not training images pixel by pixel, and how many are.

    Raises:
        UserError: most of them are.
    """
    known = {_digest(image) for image in training.images}
    fresh = np.flatnonzero([_digest(image) not in known for image in held_out.images])
    if 2 * len(fresh) < len(held_out):
        name = f"{held_out.identity['name']} {held_out.identity['split']}"
        raise UserError(
            f"{len(held_out) - len(fresh)} of {len(held_out)} images of {name} are training images; "
            "accepted: --held-out-path with images that the run was not trained on"
        )
    return held_out if len(fresh) == len(held_out) else held_out.rows(fresh), len(held_out) - len(fresh)


def closest_pairs(found: Neighbours, generated: MeasuredImages, training: MeasuredImages) -> list[dict[str, Any]]:
    """The generated images that are nearest to a training image, nearest first; rows, distance and pixel difference."""
    pairs = []
    for row in found.distances[:, 0].argsort(stable=True)[:SHOWN].tolist():
        near = int(found.indices[row, 0])
        difference = generated.images[row].astype(np.float64) - training.images[near].astype(np.float64)
        pairs.append(
            {
                "generated": row,
                "training": near,
                "distance": float(found.distances[row, 0]),
                "pixel_rms": float(np.sqrt(np.mean(difference**2))),
            }
        )
    return pairs


def save_closest(path: Path, found: Neighbours, generated: MeasuredImages, training: MeasuredImages) -> None:
    """Each of the closest generated images, then its nearest training images."""
    rows = [
        Row(
            (f"generated {row}", *(f"{distance:.4f}" for distance in found.distances[row, :3].tolist())),
            ([generated.images[row]], [training.images[near] for near in found.indices[row].tolist()]),
        )
        for row in found.distances[:, 0].argsort(stable=True)[:SHOWN].tolist()
    ]
    with atomic_path(path) as temporary:
        captioned_rows(rows, (1, found.indices.shape[1])).save(temporary, format="PNG")


def table(run: AuditedRun, found: Memorisation, identical: int) -> str:
    """The result in a few lines."""
    near, repeats = found.closeness, found.repeats
    verdict = "closer to training images than held-out images are" if found.suspicious else "no sign of copying"
    if found.repetitive:
        verdict += f", but {repeats.share:.0%} of the images repeat one another"
    between = f"{near.probability:.3f} [{near.low:.3f}, {near.high:.3f}]"
    lines = [
        ("closer than a held-out image", between, f"0.5: no closer, p = {near.p_value:.2g}"),
        ("median distance / held-out's", f"{near.median_ratio:.3f}", "1: no closer"),
        ("within cells, C_T", *_copying(found.copying)),
        ("near-duplicates of training", *_counted(found.duplicates)),
        ("  relative to next neighbours", *_counted(found.relative_duplicates)),
        ("near-duplicates of each other", f"{repeats.count}: {repeats.share:.2%}", f"{repeats.expected:.2%} in real"),
        ("held-out = training, pixels", str(identical), "left out"),
    ]
    head = f"{run.path} step {run.step} {run.weights}: {verdict}"
    return "\n".join([head, *(f"  {name:<30} {value:<34} {note}" for name, value, note in lines)])


def _counted(copies: Duplicates) -> tuple[str, str]:
    share = f"{copies.count} of {copies.generated}: {copies.share:.2%} [{copies.low:.2%}, {copies.high:.2%}]"
    return share, f"{copies.expected:.2%} expected, p = {copies.p_value:.2g}"


def _copying(found: DataCopying) -> tuple[str, str]:
    if found.statistic is None or found.lowest is None:
        return "–", "too few images a cell"
    return f"{found.statistic:.2f}, lowest of {found.cells} cells {found.lowest:.2f}", "0: no closer, below −3: copying"


def _digest(image: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()
