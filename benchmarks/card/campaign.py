"""For what is left of the time: the runs of configs/experiments/gpu_cifar10.yaml, as many at once as pay."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.card.findings import Findings, Found
from gan.training.run_directory import RunDirectory

ROOT = Path(__file__).parents[2]
EXPERIMENT = ROOT / "configs" / "experiments" / "gpu_cifar10.yaml"
GRACE = 120  # seconds that runs are given to save themselves
TINY = [
    "data.source=digits", "data.flip=false", "generator.width=8", "discriminator.backbone.width=8", "training.steps=4",
    "training.batch_size=4", "training.precision=float32", "training.cuda_graphs=true", "logging.sample_count=4",
    "evaluation.every=0", "evaluation.metrics=[fid]", "evaluation.samples=20", "evaluation.reference_samples=20",
]  # fmt: skip


def campaign(findings: Findings, tiny: bool, data: Path | None, until: float) -> None:
    """Go on with the campaign until then; it goes on from there the next time, on this card or another."""
    if data is None and not tiny:
        findings.write("campaign", "runs", error="no --data: a folder with cifar10_train.npz and cifar10_test.npz")
        return
    out = findings.path.parent / "gpu_cifar10"
    jobs = 1 if tiny else best_jobs(findings)
    command = [sys.executable, str(ROOT / "compare.py"), str(EXPERIMENT), "--out", str(out)]
    command += ["--device", str(findings.device), *settings(out, tiny)]
    command += ["--task", "0"] if tiny else ["--jobs", str(jobs)]
    found = run(command, data or ROOT, until)  # the experiment looks for its images where it is started
    for directory in out.glob("runs/*/"):
        RunDirectory(directory).wait_until_free()  # they save themselves after the command was stopped
    findings.write("campaign", "runs", **found, jobs=jobs, **progress(out))


def settings(out: Path, tiny: bool) -> list[str]:
    """Overrides of the experiment that make it tiny."""
    if not tiny:
        return []
    changes = [*TINY, f"data.root={out / 'data'}"]
    return ["--set", f"settings={changes!r}", "--set", f"results={out / 'results'}"]


def run(command: list[str], folder: Path, until: float) -> Found:
    """Run `command` until it ends or the time is up, when it is asked to save and stop."""
    start = time.time()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        text, _ = process.communicate(timeout=max(1.0, until - time.time()))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return {"seconds": time.time() - start, "stopped": True, "error": f"it did not save within {GRACE} s"}
        return {"seconds": time.time() - start, "stopped": True}
    if process.returncode:
        return {"seconds": time.time() - start, "error": (text.strip().splitlines() or ["no word"])[-1][:300]}
    return {"seconds": time.time() - start, "stopped": False}


def progress(out: Path) -> Found:
    """How many runs are over, and how far the others are by their newest checkpoint."""
    newest = {path.parents[1].name: path.stem for path in sorted(out.glob("runs/*/checkpoints/step_*.pt"))}
    return {"begun": newest}


def best_jobs(findings: Findings) -> int:
    """How many runs at once had most images a second; one where that was not measured."""
    found = {
        int(one["case"].split()[0]): one["images_per_second"]
        for one in findings.lines()
        if one["part"] == "seeds" and "images_per_second" in one
    }
    return max(found, key=lambda count: found[count], default=1)
