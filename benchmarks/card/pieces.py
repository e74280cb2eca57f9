"""The pieces beside the step: the head, the evaluator, the loader, and several runs at once on the card."""

import json
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.card.findings import Findings, Found
from benchmarks.contestants import Ours, Setting, synthetic_store
from benchmarks.evaluator import make_images
from benchmarks.head import backward, look_up, loop, race
from benchmarks.throughput import WIDTHS
from gan.data.image_store import ImageStore
from gan.data.loader import Loader
from gan.metrics.evaluator import Evaluator
from gan.metrics.extractors.catalogue import build_extractor
from gan.models.heads.cascade import cascade_scores

HEADS = [(64, 128, 3, 0), (256, 128, 3, 0), (1024, 128, 3, 0), (256, 1024, 5, 0), (64, 128, 3, 10), (256, 512, 5, 100)]
READY = "ready"
AHEAD = 50  # iterations that are asked for before the device is waited for
COMMAND = Path(__file__).parents[1] / "gpu.py"


def head(findings: Findings, tiny: bool) -> None:
    """The cascade's solve against a loop over stages, forward and backward, in seconds."""
    for batch, width, stages, classes in HEADS[:2] if tiny else HEADS:
        find = partial(_head, batch, width, stages, classes, findings.device, 3 if tiny else 40)
        findings.case("head", f"B {batch}, F {width}, N {stages}, {classes or 'no'} classes", find)


def _head(batch: int, width: int, stages: int, classes: int, device: torch.device, repetitions: int) -> Found:
    features = torch.randn(batch, width, device=device, requires_grad=True)
    weights = torch.randn(max(classes, 1), stages, width, device=device, requires_grad=True)
    labels = torch.arange(batch, device=device) % max(classes, 1)

    def vectors() -> torch.Tensor:
        return look_up(weights, labels) if classes else weights[0]

    runs = {
        "loop": backward(lambda: loop(features, vectors())),
        "solve": backward(lambda: cascade_scores(features, vectors())),
    }
    return dict(race(runs, device, repetitions))


def evaluator(findings: Findings, tiny: bool) -> None:
    """FID and KID by EfficientNet-Lite0, images a second, features of both sets included."""
    count = 40 if tiny else 10_000
    for dtype in ("float32", "bfloat16"):
        find = partial(_evaluator, count, dtype, findings.device)
        findings.case("evaluator", f"efficientnet_lite0 in {dtype}, {count:,} against {count:,}", find)


def _evaluator(count: int, dtype: str, device: torch.device) -> Found:
    extractor = build_extractor("efficientnet_lite0", device=device)
    measure = Evaluator(extractor, device, ("fid", "kid"), 20 if count < 100 else 500, progress=False, dtype=dtype)
    real, fake = make_images(count, 0), make_images(count, 1)
    start = time.perf_counter()
    scores = measure.evaluate_images(fake, measure.reference(real, name="noise", split="train")).metrics
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "images_per_second": 2 * count / seconds, "scores": dict(scores)}


def loader(findings: Findings, tiny: bool) -> None:
    """Batches held on the device, and gathered from a memory map by a thread."""
    count, batch = (200, 8) if tiny else (100_000, 256)
    for side in (32, 64):
        store = synthetic_store(count, side)
        for place in ("on the device", "mapped"):
            find = partial(_loader, store, place, batch, findings)
            findings.case("loader", f"{count:,} at {side}×{side}, batch {batch}, {place}", find)


def _loader(store: ImageStore, place: str, batch: int, findings: Findings) -> Found:
    if place == "mapped":
        path = findings.path.parent / "mapped.npy"
        np.save(path, store.images)
        store = ImageStore(
            np.load(path, mmap_mode="r"), store.labels, store.class_names, "mapped", "benchmark", "train"
        )
    try:
        resident = place != "mapped"
        batches = Loader(store, batch, findings.device, flip=True, seed=0, resident=resident, channels_last=True)
        for _ in range(5):
            batches.next_batch()
        start, rounds = time.perf_counter(), 50
        for _ in range(rounds):
            images, _ = batches.next_batch()
        float(images.sum())  # waits
        return {"images_per_second": rounds * batch / (time.perf_counter() - start)}
    finally:
        (findings.path.parent / "mapped.npy").unlink(missing_ok=True)


def seeds(findings: Findings, tiny: bool) -> None:
    """SNGAN-32 at batch 64 in one, two and four processes at once: images a second of all together."""
    for count in (1, 2) if tiny else (1, 2, 4):
        findings.case("seeds", f"{count} at once", partial(_at_once, count, findings, tiny))


def _at_once(count: int, findings: Findings, tiny: bool) -> Found:
    command = [sys.executable, str(COMMAND), "--device", str(findings.device), "--part", "one seed"]
    command += ["--out", str(findings.path.parent), *(["--tiny"] if tiny else [])]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(count)]
    for process in processes:  # all have warmed up before the first one counts
        assert process.stdout is not None
        while (line := process.stdout.readline()) and line.strip() != READY:
            pass
    for process in processes:
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it has failed, which its status says
            process.stdin.write("\n")
            process.stdin.flush()
    texts = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError(f"one of {count} processes failed")
    return {"images_per_second": sum(json.loads(text.splitlines()[-1])["images_per_second"] for text in texts)}


def one_seed(findings: Findings, tiny: bool) -> None:
    """One of several processes: it warms up, waits for a line on its input, and counts what it does in a while."""
    widths, batch = ((8, 8), 4) if tiny else (WIDTHS["sngan"], 64)
    game = Ours(Setting("sngan", *widths, batch, findings.device), synthetic_store(), "training.cuda_graphs=true")
    for _ in range(1 if tiny else 5):
        game.iterate()
    seconds = 4 if tiny else 14
    print(READY, flush=True)
    sys.stdin.readline()  # so that all count over the same while
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        game.iterate()
        count += 1
        if findings.device.type == "cuda" and count % AHEAD == 0:  # as the trainer, which waits when it logs
            torch.cuda.synchronize(findings.device)
    if findings.device.type == "cuda":
        torch.cuda.synchronize(findings.device)
    images = game.discriminator_steps * batch * count / (time.perf_counter() - start)
    print(json.dumps({"images_per_second": images}))
