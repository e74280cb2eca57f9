"""A comparison: one base config, arms that change it, seeds, and the rules by which it decides."""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from gan.config import Config, Positive, Section, apply_override, check, load_tree, validate
from gan.errors import UserError, nearest
from gan.experiments.verdicts import Rule
from gan.metrics.table import METRICS
from gan.scoring.digit_readers import DIGIT_READERS

MODES = ("modes", "kl_modes")  # exact ones, of digits that a classifier reads
RATIO = "fdr"  # a mean over `feature_spaces`, see `gan.scoring.ratio`

Seed = Annotated[int, Field(ge=0, lt=2**31)]
Scale = Literal["log", "linear"]


def lower_is_better(measure: str) -> bool:
    """Whether less of a measure is better."""
    return not METRICS[measure].higher_is_better if measure in METRICS else _is_divergence(measure)


class Primary(Section):
    """The measure that decides, fixed before anything is run."""

    measure: str
    scale: Scale | None = None  # null: log for distances and divergences, linear for what has a sign or a ceiling
    target: float | None = None  # steps and minutes until the measure reaches it are reported as well
    # so many of a run's last measurements are averaged, geometrically on a log scale; 1: the finished run's alone
    points: Positive = 1

    @field_validator("measure")
    @classmethod
    def _is_known(cls, measure: str) -> str:
        known = [*METRICS, *MODES, RATIO]
        if measure not in known:
            raise ValueError(f"no {measure!r}{nearest(measure, known)}")
        return measure

    @property
    def log(self) -> bool:
        """Whether differences are log ratios."""
        return (self.scale or default_scale(self.measure)) == "log"


def default_scale(measure: str) -> Scale:
    """The scale of a measure where nothing else is said."""
    multiplicative = METRICS[measure].multiplicative if measure in METRICS else _is_divergence(measure)
    return "log" if multiplicative else "linear"


def _is_divergence(measure: str) -> bool:
    """Of those that are no metrics: the modes' KL, and FDr, of one feature space or of all."""
    return measure == "kl_modes" or measure.partition(" ")[0] == RATIO


class Tuning(Section):
    """A small search that every arm gets alike: all combinations of the grid, on seeds that are then discarded."""

    seeds: Annotated[list[Seed], Field(min_length=1)]
    grid: Annotated[dict[str, Annotated[list[Any], Field(min_length=1)]], Field(min_length=1)]

    @property
    def points(self) -> list[tuple[str, ...]]:
        """Every combination, as overrides `section.key=value`."""
        axes = [[f"{key}={json.dumps(value)}" for value in values] for key, values in self.grid.items()]
        return list(itertools.product(*axes))


def _as_primary(value: Any) -> Any:
    return {"measure": value} if isinstance(value, str) else value


def require_different(seeds: Sequence[int]) -> None:
    """Check that no seed would count twice.

    Raises:
        ValueError: one is there twice.
    """
    if len(set(seeds)) < len(seeds):
        raise ValueError("seeds: one appears twice; different ones accepted")


def require_file_names(arms: Iterable[str]) -> None:
    """Check that files may be called by the arms' names.

    Raises:
        ValueError: there are other signs in one, such as those that lead to another folder.
    """
    for name in arms:
        if not name.replace("_", "").replace("-", "").isalnum():
            raise ValueError(f"arms.{name}: letters, digits, '_' and '-' accepted")


