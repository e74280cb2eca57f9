"""Preparing images and reading them again: peak memory, images a second, and random access from the page cache.

`python benchmarks/data.py [--count 1000000] [--folder FOLDER --resolution 64]`. The synthetic set is a tar of small
PNG files from a pool of 64, made here; preparation runs as a process of its own, whose memory is read from /proc: the
proportional share (PSS) of it and its workers together, which counts shared pages once.
"""

import io
import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from gan.data.image_store import ImageStore
from gan.data.loader import Loader, gather
from gan.data.store import prepare as open_source

POOL = 64


def encoded_pool(resolution: int) -> list[bytes]:
    """Squares of 8×8 colours as PNG, about 300 bytes each, so that the archive is small beside the pixels."""
    random = np.random.default_rng(0)
    pool = []
    for _ in range(POOL):
        colours = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(colours).resize((resolution, resolution), Image.Resampling.NEAREST).save(buffer, "png")
        pool.append(buffer.getvalue())
    return pool


def write_tar(path: Path, count: int, resolution: int, classes: int = 1000) -> None:
    """`count` images in `classes` folders, in no order of the classes."""
    pool = encoded_pool(resolution)
    with tarfile.open(path, "w") as archive:
        for index in range(count):
            member = tarfile.TarInfo(f"n{index * 7919 % classes:08d}/{index:09d}.png")
            member.size = len(pool[index % POOL])
            archive.addfile(member, io.BytesIO(pool[index % POOL]))
            archive.members.clear()  # type: ignore[attr-defined]


def shares(root: int) -> list[tuple[int, int]]:
    """PSS now and peak RSS, in bytes, of a process and its children, those that are still there."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if root in (parent, int(entry.name)):
                lines = [*(entry / "smaps_rollup").open(), *(entry / "status").open()]
                sizes = {line.split()[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB\n")}
                found.append((sizes["Pss:"], sizes["VmHWM:"]))
        except (OSError, KeyError, ValueError):
            continue
    return found


def prepare(source: Path, out: Path, resolution: int, processes: int | None) -> dict[str, float]:
    """Run the command; seconds in all, images a second, and the peak of the processes' memory in MiB."""
    command = [sys.executable, "-m", "gan.data", "prepare", str(source), "--out", str(out)]
    command += ["--resolution", str(resolution), *(["--processes", str(processes)] if processes else [])]
    began, peak, largest = time.perf_counter(), 0, 0
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        found = shares(process.pid)
        peak = max(peak, sum(share for share, _ in found))
        largest = max([largest, *(size for _, size in found)])
        time.sleep(0.25)
    seconds = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(process.returncode)
    return {"seconds": seconds, "peak_mib": peak / 2**20, "largest_process_mib": largest / 2**20}


def access(store: ImageStore, batch_size: int, seconds: float) -> dict[str, float]:
    """Images a second at random: gathered as uint8 by one thread, and as whole batches of the loader."""
    for first in range(0, store.num_images, 4096):
        store.images[first : first + 4096].max()  # into the page cache
    random = np.random.default_rng(0)
    rates = {}
    count, began = 0, time.perf_counter()
    while time.perf_counter() < began + seconds:
        gather(store.images, random.integers(0, store.num_images, batch_size))
        count += batch_size
    rates["gather"] = count / (time.perf_counter() - began)
    loader = Loader(store, batch_size, "cpu", flip=False, seed=0, resident=False)
    loader.next_batch()
    count, began = 0, time.perf_counter()
    while time.perf_counter() < began + seconds:
        loader.next_batch()
        count += batch_size
    rates["loader"] = count / (time.perf_counter() - began)
    return rates


@click.command()
@click.option("--count", default=1_000_000, show_default=True, help="Of the synthetic images; 0: none.")
@click.option("--size", default=32, show_default=True, help="Of the synthetic images.")
@click.option("--folder", type=click.Path(path_type=Path, exists=True), help="Also prepare this folder or archive.")
@click.option("--resolution", default=64, show_default=True, help="Of that folder's images.")
@click.option("--processes", type=click.IntRange(1), help="How many decode. [default: one for each core]")
@click.option("--batch-size", default=256, show_default=True, help="Of random access.")
@click.option("--seconds", default=5.0, show_default=True, help="Of random access, each way.")
def main(
    count: int,
    size: int,
    folder: Path | None,
    resolution: int,
    processes: int | None,
    batch_size: int,
    seconds: float,
) -> None:
    """Measure and print one line of JSON for each set; what is written is removed."""
    machine = {"machine": platform.processor() or platform.machine(), "cores": len(os.sched_getaffinity(0))}
    machine["threads"] = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as directory:
        sets = [(folder, resolution)] if folder else []
        if count:
            sets.append((Path(directory) / "synthetic.tar", size))
            write_tar(sets[-1][0], count, size)
        for source, pixels in sets:
            out = Path(directory) / "out" / source.stem
            figures = prepare(source, out, pixels, processes)
            store = open_source("prepared", path=out, resolution=pixels)
            figures["images_per_second"] = store.num_images / figures["seconds"]
            rates = access(store, batch_size, seconds)
            figures = {name: round(value, 1) for name, value in {**figures, **rates}.items()}
            click.echo(json.dumps({"images": store.num_images, "resolution": pixels, **machine, **figures}))


if __name__ == "__main__":
    main()
