"""What is kept of a run once it is over: small enough to be committed, whole enough to make every table from."""

import json
import math
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from gan.config import Config, validate
from gan.device import resolve_device, resolve_precision
from gan.errors import UserError
from gan.experiments.comparison import Planned
from gan.files import write_text
from gan.metrics.protocol import Protocol
from gan.metrics.table import METRICS
from gan.scoring.saved_results import load_result
from gan.training.run_directory import fixed_settings, flatten
from gan.training.tracking import ELAPSED, LOG, TRAINING, read_log

LIBRARIES = ("torch", "torchvision", "torch-fidelity", "numpy", "scipy")
CURVES = ("evaluation/", "stages/", "scores/margin")  # what is kept of metrics.jsonl


@dataclass(frozen=True)
class Outcome:
    """One arm with one seed: its measures by name, or none where it diverged."""

    arm: str
    seed: int
    config: Mapping[str, Any]  # the run's, every default written out
    mode_samples: int | None  # images that modes were read of, where they were
    diverged: bool
    measures: Mapping[str, float]
    steps: int
    seconds: float  # of training
    machine: str
    made_by: Mapping[str, Any] = field(default_factory=dict)  # commit, versions, device, precision, ...
    protocol: Mapping[str, Any] = field(default_factory=dict)
    curve: tuple[Mapping[str, float], ...] = ()  # step, seconds and measures where the run was evaluated
    feature_spaces: Mapping[str, Any] = field(default_factory=dict)  # that `fdr` is the mean over, with their protocols


Outcomes = Mapping[str, Mapping[int, Outcome]]  # by arm, then seed
_READER = TypeAdapter(Outcome)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _settings(config: Config, mode_samples: int | None, feature_spaces: Sequence[str]) -> dict[str, Any]:
    """All that a run's outcome depends on, keys joined by dots."""
    asked = {"mode_samples": mode_samples, "feature_spaces": list(feature_spaces)}
    settings = fixed_settings(config.model_dump()) | changeable_settings(config) | asked
    return {key: value for key, value in settings.items() if key != "data.root"}


def changeable_settings(config: Config) -> dict[str, Any]:
    """What a run that goes on may change and its outcome depends on all the same, keys joined by dots."""
    training = {name: getattr(config.training, name) for name in ("steps", "recoveries", "accumulation")}
    return flatten({"training": training, "evaluation": config.evaluation.model_dump(exclude={"batch_size"})})


def outcome_path(results: Path, planned: Planned) -> Path:
    """Where the outcome of a run is kept."""
    return results / ("" if planned.trial is None else "tuning") / f"{planned.name}.json"


def load_outcome(results: Path, planned: Planned) -> Outcome | None:
    """The kept outcome of a run; None if there is none.

    Raises:
        UserError: the file is damaged, or of a run with another config; the keys that differ are named.
    """
    path = outcome_path(results, planned)
    try:
        tree = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
        outcome = _READER.validate_python(tree)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: not an outcome of a run; remove it") from error
    try:
        ran = validate(dict(outcome.config))  # a key that the schema has gained since then is at its default
    except UserError as error:
        raise UserError(f"{path}: its config is not accepted any more: {error}") from error
    before = _settings(ran, outcome.mode_samples, list(outcome.feature_spaces))
    now = _settings(planned.config, planned.modes_read, planned.feature_spaces)
    if changed := [key for key in sorted(before.keys() | now.keys()) if before.get(key, ...) != now.get(key, ...)]:
        listed = "; ".join(f"{key} was {_shown(before, key)}, now {_shown(now, key)}" for key in changed[:3])
        raise UserError(f"{path}: an outcome of another config ({listed}); remove it, or give other results")
    return outcome


def _shown(settings: Mapping[str, Any], key: str) -> str:
    return repr(settings[key]) if key in settings else "not there"


