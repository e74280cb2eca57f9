"""Runs of a comparison as processes of their own: finished ones skipped, interrupted ones resumed, several at once."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path
from statistics import mean

import torch

from gan.build import build_game, image_facts
from gan.config import Config, load_config
from gan.errors import BusyError, NonFiniteError, StorageError, UserError
from gan.experiments.comparison import MODES, RATIO, Planned
from gan.experiments.outcomes import Outcome, changeable_settings, load_outcome, read_outcome, save_outcome
from gan.files import write_text
from gan.metrics.extractors.catalogue import build_extractor
from gan.metrics.protocol import Protocol
from gan.processes import stop_with_parent
from gan.sampling.open import open_checkpoint
from gan.scoring.audit_modes import digit_modes
from gan.scoring.audited_run import open_run
from gan.scoring.ratio import comparable_images, run_frechet_ratios
from gan.training.run_directory import RunDirectory

LIBRARY = Path(__file__).parents[2]  # where the package lies, installed or not
Show = Callable[[Planned, Outcome], None]


def run_directory(out: Path, planned: Planned) -> Path:
    """Where a run of the experiment in `out` lies."""
    return out / "runs" / planned.name


def require_buildable(results: Path, runs: Sequence[Planned]) -> None:
    """Build a run of every arm that has one left: a mistake in the last is not to show after hours of the first.

    Raises:
        UserError: an arm cannot be built, or the images it names, or the weights of a feature space, cannot be had.
    """
    waiting = [planned for planned in runs if load_outcome(results, planned) is None]
    for space in waiting[0].feature_spaces if waiting else ():
        try:
            build_extractor(space, weights=None, device="cpu")
        except UserError as error:
            raise UserError(f"feature_spaces: {error}") from error
    for arm, planned in {planned.arm: planned for planned in waiting}.items():
        try:
            build_game(planned.config, image_facts(planned.config), torch.device("cpu"))
            if planned.feature_spaces:
                comparable_images(planned.config)
        except UserError as error:
            raise UserError(f"arms.{arm}: {error}") from error


def run_all(runs: Sequence[Planned], results: Path, out: Path, jobs: int, devices: Sequence[str], show: Show) -> None:
    """Bring every run to its outcome, `jobs` at a time, each on one of `devices` in turn.

    Args:
        runs: what is run, in this order.
        results: folder of the outcomes.
        out: directory of the experiment.
        jobs: processes at once.
        devices: as on the command line of `gan train`.
        show: called with every outcome as it comes, kept ones first.

    Raises:
        UserError: a run failed for another reason than divergence; the line it ended with is repeated.
    """
    waiting = []
    for planned in runs:
        outcome = load_outcome(results, planned)
        if outcome is None:
            waiting.append(planned)
        else:
            show(planned, outcome)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ThreadPoolExecutor(jobs) as pool:
        running: dict[Future[Outcome], Planned] = {}
        free = [devices[number % len(devices)] for number in range(jobs)]
        used: dict[Future[Outcome], str] = {}
        while waiting or running:
            while waiting and free:
                planned, device = waiting.pop(0), free.pop(0)
                future = pool.submit(run_one, planned, results, out, device, threads)
                running[future], used[future] = planned, device
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                planned = running.pop(future)
                free.append(used.pop(future))
                if future.exception() is not None:
                    waiting.clear()  # what runs already is let finish
                show(planned, future.result())


def run_one(planned: Planned, results: Path, out: Path, device: str, threads: int) -> Outcome:
    """Train and score one run, or go on with it, and keep its outcome.

    Raises:
        BusyError: another process, on this machine or one that shares the disk, is at work on it.
        UserError: it failed for another reason than divergence.
    """
    directory = run_directory(out, planned)
    with ExitStack() as held:
        try:
            held.enter_context(RunDirectory(directory.with_suffix(".task")).claimed())
        except BusyError as error:
            raise BusyError(f"arm {planned.arm}, seed {planned.seed}: another process is at work on it") from error
        outcome = load_outcome(results, planned)
        if outcome is None:
            outcome = _train(planned, directory, device, threads)
            save_outcome(results, planned, outcome)
        return outcome


def _train(planned: Planned, directory: Path, device: str, threads: int) -> Outcome:
    threads = int(os.environ.get("OMP_NUM_THREADS", threads))
    diverged = train(planned.config, directory, device, threads, f"arm {planned.arm}, seed {planned.seed}")
    extra: dict[str, float] = {}
    if not diverged and planned.has_modes:
        report = digit_modes(open_run(directory, None, "ema", device, {"samples": planned.mode_samples})).report
        extra = dict(zip(MODES, (float(report.covered), report.kl_generated_real), strict=True))
    spaces: dict[str, Protocol] = {}
    if not diverged and planned.feature_spaces:
        found = run_frechet_ratios(open_checkpoint(directory, device=device), planned.feature_spaces)
        spaces = {space: one.protocol for space, one in found.items()}
        extra[RATIO] = mean(one.ratio for one in found.values())
        extra |= {f"{RATIO} ({space})": one.ratio for space, one in found.items()}
    return read_outcome(planned, directory, diverged, extra, spaces, device, threads)


def train(run: Config, directory: Path, device: str, threads: int, what: str) -> bool:
    """Train one run in a process of its own, or go on with it; returns whether it diverged.

    Args:
        run: its config, written beside its directory.
        directory: of the run.
        device: as on the command line of train.py.
        threads: of the process.
        what: its name in an error.

    Raises:
        StorageError: it could not write; the line it ended with is repeated, as below.
        UserError: it failed for another reason, or `directory` holds a run that is to be trained or scored otherwise.
    """
    _require_same(run, directory, what)
    config = directory.with_suffix(".yaml")
    write_text(config, run.to_yaml())
    command = [sys.executable, "-m", "gan", "train", str(config), "--device", device, "--out", str(directory)]
    path = [str(LIBRARY), *filter(None, [os.environ.get("PYTHONPATH")])]
    RunDirectory(directory).wait_until_free()  # of a run whose comparison was killed, and which is saving itself
    with directory.with_suffix(".log").open("a", encoding="utf-8") as log:
        process = subprocess.run(
            command,
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(path)},
            check=False,
            preexec_fn=stop_with_parent,
        )
    diverged = process.returncode == NonFiniteError.exit_status
    if process.returncode and not diverged:
        last = directory.with_suffix(".log").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        refusal = StorageError if process.returncode == StorageError.exit_status else UserError
        raise refusal(f"{what}: {''.join(last) or f'status {process.returncode}'}")
    return diverged


def _require_same(run: Config, directory: Path, what: str) -> None:
    """A run of a comparison is not lengthened, and what it measured on the way is not mixed with other measures."""
    begun = RunDirectory(directory).config
    if not begun.is_file():
        return
    before, now = changeable_settings(load_config(begun)), changeable_settings(run)
    for key in now:
        if before.get(key) != now[key]:
            raise UserError(
                f"{what}: {directory} holds a run with {key} {before.get(key)!r}, not {now[key]!r}; remove it, and it "
                "is trained anew"
            )
