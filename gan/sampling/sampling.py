"""What `gan.sample` does once the command line is read: from a form of samples to its file or folder."""

import math
from pathlib import Path

from gan.errors import UserError, nearest
from gan.sampling.generator import LoadedGenerator
from gan.sampling.pictures import MAXIMUM_IMAGES, class_rows, save_grid, save_interpolation
from gan.sampling.samples import Draw, labels_among, save_folder, save_npz

_FILES = {"npz": "samples.npz", "grid": "grid.png", "interpolation": "interpolation.gif", "classes": "classes.png"}
_COUNTS = {"grid": 64, "interpolation": 8, "classes": 10}


def write_samples(
    generator: LoadedGenerator,
    *,
    out: Path,
    fmt: str,
    count: int | None,
    classes: str | None,
    truncation: float | None,
    seed: int | None,
    frames: int,
    batch_size: int | None,
) -> Path:
    """Write samples in the form `fmt`; returns the file or folder. None stands for a default: see `gan.sample`.

    Raises:
        UserError: a value that is not accepted, or something is there already.
        StorageError: it cannot be written.
    """
    section = generator.config.evaluation
    count = count or _COUNTS.get(fmt, section.samples)
    draw = Draw(
        classes=None if classes is None else parse_classes(classes, generator),
        seed=section.seed if seed is None else seed,
        truncation=truncation,
        batch_size=batch_size or section.batch_size,
    )
    path = out if fmt == "png" else _file(out, _FILES[fmt])
    if fmt == "png":
        save_folder(generator, path, count, draw)
    elif fmt == "npz":
        save_npz(generator, path, count, draw)
    elif fmt == "grid":
        _grid(generator, path, count, draw)
    elif fmt == "classes":
        chosen = draw.classes or range(generator.num_classes or 0)
        save_grid(class_rows(generator, chosen, count, draw.seed, truncation, draw.batch_size), count, path)
    else:
        _interpolation(generator, path, count, frames, draw)
    return path


def _grid(generator: LoadedGenerator, path: Path, count: int, draw: Draw) -> None:
    if count > MAXIMUM_IMAGES:
        raise UserError(f"--count {count}: found with --format grid, up to {MAXIMUM_IMAGES} accepted")
    labels = None if draw.classes is None else labels_among(draw.classes, count, draw.seed)
    images = generator.sample(count, labels, draw.seed, draw.truncation, draw.batch_size)
    save_grid(images, math.ceil(math.sqrt(count)), path)


def _interpolation(generator: LoadedGenerator, path: Path, count: int, frames: int, draw: Draw) -> None:
    if count < 2:
        raise UserError(f"--count {count}: found with --format interpolation, 2 or more latents accepted")
    if draw.classes is not None and len(draw.classes) > 1:
        raise UserError(f"--classes: {len(draw.classes)} found, one accepted with --format interpolation")
    (batch,) = generator.batches(count, seed=draw.seed, truncation=draw.truncation, batch_size=count)
    label = None if batch.labels is None else int(batch.labels[0])
    label = draw.classes[0] if draw.classes else label
    save_interpolation(generator, batch.latents, label, frames, path, draw.batch_size)


def _file(out: Path, name: str) -> Path:
    """`out` where it has the suffix of `name`, else that file in it; nothing may be there yet."""
    path = out if out.suffix == Path(name).suffix else out / name
    if path.exists():
        raise UserError(f"--out {path}: is there already; accepted: a new file")
    return path


def parse_classes(text: str, generator: LoadedGenerator) -> tuple[int, ...]:
    """Labels from "0,3,5-9" or the names of classes, in that order, each once.

    Raises:
        UserError: no such class, or the generator has none.
    """
    if generator.num_classes is None:
        raise UserError(f"--classes {text}: the generator is unconditional; accepted: nothing")
    names = {name: label for label, name in enumerate(generator.class_names)}
    found: list[int] = []
    for part in (part.strip() for part in text.split(",")):
        first, _, last = part.partition("-")
        if part in names:
            found.append(names[part])
        elif first.isdecimal() and (last.isdecimal() or not last):
            low, high = int(first), int(last or first)
            if not low <= high < generator.num_classes:
                raise UserError(f"--classes: {part} found; 0 to {generator.num_classes - 1} accepted, as 3 or 0-3")
            found += range(low, high + 1)
        else:
            raise UserError(f"--classes: no class {part!r}{nearest(part, names)}")
    return tuple(dict.fromkeys(found))