class Plan(Section):
    """What any comparison of arms over seeds fixes before a run; the first arm is what the others are compared with."""

    question: str
    arms: Annotated[dict[str, Any], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)]
    # `fixed`: a verdict when all seeds are in; or numbers of seeds, the last of them all, at which one may be read
    looks: Literal["fixed"] | list[int] = "fixed"
    # further pairs [first, second], whose difference second − first is reported as well
    also_compare: Annotated[list[Annotated[list[str], Field(min_length=2, max_length=2)]], Field(default_factory=list)]
    primary: Annotated[Primary, BeforeValidator(_as_primary), Field(default=Primary(measure="fid"))]
    resolve: Annotated[float, Field(gt=0, lt=1)] = 0.05  # less is no difference: of a ratio, or of the base's mean
    results: str | None = None  # folder that keeps the outcomes, relative to this file; null: in the experiment's own

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        require_different(self.seeds)
        looks = [len(self.seeds)] if self.looks == "fixed" else self.looks
        if sorted({*looks}) != looks or looks[-1:] != [len(self.seeds)] or (len(looks) > 1 and looks[0] < 2):
            raise ValueError(f"looks: {looks} found; ascending numbers from 2 on, the last {len(self.seeds)}, accepted")
        for name in (name for pair in self.also_compare for name in pair):
            if name not in self.arms:
                raise ValueError(f"also_compare: no arm {name!r}{nearest(name, self.arms)}")
        require_file_names(self.arms)
        return self

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Base and arm of every difference: each arm against the first, then the further pairs."""
        base, *others = self.arms
        return [(base, arm) for arm in others] + [(first, second) for first, second in self.also_compare]

    def require_on_scale(self, value: float, arm: str, seed: int) -> None:
        """Check that the primary measure's scale has the value of a run.

        Raises:
            UserError: it has a logarithm alone of positive ones.
        """
        if self.primary.log and value <= 0:
            raise UserError(
                f"primary.scale: log found, but {self.primary.measure} of arm {arm}, seed {seed} is {value:g}; "
                "accepted: scale: linear, or more samples, if it is 0 because they are few"
            )

    @property
    def rule(self) -> Rule:
        """How the primary measure is compared."""
        looks = (len(self.seeds),) if self.looks == "fixed" else tuple(self.looks)
        return Rule(self.primary.log, lower_is_better(self.primary.measure), self.resolve, looks)


class ComparisonConfig(Plan):
    """Everything a comparison of training runs depends on."""

    task: Literal["comparison"]
    base: str  # config of a run, relative to this file
    settings: Annotated[list[str], Field(default_factory=list)]  # overrides for all arms, `section.key=value`
    arms: Annotated[dict[str, list[str]], Field(min_length=1)]  # overrides for each
    tuning: Tuning | None = None
    mode_samples: Positive = 10_000  # images that modes are read of, where they can be
    # extractors over which `fdr` is the mean, taken once a run is over; none: it is not taken
    feature_spaces: Annotated[list[str], Field(default_factory=list)]

    @model_validator(mode="after")
    def _tunes_on_other_seeds(self) -> Self:
        if self.tuning is not None and (shared := sorted({*self.tuning.seeds} & {*self.seeds})):
            raise ValueError(f"tuning.seeds: {shared[0]} is among seeds; others accepted, for they are discarded")
        return self


@dataclass(frozen=True)
class Planned:
    """One run of a comparison; `trial` is the point of the tuning grid that it tries, None for a run that counts."""

    arm: str
    seed: int
    config: Config
    mode_samples: int
    trial: int | None = None
    feature_spaces: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"{self.arm}{'' if self.trial is None else f'_trial{self.trial}'}_seed{self.seed}"

    @property
    def has_modes(self) -> bool:
        """Whether the data have modes that a classifier is to read once the run is over, for no metric does."""
        return self.config.data.source in DIGIT_READERS and "mode_count" not in self.config.evaluation.metrics

    @property
    def modes_read(self) -> int | None:
        """Images that modes are read of, where the data have modes."""
        return self.mode_samples if self.has_modes else None


@dataclass(frozen=True)
class Comparison:
    """A comparison with every run's config resolved.

    `trials` are the runs of its tuning; `runs` are those that count, with every arm's tuned values once `tuned` has
    been given them, until then with the base's.
    """

    config: ComparisonConfig
    folder: Path  # of its file
    results: Path
    trials: tuple[Planned, ...]
    runs: tuple[Planned, ...]

    def tuned(self, chosen: Mapping[str, Sequence[str]]) -> "Comparison":
        """The same with the overrides that tuning chose for each arm."""
        return replace(self, runs=_runs(self.config, self.folder, chosen))


def load_comparison(path: Path, overrides: tuple[str, ...], out: Path) -> Comparison:
    """Read an experiment's file and resolve the config of every arm with every seed, seed by seed.

    Raises:
        UserError: a key, value or override of the file, its base or an arm is not accepted.
    """
    tree = load_tree(path, overrides)
    if tree.get("task") != "comparison":
        found = repr(tree["task"]) + " found" if "task" in tree else "missing"
        other = "heads on frozen features have no runs for --list, --task and --summary"
        other = other if tree.get("task") == "frozen_stages" else "other configs are for `gan train`"
        raise UserError(f"{path}: task: {found}, 'comparison' accepted; {other}")
    config = check(ComparisonConfig, tree)
    if config.feature_spaces:
        from gan.metrics.extractors.catalogue import require_known  # here, because its registry takes seconds to import

        for name in config.feature_spaces:
            require_known(name, "feature_spaces")
    results = out / "results" if config.results is None else path.parent / config.results
    trials: list[Planned] = []
    if config.tuning is not None:
        for seed, (trial, point) in itertools.product(config.tuning.seeds, enumerate(config.tuning.points)):
            trials += [_plan(config, path.parent, arm, seed, point, trial) for arm in config.arms]
    return Comparison(config, path.parent, results, tuple(trials), _runs(config, path.parent, {}))


def _runs(config: ComparisonConfig, folder: Path, chosen: Mapping[str, Sequence[str]]) -> tuple[Planned, ...]:
    return tuple(
        _plan(config, folder, arm, seed, chosen.get(arm, ()), None) for seed in config.seeds for arm in config.arms
    )


def _plan(
    config: ComparisonConfig, folder: Path, arm: str, seed: int, more: Sequence[str], trial: int | None
) -> Planned:
    """One run; `more` overrides come after the arm's own."""
    tree = load_tree(folder / config.base, config.settings)
    try:
        for change in (*config.arms[arm], *more):
            apply_override(tree, change)
        run = validate({**tree, "seed": seed})
    except UserError as error:
        raise UserError(f"arms.{arm}: {error}") from error
    primary = config.primary.measure
    if not run.evaluation.at_end:
        raise UserError(f"arms.{arm}: evaluation.at_end: false found, true accepted in a comparison")
    if primary in METRICS and primary not in run.evaluation.metrics:
        raise UserError(f"primary: {primary} found, but evaluation.metrics of arm {arm} lacks it")
    planned = Planned(arm, seed, run, config.mode_samples, trial, tuple(config.feature_spaces))
    if primary == RATIO and not config.feature_spaces:
        raise UserError(f"primary: {RATIO} found, but feature_spaces names no extractor; accepted: one and more")
    if primary in MODES and not planned.has_modes:
        raise UserError(
            f"primary: {primary} found, accepted for {', '.join(DIGIT_READERS)} alone, where mode_count is no metric"
        )
    if config.primary.points > 1 and (primary not in METRICS or _measurements(run) < config.primary.points):
        raise UserError(
            f"primary.points: {config.primary.points} found, but arm {arm} is measured {_measurements(run)} times; "
            "accepted with one of the metrics, and evaluation.every above 0"
        )
    if config.primary.target is not None and (primary not in METRICS or not run.evaluation.every):
        raise UserError(
            f"primary.target: {config.primary.target} found, but arm {arm} does not measure {primary} in training; "
            "accepted with evaluation.every above 0 and one of its metrics"
        )
    return planned


def _measurements(run: Config) -> int:
    """How often a run is measured, its end included."""
    every = run.evaluation.every
    return 1 + ((run.training.steps - 1) // every if every else 0)
