"""Commands that are run in a folder of their own, in forked processes, and what each comes to."""

import hashlib
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.faults import Faults, failing
from gan.commands.line import compare, evaluate, export, sample, train
from gan.experiments import runner
from gan.training.checkpoint import checkpoint_paths, read_checkpoint

PATIENCE = 300  # seconds for a command
TINY = [
    "generator.name=dcgan", "generator.width=4", "discriminator.backbone.name=dcgan", "discriminator.backbone.width=4",
    "generator.latent_dim=8", "training.batch_size=8", "training.steps=4", "logging.scalars_every=1",
    "logging.samples_every=2", "logging.sample_count=4", "checkpoint.every=2", "checkpoint.keep=1",
    "training.precision=float32", "evaluation.samples=20", "evaluation.reference=test",
    "evaluation.reference_samples=20", "evaluation.metrics=[prc]",
]  # fmt: skip
EXPERIMENT = """
task: comparison
question: Does it survive?
base: {config}
settings: {settings}
arms:
  independent: ["discriminator.head={{name: independent, options: {{stages: 2}}}}"]
  cascade: ["discriminator.head={{name: cascading_rejection, options: {{stages: 2}}}}"]
seeds: [0, 1]
mode_samples: 50
primary: {{measure: is, scale: log}}
looks: fixed
"""
CONFIG = ROOT / "configs" / "digits" / "dcgan_cr.yaml"


@dataclass(frozen=True)
class Task:
    """A command, its arguments in a folder, and what it comes to."""

    command: click.Command
    arguments: Callable[[Path], list[str]]
    result: Callable[[Path], Any]
    base: str = "training"  # the task whose result it starts from; of a comparison, with one run missing


def _settings(folder: Path, *more: str) -> list[str]:
    settings = [*TINY, f"data.root={folder / 'data'}", *more]
    return [part for setting in settings for part in ("--set", setting)]


def _trained(folder: Path) -> Any:
    run = folder / "run"
    state = read_checkpoint(checkpoint_paths(run / "checkpoints")[-1])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timings = ("speed/", "evaluation/seconds")
    log = [{key: value for key, value in line.items() if not key.startswith(timings)} for line in lines]
    names = sorted(str(path.relative_to(run)) for path in run.rglob("*") if "tfevents" not in path.name)
    return _sha({**state, "elapsed": 0, "digest": 0}), log, _bytes(run / "samples"), _scores(run), names


def _scores(run: Path) -> dict[str, Any]:
    return {path.name: json.loads(path.read_text())["metrics"] for path in (run / "evaluations").glob("*.json")}


def _sha(state: Any) -> str:
    from gan.training.checkpoint import digest

    return digest(state)


