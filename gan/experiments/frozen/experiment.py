"""A comparison of heads on frozen features from its file to its report; `gan.experiments.compare` hands it over.

First the fixed generator is trained, as any run is, then features are computed, then every arm's head is trained with
every seed. Each step is kept, and not repeated where it is there.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch
from pydantic import TypeAdapter

from gan.build import prepare_images
from gan.config import Config, check, load_tree, validate
from gan.device import resolve_device
from gan.errors import NonFiniteError, UserError
from gan.experiments.frozen.config import FrozenConfig
from gan.experiments.frozen.features import levels_of_both, mixed
from gan.experiments.frozen.report import write_report
from gan.experiments.frozen.training import build_head, train_head
from gan.experiments.outcomes import Outcome, machine_name, provenance
from gan.experiments.report import finding
from gan.experiments.runner import train
from gan.files import write_text
from gan.sampling.generate import LoadedGenerator
from gan.sampling.open import open_generator
from gan.training.run_directory import RunDirectory, fixed_settings, flatten

TASK = "frozen_stages"
_READER = TypeAdapter(Outcome)


class FrozenExperiment:
    """The experiment of a file.

    Args:
        file: of the experiment.
        overrides: of the file, `key=value`.
        out: its directory.

    Raises:
        UserError: a key, value or override is not accepted, or an arm cannot be built.
    """

    def __init__(self, file: Path, overrides: tuple[str, ...], out: Path) -> None:
        self.file = file
        self.out = out
        self.config = check(FrozenConfig, load_tree(file, overrides))
        self.results = out / "results" if self.config.results is None else file.parent / self.config.results
        self.run = _generator_config(file.parent, self.config)
        for name, arm in self.config.arms.items():
            build_head(name, arm, self.config.features.width, self.config.seeds[0])

    def compare(self, jobs: int, devices: Sequence[str]) -> str:
        """Run what is missing, look by look until every pair is decided, and report."""
        if jobs > 1:
            raise UserError(f"--jobs: {jobs} found, 1 accepted: heads on frozen features train one after the other")
        device = resolve_device(devices[0])
        with RunDirectory(self.out).claimed():
            write_text(self.out / "experiment.yaml", self.file.read_text(encoding="utf-8"))
            count = max(self.config.rule.looks) * len(self.config.arms)
            if len(self._kept()) < count and not finding(self.config, self.outcomes()).decided:
                generator = self._fixed_generator(devices[0])
                store = prepare_images(self.run.data)
                levels = levels_of_both(self.config.features, store, generator, device, self.out / "features")
                made_by = {"generator": generator.description.digest, "images": store.content_hash}
                before = 0
                for look in self.config.rule.looks:
                    for seed in self.config.seeds[before:look]:
                        self._run_seed(seed, levels, made_by)
                    before = look
                    if finding(self.config, self.outcomes()).decided:
                        break
        return self.report()

    def report(self) -> str:
        """Report on the outcomes that are there."""
        text = write_report(self.config, self.outcomes(), self.out)
        return f"{text}\nreport: {self.out / 'report.md'}, {self.out / 'report.html'}"

    def outcomes(self) -> dict[str, dict[int, Outcome]]:
        """The outcomes that are there, by arm and seed, all of one generator.

        Raises:
            UserError: one is damaged, of another config, or of another generator than the others.
        """
        kept = self._kept()
        pictures = {(outcome.made_by.get("generator"), outcome.made_by.get("images")): path for path, outcome in kept}
        if len(pictures) > 1:
            paths = " and ".join(str(path) for path in [*pictures.values()][:2])
            raise UserError(f"{paths}: of different generators or images, which are not put together; remove one kind")
        found: dict[str, dict[int, Outcome]] = {arm: {} for arm in self.config.arms}
        for _, outcome in kept:
            found[outcome.arm][outcome.seed] = outcome
        return found

    def _kept(self) -> list[tuple[Path, Outcome]]:
        kept = []
        for seed in self.config.seeds:
            for arm in self.config.arms:
                if (outcome := self._load(arm, seed)) is not None:
                    kept.append((self._path(arm, seed), outcome))
        return kept

    def _fixed_generator(self, device: str) -> LoadedGenerator:
        directory = self.out / "generator"
        click.echo(f"the fixed generator: {self.run.training.steps} steps in {directory}", err=True)
        if train(self.run, directory, device, torch.get_num_threads(), "generator"):
            raise NonFiniteError(f"{directory}: training of the fixed generator diverged; choose other settings")
        return open_generator(directory, device=device)

    def _run_seed(self, seed: int, levels: tuple[torch.Tensor, torch.Tensor], made_by: dict[str, str]) -> None:
        vectors = {
            whiten: mixed(levels, self.config.features, seed, whiten=whiten)
            for whiten in {arm.whiten for arm in self.config.arms.values()}
        }
        for number, (name, arm) in enumerate(self.config.arms.items(), start=1):
            if self._load(name, seed) is not None:
                continue
            start = time.perf_counter()
            head = build_head(name, arm, self.config.features.width, seed)
            trained = train_head(head, vectors[arm.whiten], self.config.training, seed)
            threads = torch.get_num_threads()
            outcome = Outcome(
                arm=name,
                seed=seed,
                config=self._settings(name),
                mode_samples=None,
                diverged=trained.diverged,
                measures=trained.measures,
                steps=self.config.training.steps,
                seconds=time.perf_counter() - start,
                machine=machine_name("cpu", threads),
                made_by=provenance() | {"device": "cpu", "threads": threads, **made_by},
            )
            write_text(self._path(name, seed), json.dumps(asdict(outcome), indent=1) + "\n")
            state = "diverged" if outcome.diverged else "finished"
            click.echo(f"seed {seed} [{number}/{len(self.config.arms)}] {name:32} {state}", err=True)

    def _settings(self, arm: str) -> dict[str, Any]:
        """All that an outcome depends on, seed aside."""
        config = self.config
        sections = {key: getattr(config, key).model_dump() for key in ("features", "training")}
        generator = fixed_settings(self.run.model_dump()) | {"training.steps": self.run.training.steps}
        elsewhere = ("data.path", "data.root")  # what is in them is told by `made_by`
        generator = {key: value for key, value in generator.items() if key not in elsewhere}
        return {**sections, "arm": config.arms[arm].model_dump(), "generator": generator}

    def _path(self, arm: str, seed: int) -> Path:
        return self.results / f"{arm}_seed{seed}.json"

    def _load(self, arm: str, seed: int) -> Outcome | None:
        path = self._path(arm, seed)
        try:
            outcome = _READER.validate_python(json.loads(path.read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path}: not an outcome of this experiment; remove it") from error
        before, now = dict(outcome.config), self._settings(arm)
        if isinstance(generator := before.get("generator"), dict):
            told = flatten(self.run.model_dump(exclude_defaults=True))
            gained = {key: value for key, value in now["generator"].items() if key not in told}
            before["generator"] = gained | generator  # a key that the schema has gained since then is at its default
        if changed := [key for key in now if before.get(key) != now[key]]:
            raise UserError(
                f"{path}: an outcome of another config ({', '.join(changed)} differ); remove it, or give other results"
            )
        return outcome


def if_frozen(file: Path, overrides: tuple[str, ...], out: Path) -> FrozenExperiment | None:
    """The experiment of a file of this task; None for one of another."""
    return FrozenExperiment(file, overrides, out) if load_tree(file, overrides).get("task") == TASK else None


def _generator_config(folder: Path, config: FrozenConfig) -> Config:
    section = config.generator
    try:
        tree = load_tree(folder / section.base, [*section.settings, "evaluation.at_end=false", "evaluation.every=0"])
        run = validate({**tree, "seed": section.seed})
    except UserError as error:
        raise UserError(f"generator: {error}") from error
    if run.evaluation.best is not None:
        raise UserError("generator: evaluation.best found; the fixed generator is that of the last step")
    return run
