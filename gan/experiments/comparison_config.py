"""The schema of a comparison: one base config, arms that change it, seeds, and the measure that decides."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from gan.audits.digit_readers import DIGIT_READERS
from gan.config import Config, Positive, Section, apply_override, check, load_tree, validate
from gan.errors import UserError, nearest
from gan.metrics.results import HIGHER_IS_BETTER, RESULT_KEYS

MODES = ("modes", "kl_modes")  # exact ones, of digits that a classifier reads


class ComparisonConfig(Section):
    """Everything a comparison depends on; the first arm is what the others are compared with."""

    task: Literal["comparison"]
    question: str
    base: str  # config of a run, relative to this file
    settings: Annotated[list[str], Field(default_factory=list)]  # overrides for all arms, `section.key=value`
    arms: Annotated[dict[str, list[str]], Field(min_length=1)]  # overrides for each
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]
    # further pairs [first, second], whose difference second − first is reported as well
    also_compare: Annotated[list[Annotated[list[str], Field(min_length=2, max_length=2)]], Field(default_factory=list)]
    primary: str = "fid"  # the measure that decides, fixed before anything is run
    resolve: Annotated[float, Field(gt=0, lt=1)] = 0.05  # a difference, as a share of the first arm's mean
    results: str | None = None  # folder that keeps the outcomes, relative to this file; null: in the experiment's own
    bootstrap: Positive = 10_000
    mode_samples: Positive = 10_000  # images that modes are read of, where they can be

    @model_validator(mode="after")
    def _measures_are_known(self) -> "ComparisonConfig":
        known = [*RESULT_KEYS, *MODES]
        if self.primary not in known:
            raise ValueError(f"primary: no {self.primary!r}{nearest(self.primary, known)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: one appears twice; different ones accepted")
        for name in (name for pair in self.also_compare for name in pair):
            if name not in self.arms:
                raise ValueError(f"also_compare: no arm {name!r}{nearest(name, self.arms)}")
        for name in self.arms:
            if not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(f"arms.{name}: letters, digits, '_' and '-' accepted")
        return self


@dataclass(frozen=True)
class Planned:
    """One run of a comparison."""

    arm: str
    seed: int
    config: Config
    mode_samples: int

    @property
    def has_modes(self) -> bool:
        """Whether the data have modes that a classifier reads."""
        return self.config.data.source in DIGIT_READERS

    @property
    def modes_read(self) -> int | None:
        """Images that modes are read of, where the data have modes."""
        return self.mode_samples if self.has_modes else None


@dataclass(frozen=True)
class Comparison:
    """A comparison with every run's config resolved."""

    config: ComparisonConfig
    runs: tuple[Planned, ...]
    results: Path

    @property
    def lower_is_better(self) -> bool:
        """Of the primary measure."""
        return self.config.primary not in (*HIGHER_IS_BETTER, "modes")


def load_comparison(path: Path, overrides: tuple[str, ...], out: Path) -> Comparison:
    """Read an experiment's file and resolve the config of every arm with every seed, seed by seed.

    Raises:
        UserError: a key, value or override of the file, its base or an arm is not accepted.
    """
    tree = load_tree(path, overrides)
    if tree.get("task") != "comparison":
        found = repr(tree["task"]) + " found" if "task" in tree else "missing"
        raise UserError(f"{path}: task: {found}, 'comparison' accepted; other configs are for train.py")
    config = check(ComparisonConfig, tree)
    runs = []
    for seed in config.seeds:
        for arm, changes in config.arms.items():
            tree = load_tree(path.parent / config.base, config.settings)
            try:
                for change in changes:
                    apply_override(tree, change)
                run = validate({**tree, "seed": seed})
            except UserError as error:
                raise UserError(f"arms.{arm}: {error}") from error
            if not run.evaluation.at_end:
                raise UserError(f"arms.{arm}: evaluation.at_end: false found, true accepted in a comparison")
            if config.primary in RESULT_KEYS and config.primary not in run.evaluation.metrics:
                raise UserError(f"primary: {config.primary} found, but evaluation.metrics of arm {arm} lacks it")
            if config.primary in MODES and run.data.source not in DIGIT_READERS:
                raise UserError(f"primary: {config.primary} found, accepted for {', '.join(DIGIT_READERS)} alone")
            runs.append(Planned(arm, seed, run, config.mode_samples))
    results = out / "results" if config.results is None else path.parent / config.results
    return Comparison(config, tuple(runs), results)
