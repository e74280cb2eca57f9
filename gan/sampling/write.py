"""What `gan.sample` does once the command line is read: from a form of samples to its file or folder.

A folder of PNG files and an .npz archive may be of any size: both are written in bounded memory.
"""

import json
import math
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gan.errors import UserError, nearest
from gan.files import atomic_path, sweep, write_text
from gan.pictures import to_picture
from gan.progress import lasting_bar
from gan.sampling.generate import Batch, LoadedGenerator
from gan.sampling.pictures import (
    MAXIMUM_IMAGES,
    class_rows,
    labels_in_rows,
    save_grid,
    save_interpolation,
    save_named_rows,
    spread_classes,
)
from gan.seeds import seeded_generator

MANIFEST = "samples.json"
LABELS = "labels.csv"
PNG_END = b"IEND\xaeB`\x82"  # the last chunk of every PNG
_FILES = {"npz": "samples.npz", "grid": "grid.png", "interpolation": "interpolation.gif", "classes": "classes.png"}
_BY_SUFFIX = {".png": "grid", ".npz": "npz", ".gif": "interpolation"}
_COUNTS = {"grid": 64, "interpolation": 8, "classes": 10}
_LABELS = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")  # one, or the ends of a range


def labels_among(classes: tuple[int, ...], n: int, seed: int) -> Tensor:
    """n labels `(n,)`, uniform among `classes`."""
    drawn = torch.randint(len(classes), (n,), generator=seeded_generator(seed, "sample labels"))
    return torch.tensor(classes)[drawn]


@dataclass(frozen=True)
class Draw:
    """What is drawn: labels uniform among `classes`, None for all; the rest as `LoadedGenerator.sample` has it."""

    classes: tuple[int, ...] | None
    seed: int
    truncation: float | None
    batch_size: int

    def batches(self, generator: LoadedGenerator, n: int) -> Iterator[Batch]:
        """The latents and labels of n images."""
        labels = None if self.classes is None else labels_among(self.classes, n, self.seed)
        return generator.batches(n, labels, self.seed, self.truncation, self.batch_size)


def form_of(out: Path, fmt: str | None) -> str:
    """`fmt`, or where it is None what the suffix of `out` says."""
    return fmt or _BY_SUFFIX.get(out.suffix, "png")


def write_samples(
    generator: LoadedGenerator,
    *,
    out: Path,
    fmt: str | None,
    count: int | None,
    classes: str | None,
    truncation: float | None,
    seed: int | None,
    frames: int,
    batch_size: int | None,
) -> Path:
    """Write samples in the form `fmt`; returns the file or folder. None stands for a default: see `gan sample`.

    A name with a suffix is that of a file.

    Raises:
        UserError: a value that is not accepted, or something is there already.
        StorageError: it cannot be written.
    """
    section = generator.config.evaluation
    if fmt == "png" and out.suffix == ".png":
        raise UserError(f"--out {out}: is the name of a file; with --format png accepted: a folder of PNG files")
    fmt = form_of(out, fmt)
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
        images, labels = class_rows(generator, chosen, count, draw.seed, truncation, draw.batch_size)
        save_named_rows(images, labels, generator.class_names, path)
    else:
        _interpolation(generator, path, count, frames, draw)
    return path


def _grid(generator: LoadedGenerator, path: Path, count: int, draw: Draw) -> None:
    if count > MAXIMUM_IMAGES:
        raise UserError(f"--count {count}: found with --format grid, up to {MAXIMUM_IMAGES} accepted")
    if generator.num_classes is None:
        images = generator.sample(count, None, draw.seed, draw.truncation, draw.batch_size)
        save_grid(images, math.ceil(math.sqrt(count)), path)
        return
    classes = draw.classes or spread_classes(generator.num_classes, count)
    if len(classes) > count:
        raise UserError(
            f"--count {count}: found with --format grid and {len(classes)} classes, one each or more accepted"
        )
    labels = labels_in_rows(classes, count)
    images = generator.sample(count, labels, draw.seed, draw.truncation, draw.batch_size)
    save_named_rows(images, labels, generator.class_names, path)


def _interpolation(generator: LoadedGenerator, path: Path, count: int, frames: int, draw: Draw) -> None:
    if count < 2:
        raise UserError(f"--count {count}: found with --format interpolation, 2 or more latents accepted")
    if draw.classes is not None and len(draw.classes) > 1:
        raise UserError(f"--classes: {len(draw.classes)} found, one accepted with --format interpolation")
    (batch,) = generator.batches(count, seed=draw.seed, truncation=draw.truncation, batch_size=count)
    label = None if batch.labels is None else int(batch.labels[0])
    label = draw.classes[0] if draw.classes else label
    save_interpolation(generator, batch.latents, label, frames, path, draw.batch_size)


def save_folder(generator: LoadedGenerator, out: Path, n: int, draw: Draw) -> None:
    """Write n images as `out`/000000.png and so on, with their labels in labels.csv where there are classes.

    samples.json says what they are. A folder that the same call has begun is gone on with; only files that are missing
    or damaged are computed.

    Raises:
        UserError: the folder holds anything else.
        StorageError: a file cannot be written.
    """
    batches = draw.batches(generator, n)
    _claim(out, _manifest(generator, n, draw))
    sweep(out)
    rows = ["file,label,class"]
    with lasting_bar(n, "sampling", "images") as bar:
        for batch in batches:
            names = [f"{batch.start + place:06d}.png" for place in range(len(batch.latents))]
            if missing := [place for place, name in enumerate(names) if not _is_whole(out / name)]:
                images = generator.pixels(batch.latents, batch.labels)
                for place in missing:
                    _save_png(images[place], out / names[place])
            if batch.labels is not None:
                labels = batch.labels.tolist()
                rows += [
                    f"{name},{k},{_quoted(generator.class_names[k])}" for name, k in zip(names, labels, strict=True)
                ]
            bar.update(len(names))
    if generator.num_classes is not None:
        write_text(out / LABELS, "\n".join(rows) + "\n")