def _bytes(place: Path) -> dict[str, str]:
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    return {str(path.relative_to(place.parent)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _compared(folder: Path) -> Any:
    runs = [path for path in (folder / "compared").rglob("checkpoints") if path.is_dir()]
    states = {path.parent.name: read_checkpoint(checkpoint_paths(path)[-1]) for path in runs}
    ends = {name: _sha({**state, "elapsed": 0, "digest": 0}) for name, state in states.items()}
    found = [path for path in folder.rglob("report.*") if path.is_file()]
    scores = {path.parent.name: _scores(path.parent) for path in runs}
    return ends, sorted(path.name for path in found), scores, _reported(folder / "compared" / "report.json")


def _reported(report: Path) -> Any:
    """What a comparison's report has of every run, but for how long it took and what made it."""
    arms = json.loads(report.read_text())["arms"]
    taken = ("seconds", "machine", "made_by", "curve")
    return {
        arm: [{key: value for key, value in one.items() if key not in taken} for one in runs]
        for arm, runs in arms.items()
    }


def _experiment(folder: Path) -> list[str]:
    file = folder / "experiment.yaml"
    settings = json.dumps([*TINY, "conditional=false", "evaluation.metrics=[is]", f"data.root={folder / 'data'}"])
    file.write_text(EXPERIMENT.format(config=CONFIG, settings=settings))
    return [str(file), "--device", "cpu", "--out", str(folder / "compared"), "--jobs", "1"]


def _from_run(*options: str, out: str) -> Callable[[Path], list[str]]:
    return lambda folder: [str(folder / "run"), *options, "--out", str(folder / out)]


TASKS = {
    "training": Task(
        train.main, lambda folder: [str(CONFIG), *_settings(folder), "--device", "cpu", "--out", str(folder / "run")],
        _trained, base="",
    ),
    "evaluation": Task(
        evaluate.main, lambda folder: ["checkpoint", str(folder / "run"), "--device", "cpu", "--samples", "30"],
        lambda folder: _scores(folder / "run"),
    ),
    "samples, png": Task(sample.main, _from_run("--count", "4", "--device", "cpu", out="png"),
                         lambda folder: _bytes(folder / "png")),
    "samples, npz": Task(sample.main, _from_run("--count", "4", "--device", "cpu", out="it.npz"),
                         lambda folder: _arrays(folder / "it.npz")),
    "export": Task(export.main, _from_run("--format", "safetensors", out="exported"),
                   lambda folder: _bytes(folder / "exported")),
    "comparison": Task(compare.main, _experiment, _compared, base="comparison"),
}  # fmt: skip


def _arrays(path: Path) -> dict[str, str]:
    import numpy as np

    with np.load(path) as archive:
        return {name: hashlib.sha256(archive[name].tobytes()).hexdigest() for name in archive.files}


def in_a_process(work: Callable[[], int], output: Path) -> tuple[int, str]:
    """Fork, run `work` there with its output in a file; returns the status and what was printed."""
    if (child := os.fork()) == 0:
        status = 1
        signal.alarm(PATIENCE)  # which ends it
        try:
            with output.open("wb") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            status = work()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(ended), output.read_text(errors="replace")


def start(task: Task, folder: Path, faults: Faults | None) -> int:
    """Run the command in this process; returns its status. Afterwards the counts of `faults` lie beside the folder."""
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    arguments = task.arguments(folder)
    runner.subprocess = SimpleNamespace(run=partial(_trained_here, faults))  # type: ignore[assignment]
    try:
        with nullcontext() if faults is None else failing(faults):
            task.command.main(arguments, prog_name="command")
        return 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        if faults is not None:
            folder.with_suffix(".counts").write_text(json.dumps(faults.counts))
            folder.with_suffix(".modules").write_text(json.dumps(list(sys.modules)))


def _trained_here(faults: Faults | None, command: list[str], stdout: Any, **options: Any) -> Any:
    """A comparison's run in place of a new interpreter, which would load its libraries for seconds; nothing fails in
    it, as the calls of a training run are tried by themselves."""

    def work() -> int:
        if faults is not None:
            faults.site = None
        try:
            train.main.main(command[4:], prog_name="command")
            return 0
        except SystemExit as end:
            return int(end.code or 0)

    output = Path(tempfile.mkstemp()[1])
    status, text = in_a_process(work, output)
    output.unlink()
    os.write(stdout.fileno(), text.encode())
    return SimpleNamespace(returncode=status)


def prepared(folder: Path, base: Path | None) -> Path:
    """The folder, new, with what a task starts from."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_suffix(".counts").unlink(missing_ok=True)
    if base is None:
        folder.mkdir(parents=True)
    else:
        shutil.copytree(base, folder)
    return folder


def undisturbed(task: Task, folder: Path) -> Any:
    """The result, and how often each place is come to."""
    status, said = in_a_process(lambda: start(task, folder, Faults(folder)), folder.with_suffix(".said"))
    if status:
        raise SystemExit(f"undisturbed, status {status}: {said}")
    for module in json.loads(folder.with_suffix(".modules").read_text()):  # once, and not in each process again
        if module not in sys.modules and module.partition(".")[0] != "__main__":
            with suppress(Exception):
                importlib.import_module(module)
    return task.result(folder), json.loads(folder.with_suffix(".counts").read_text())