def save_outcome(results: Path, planned: Planned, outcome: Outcome) -> None:
    """Keep an outcome."""
    write_text(outcome_path(results, planned), json.dumps(asdict(outcome), indent=1) + "\n")


def read_outcome(
    planned: Planned,
    run: Path,
    diverged: bool,
    extra: Mapping[str, float],
    spaces: Mapping[str, Protocol],
    device: str,
    threads: int,
) -> Outcome:
    """The outcome of the run in directory `run`, which `device` made with so many `threads`.

    `extra` are measures taken of it afterwards; `spaces` says how FDr was taken in each feature space, if it was.

    Raises:
        UserError: the run was not scored.
    """
    log = read_log(run / LOG)
    precision = resolve_precision(planned.config.training.precision, resolve_device(device))
    measures, protocol = dict(extra), {}
    if not diverged:
        result = load_result(run / "evaluations", planned.config.training.steps, planned.config.evaluation)
        if result is None:
            raise UserError(f"{run}: the run is over but was not scored; evaluation.at_end must be true")
        protocol = result.protocol.to_dict()
        measures |= {
            name: result.metrics[metric.keys[0]] for name, metric in METRICS.items() if metric.keys[0] in result.metrics
        }
    return Outcome(
        arm=planned.arm,
        seed=planned.seed,
        config=without_root(planned.config),
        mode_samples=planned.modes_read,
        diverged=diverged,
        measures=measures,
        steps=int(log[-1]["step"]) if log else 0,
        seconds=_seconds(run, log),
        machine=machine_name(device, threads),
        made_by=provenance() | {"device": device, "threads": threads, "precision": precision},
        protocol=protocol,
        curve=tuple(curve(log)),
        feature_spaces={name: spaces[name].to_dict() if name in spaces else {} for name in planned.feature_spaces},
    )


def without_root(config: Config) -> dict[str, Any]:
    """A run's config, but for where this machine keeps its prepared images."""
    tree = config.model_dump()
    tree["data"]["root"] = type(config.data).model_fields["root"].default
    return tree


def _seconds(run: Path, log: list[dict[str, float]]) -> float:
    """How long a run trained, its pauses left out."""
    trained = [line for line in log if TRAINING in line]
    if trained and ELAPSED not in trained[-1]:
        raise UserError(f"{run}: its log has no {ELAPSED}; remove it, and it is trained again")
    return trained[-1][ELAPSED] if trained else 0.0  # nothing is logged where the first values are not finite


def curve(log: list[dict[str, float]]) -> list[dict[str, float]]:
    """Scores by step and seconds of training, and the last line's diagnostics.

    Seconds between two lines that tell them are interpolated: steps of one run take about the same time.
    """
    points = []
    timed = np.array([(0.0, 0.0), *((line["step"], line[ELAPSED]) for line in log if ELAPSED in line)])
    for line in log:
        step = int(line["step"])
        kept = {name: value for name, value in line.items() if name.startswith("evaluation/") and math.isfinite(value)}
        if kept:
            seconds = float(np.interp(step, timed[:, 0], timed[:, 1]))
            points.append({"step": step, "seconds": round(seconds, 3), **kept})
    diagnosed = [line for line in log if any(name.startswith("stages/") for name in line)]
    if diagnosed:
        finite = {name: value for name, value in diagnosed[-1].items() if math.isfinite(value)}
        last = {name: value for name, value in finite.items() if name.startswith(CURVES[1:])}
        points.append({"step": diagnosed[-1]["step"], **last})
    return points


def provenance() -> dict[str, Any]:
    """Commit of this code, whether its tree was clean, and the versions it ran on; None for what cannot be told."""
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return {
        "commit": commit,
        "clean": None if changes is None or commit is None else not changes,
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}},
    }


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def machine_name(device: str, threads: int) -> str:
    if torch.cuda.is_available() and not device.startswith("cpu"):
        return torch.cuda.get_device_name(None if device == "auto" else device)
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{model}, {threads} thread{'' if threads == 1 else 's'}"