def save_npz(generator: LoadedGenerator, path: Path, n: int, draw: Draw) -> None:
    """Write n images as an uncompressed .npz: `images` uint8 `(n, H, W, C)` and, with classes, `labels` int64 `(n,)`
    and `class_names` `(K,)`, of all classes.

    Raises:
        UserError: as `LoadedGenerator.batches`.
        StorageError: the file cannot be written.
    """
    batches = draw.batches(generator, n)
    header = {"descr": "|u1", "fortran_order": False, "shape": generator.shape(n)}
    sweep(path.parent, path.name)
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("images.npy", "w", force_zip64=True) as member, lasting_bar(n, "sampling", "images") as bar:
            np.lib.format.write_array_header_1_0(member, header)
            labels = generator.write_pixels(member, batches, bar.update)
        if labels is not None:
            for name, array in (("labels", labels), ("class_names", np.array(generator.class_names))):
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, array)


def _manifest(generator: LoadedGenerator, n: int, draw: Draw) -> dict[str, Any]:
    found = generator.description
    return {
        "run": found.run,
        "step": found.step,
        "weights": found.weights,
        "digest": found.digest,
        "count": n,
        "classes": None if draw.classes is None else list(draw.classes),
        "seed": draw.seed,
        "truncation": draw.truncation,
    }


def _claim(out: Path, manifest: dict[str, Any]) -> None:
    """Make sure that `out` is empty or was begun with the same manifest."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; accepted: a folder")
    if any(_visible(out)):
        try:
            begun = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            begun = None
        if not isinstance(begun, dict):
            raise UserError(f"--out {out}: is not empty; accepted: an empty or new folder, or one begun by gan.sample")
        differing = [name for name in manifest if begun.get(name) != manifest[name]]
        if differing:
            listed = "; ".join(f"{name} {begun.get(name)}, now {manifest[name]}" for name in differing)
            raise UserError(f"--out {out}: holds other samples ({listed}); accepted: an empty or new folder")
    write_text(out / MANIFEST, json.dumps(manifest, indent=2) + "\n")


def _visible(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if not path.name.startswith(".")) if folder.exists() else iter(())


def _save_png(image: Tensor, path: Path) -> None:
    """Write one PNG, whole or not at all; not synced, as a lost one is drawn again."""
    with atomic_path(path, durable=False) as temporary:
        to_picture(image).save(temporary, format="PNG")


def _is_whole(path: Path) -> bool:
    """Whether a file is a PNG whose checksums are right; after a power cut it may be empty."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            picture.verify()
    except (OSError, SyntaxError, ValueError):
        return False
    return path.read_bytes().endswith(PNG_END)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if set(name) & set(',"\n\r') else name


def _file(out: Path, name: str) -> Path:
    """`out` where it has the suffix of `name`, else that file in it; nothing may be there yet."""
    path = out if out.suffix == Path(name).suffix else out / name
    if path.exists():
        raise UserError(f"--out {path}: is there already; accepted: a new file")
    return path


def parse_classes(text: str, generator: LoadedGenerator) -> tuple[int, ...]:
    """Labels from "0,3,5-9" or the names of classes, in that order, each once.

    Numbers are labels. One that is the name of another label as well has to say what it is: "label:2" or "name:2".

    Raises:
        UserError: no such class, a number that may be either, or the generator has no classes.
    """
    if generator.num_classes is None:
        raise UserError(f"--classes {text}: the generator is unconditional; accepted: nothing")
    parts = [part.strip() for part in text.split(",")]
    return tuple(dict.fromkeys(label for part in parts for label in _labels_of(part, generator.class_names)))


def _labels_of(part: str, class_names: Sequence[str]) -> Sequence[int]:
    """The labels that a number, a range or a name means."""
    names = {name: label for label, name in enumerate(class_names)}
    kind, _, rest = part.partition(":")
    numbers = _LABELS.fullmatch(rest if kind == "label" else part)
    if numbers is None:
        name = rest if kind == "name" and part not in names else part
        if name not in names:
            raise UserError(f"--classes: no class {name!r}{nearest(name, names)}")
        return [names[name]]
    low, high = int(numbers[1]), int(numbers[2] or numbers[1])
    if not low <= high < len(class_names):
        if part in names:
            return [names[part]]
        raise UserError(f"--classes: {part} found; 0 to {len(class_names) - 1} accepted, as 3 or 0-3")
    for text in () if kind == "label" else (part, *filter(None, numbers.groups())):
        number = int(text) if text.isdecimal() else None
        if text in names and names[text] != number:
            label = f"labels {part}" if number is None else f"label {number} ({class_names[number]!r})"
            raise UserError(
                f"--classes: {part} found; {text} is {label} and the name of label {names[text]}; "
                f"accepted: label:{part} or name:{text}"
            )
    return range(low, high + 1)
