"""Samples to measure: a folder of PNG files, or one .npz archive, of any size in bounded memory."""

import json
import os
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gan.errors import UserError
from gan.files import atomic_path, write_text
from gan.metrics.images import to_uint8
from gan.progress import lasting_bar
from gan.sampling.generator import Batch, LoadedGenerator
from gan.sampling.pictures import to_picture
from gan.seeds import seeded_generator

MANIFEST = "samples.json"
LABELS = "labels.csv"


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


def save_folder(generator: LoadedGenerator, out: Path, n: int, draw: Draw) -> None:
    """Write n images as `out`/000000.png and so on, with their labels in labels.csv where there are classes.

    samples.json says what they are. A folder that the same call has begun is gone on with; only missing files are
    computed.

    Raises:
        UserError: the folder holds anything else.
        StorageError: a file cannot be written.
    """
    batches = draw.batches(generator, n)
    _claim(out, _manifest(generator, n, draw))
    rows = ["file,label,class"]
    with lasting_bar(n, "sampling", "images") as bar:
        for batch in batches:
            names = [f"{batch.start + place:06d}.png" for place in range(len(batch.latents))]
            if missing := [place for place, name in enumerate(names) if not (out / name).exists()]:
                images = _images(generator, batch)
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
    """Write n images as an uncompressed .npz: `images` uint8 `(n, H, W, C)` and, with classes, `labels` int64 `(n,)`.

    The pixels go through a file on disk beside it.

    Raises:
        UserError: as `LoadedGenerator.batches`.
        StorageError: the file cannot be written.
    """
    batches = draw.batches(generator, n)
    found = generator.description
    shape = (n, found.resolution, found.resolution, found.channels)
    with atomic_path(path) as temporary, tempfile.TemporaryDirectory(dir=path.parent, prefix=".npz") as scratch:
        pixels = Path(scratch) / "images.npy"
        images = np.lib.format.open_memmap(pixels, "w+", np.uint8, shape)
        labels = []
        with lasting_bar(n, "sampling", "images") as bar:
            for batch in batches:
                rows = _images(generator, batch).permute(0, 2, 3, 1).numpy()
                images[batch.start : batch.start + len(rows)] = rows
                labels += [] if batch.labels is None else [batch.labels]
                bar.update(len(rows))
        images.flush()
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            archive.write(pixels, "images.npy")
            if labels:
                with archive.open("labels.npy", "w") as member:
                    np.lib.format.write_array(member, torch.cat(labels).numpy())


def _images(generator: LoadedGenerator, batch: Batch) -> Tensor:
    return to_uint8(generator(batch.latents, batch.labels)).cpu()


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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        to_picture(image).save(temporary, format="PNG")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if set(name) & set(',"\n\r') else name
