"""Let every call of the operating system fail once, and start again: whether all ends as if nothing had happened.

`python benchmarks/fault_injection.py`, or with `--quick` one error a site. A training run, an evaluation, samples, an
export and a comparison are each run undisturbed, which finds the places in gan/ from which files below the run are
opened, written, synced, renamed and removed and folders made. Then, for each place and each of four errors, a forked
process runs the command with one such call failing, the first or the last of its place, and another runs it again
without. Survived is a case in which the first ended with one line and status 4 (or 2, where a file could not be opened
or removed), or with 0 where the call is harmless; the second with status 0, or 2 where all was there already; the
result is the undisturbed one to the bit, and no temporary file is left. Exits with 1 if a case was lost.
`--record FILE` keeps what was found, and an interrupted call goes on from it.
"""

import errno
import hashlib
import importlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.faults import Faults, failing
from gan.commands.line import compare, evaluate, export, sample, train
from gan.experiments import runner
from gan.training.checkpoint import checkpoint_paths, read_checkpoint

ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EINTR)
PATIENCE = 300  # seconds for a command
TINY = [
    "generator.name=dcgan", "generator.width=4", "discriminator.backbone.name=dcgan", "discriminator.backbone.width=4",
    "generator.latent_dim=8", "training.batch_size=8", "training.steps=4", "logging.scalars_every=1",
    "logging.samples_every=2", "logging.sample_count=4", "checkpoint.every=2", "checkpoint.keep=1",
    "training.precision=float32", "evaluation.samples=20", "evaluation.reference=test",
    "evaluation.reference_samples=20",
    "evaluation.metrics=[fid]",
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
primary: {{measure: fid, scale: log}}
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
    return ends, sorted(path.name for path in found), {path.parent.name: _scores(path.parent) for path in runs}


def _experiment(folder: Path) -> list[str]:
    file = folder / "experiment.yaml"
    settings = json.dumps([*TINY, "conditional=false", f"data.root={folder / 'data'}"])
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


def judge(task: Task, folder: Path, faults: Faults, whole: Any) -> str:
    """Run a case; returns what was lost, "" for nothing, or "-" where the call was not come to."""
    call = str(faults.site).split()[0]
    first, said = in_a_process(lambda: start(task, folder, faults), folder.with_suffix(".said"))
    counts = folder.with_suffix(".counts")
    if not counts.exists() or json.loads(counts.read_text()).get(faults.site, 0) < faults.number:
        return f"status {first}: {said.strip().splitlines()[-1:]}" if first else "-"
    lines = [line for line in said.replace("\r", "\n").splitlines() if re.match(r"command[a-z ]*: ", line)]
    accepted = (0, 2, 4) if call in ("open", "unlink") else (0, 4)
    if first not in accepted or "Traceback" in said or len(lines) < bool(first):
        return f"status {first}: {said.strip().splitlines()[-1:]}"
    second, again = in_a_process(lambda: start(task, folder, None), folder.with_suffix(".again"))
    if second and not (second == 2 and " is there " in again):  # only its last sync had failed, or nothing
        return f"the next start: status {second}: {again.strip().splitlines()[-1:]}"
    if left := list(folder.rglob("*.tmp")):
        return f"left behind: {left[0].name}"
    return "" if task.result(folder) == whole else f"another result after status {first}"


def prepared(folder: Path, base: Path | None) -> Path:
    """The folder, new, with what a task starts from."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_suffix(".counts").unlink(missing_ok=True)
    if base is None:
        folder.mkdir(parents=True)
    else:
        shutil.copytree(base, folder)
    return folder


@click.command()
@click.option("--quick", is_flag=True, help="One error a site, in turn, instead of all four.")
@click.option("--task", "names", type=click.Choice(list(TASKS)), multiple=True, default=list(TASKS))
@click.option("--record", type=click.Path(path_type=Path), help="Keep each case's end here, and go on from it.")
def main(quick: bool, names: tuple[str, ...], record: Path | None) -> None:
    """Fail, start again, compare."""
    torch.set_num_threads(1)
    known = dict(map(json.loads, record.read_text().splitlines())) if record and record.exists() else {}
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory).resolve()
        os.environ["MPLCONFIGDIR"] = str(place / "matplotlib")
        bases: dict[str, Path | None] = {"": None}
        for name in names:
            total += _all_of(name, place, _base(TASKS[name].base, bases, place), quick, known, record)
    click.echo(f"in all: {total['survived']} survived, {total['lost']} lost, {total['not reached']} not reached")
    raise SystemExit(1 if total["lost"] else 0)


def _base(name: str, bases: dict[str, Path | None], place: Path) -> Path | None:
    """What a task starts from, made once: a trained run, or a comparison of which one run is missing."""
    if name not in bases:
        folder = bases[name] = prepared(place / f"base {name}", None)
        _undisturbed(TASKS[name], folder)
        for last in [*folder.glob("compared/**/cascade*1*")]:
            shutil.rmtree(last) if last.is_dir() else last.unlink(missing_ok=True)
    return bases[name]


def _undisturbed(task: Task, folder: Path) -> Any:
    """The result, and how often each place is come to."""
    status, said = in_a_process(lambda: start(task, folder, Faults(folder)), folder.with_suffix(".said"))
    if status:
        raise SystemExit(f"undisturbed, status {status}: {said}")
    for module in json.loads(folder.with_suffix(".modules").read_text()):  # once, and not in each process again
        if module not in sys.modules and module.partition(".")[0] != "__main__":
            with suppress(Exception):
                importlib.import_module(module)
    return task.result(folder), json.loads(folder.with_suffix(".counts").read_text())


def _all_of(
    name: str, place: Path, base: Path | None, quick: bool, known: dict[str, str], record: Path | None
) -> "Counter[str]":
    task, began = TASKS[name], time.perf_counter()
    folder = prepared(place / "case", base)
    whole, sites = _undisturbed(task, folder)
    counted: dict[int, Counter[str]] = {code: Counter() for code in ERRORS}
    for number, (site, count) in enumerate(sorted(sites.items())):
        for code in ERRORS[number % 4 : number % 4 + 1] if quick else ERRORS:
            which = 1 if code in (errno.ENOSPC, errno.EACCES) else count  # the first call or the last
            case = f"{name}: {errno.errorcode[code]} at call {which} of {site}"
            if case not in known:
                known[case] = judge(task, prepared(folder, base), Faults(folder, site, which, code), whole)
                if record is not None:
                    with record.open("a") as file:
                        file.write(json.dumps([case, known[case]]) + "\n")
            lost = known[case]
            counted[code]["not reached" if lost == "-" else "lost" if lost else "survived"] += 1
            if lost not in ("", "-"):
                click.echo(f"{case}: {lost}")
    for code, counts in counted.items():
        ends = ", ".join(
            f"{counts[end]} {end}" for end in ("survived", "lost", "not reached") if counts[end] or end[0] != "n"
        )
        click.echo(f"{name:12} {errno.errorcode[code]:6} {len(sites):3} call sites: {ends}")
    click.echo(f"{name:12} {time.perf_counter() - began:.0f} s")
    return sum(counted.values(), Counter())


if __name__ == "__main__":
    main()
