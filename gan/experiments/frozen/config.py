"""The schema of a comparison of heads on frozen features: a fixed generator, an extractor, heads that train alone."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from gan.config import Positive, Rate, Section
from gan.config.schema import HeadConfig
from gan.errors import nearest
from gan.experiments.comparison import Plan, Primary, Seed
from gan.experiments.verdicts import Rule

# what a run measures on vectors that no head was trained on, beside auc_1, auc_2, ... of each stage; AUCs and the error
# of the read-out with `_early` are those at the early step
MEASURES = (
    "readout_error", "correlation", "correlation_within_real", "correlation_within_fake", "effective_number",
)  # fmt: skip
EARLY = "_early"


def is_measure(name: str) -> bool:
    """Whether a run measures it."""
    stage = name.removesuffix(EARLY).removeprefix("auc_")
    return name in MEASURES or name == f"readout_error{EARLY}" or (name.startswith("auc_") and stage.isdigit())


class FrozenPrimary(Primary):
    """The measure that decides: 1 − AUC of a linear read-out of all stages, by its logarithm."""

    measure: str = "readout_error"
    scale: Literal["log", "linear"] | None = "log"

    @field_validator("measure")
    @classmethod
    def _is_known(cls, measure: str) -> str:
        if not is_measure(measure):
            raise ValueError(f"no {measure!r}{nearest(measure, [*MEASURES, 'auc_1', 'auc_2'])}")
        return measure


class FixedGenerator(Section):
    """A run that is trained once, before everything else, and whose samples are the fakes of all arms."""

    base: str  # config of the run, relative to this file
    settings: Annotated[list[str], Field(default_factory=list)]  # overrides of it, `section.key=value`
    seed: Seed = 0


class FrozenFeatures(Section):
    """Feature vectors of the images."""

    train: Annotated[int, Field(ge=2)] = 6000  # real images, and as many fakes, that heads are trained on
    test: Annotated[int, Field(ge=2)] = 4000  # of each kind, that they are measured on
    width: Positive = 128  # F, after the random mixing


class HeadTraining(Section):
    """Adam on the hinge loss of every stage, averaged."""

    steps: Positive = 5000
    early: Positive = 100  # a step at which heads are measured as well
    batch_size: Positive = 64  # of real vectors, and as many fake ones
    lr: Rate = 1e-3

    @model_validator(mode="after")
    def _early_is_early(self) -> Self:
        if self.early >= self.steps:
            raise ValueError(f"early: {self.early} found, less than steps ({self.steps}) accepted")
        return self


class FrozenArm(Section):
    """A head, and whether it sees whitened features."""

    head: HeadConfig
    whiten: bool = False


class Prediction(Section):
    """What is expected of a measure's mean over seeds, written down before any run.

    It is below or above a number, or, with `than`, that of another arm.
    """

    says: str
    arm: str
    measure: str
    direction: Literal["below", "above"]
    value: float | None = None
    than: str | None = None

    @model_validator(mode="after")
    def _can_be_checked(self) -> Self:
        if (self.value is None) == (self.than is None):
            raise ValueError("one of value and than accepted")
        if not is_measure(self.measure):
            raise ValueError(f"measure: no {self.measure!r}{nearest(self.measure, [*MEASURES, 'auc_1', 'auc_2'])}")
        return self


class FrozenConfig(Plan):
    """Everything the experiment depends on; the first arm is what the others are compared with."""

    task: Literal["frozen_stages"]
    generator: FixedGenerator
    features: FrozenFeatures = FrozenFeatures()
    training: HeadTraining = HeadTraining()
    arms: Annotated[dict[str, FrozenArm], Field(min_length=1)]
    primary: FrozenPrimary = FrozenPrimary()
    predictions: Annotated[list[Prediction], Field(default_factory=list)]

    @model_validator(mode="after")
    def _predicts_of_arms(self) -> Self:
        for prediction in self.predictions:
            for name in filter(None, (prediction.arm, prediction.than)):
                if name not in self.arms:
                    raise ValueError(f"predictions: no arm {name!r}{nearest(name, self.arms)}")
        return self

    @property
    def rule(self) -> Rule:
        """How the primary measure is compared; less of an error or a correlation is better, more of the others."""
        looks = (len(self.seeds),) if self.looks == "fixed" else tuple(self.looks)
        lower = self.primary.measure.startswith(("readout_error", "correlation"))
        return Rule(self.primary.log, lower, self.resolve, looks)
