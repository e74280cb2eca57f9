"""The schema of a run: frozen, strict, and the only place where defaults live.

A config is a YAML file, readable alone, plus overrides `section.key=value` whose values are YAML too. An unknown key, a
wrong type or a value out of range is refused in one line that names the key and what is accepted.
"""

import os
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from gan.config.core_schema import dump_yaml

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0, le=1)]
Options = dict[str, Any]
AugmentationName = Literal["color", "translation", "cutout", "ada_geometry", "ada_color"]


def from_home(path: str | None) -> str | None:
    """A path with `~` written out, which shells do only at the beginning of a word."""
    return None if path is None else os.path.expanduser(path)  # noqa: PTH111


class Section(BaseModel):
    """Base of all sections: immutable, no unknown keys, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Checked = TypeVar("Checked", bound=Section)


class DataConfig(Section):
    """Which images, and how they are prepared."""

    source: str  # where images come from: a name of the table of sources
    path: str | None = None  # the folder or file, for the sources that read one
    split: str = "train"  # which of the source's splits is trained on
    # side that images are brought to: the short side is resized, the centre cropped
    resolution: Annotated[int, Field(ge=8, le=1024)] = 32
    classes: int | list[str] | None = None  # which classes of a folder: names, or the first so many; null: all
    images_per_class: Positive | None = None  # how many images of each class of a folder, the first ones; null: all
    skip_corrupt: bool = False  # leave out and name files of a folder that cannot be read, instead of refusing them
    count: Positive | None = None  # how many images to compose, for stacked_digits
    # mirror images left to right at random; null: unless the source is one of digits, so say false for text of your own
    flip: bool | None = None
    root: str = "outputs/data"  # where prepared arrays and downloads live

    _home = field_validator("path", "root")(from_home)


class AttentionConfig(Section):
    """Self-attention in a network, after the blocks that reach the resolutions."""

    name: str  # one of attention.md
    resolutions: Annotated[list[Positive], Field(min_length=1)]  # sides of the maps that it is put behind
    heads: Positive = 1  # that share the channels
    options: Options = {}  # of this attention


class GeneratorConfig(Section):
    """The generator."""

    name: str  # one of models.md
    width: Positive  # scales all channels
    latent_dim: Positive = 128  # normal numbers that an image is made of
    attention: AttentionConfig | None = None
    options: Options = {}  # of this network


class BackboneConfig(Section):
    """The feature extractor of the discriminator."""

    name: str  # one of models.md
    width: Positive  # scales all channels
    attention: AttentionConfig | None = None
    options: Options = {}  # of this network


class HeadConfig(Section):
    """What turns features into scores."""

    name: str  # one of the README's table of heads
    options: Options = {}  # of this head


class DiscriminatorConfig(Section):
    """Backbone and head."""

    backbone: BackboneConfig
    head: HeadConfig
    packing: Positive = 1  # images that are judged together, over their channels (PacGAN)


class RegularizerConfig(Section):
    """A term added to a player's loss, every `interval` steps with `interval` times its weight."""

    weight: Annotated[float, Field(gt=0)]  # what the term is multiplied by
    interval: Positive = 1  # steps from one time to the next
    options: Options = {}  # of this regulariser


class LossConfig(Section):
    """The adversarial loss, taken of every stage's score. A name alone stands for it where there are no options."""

    name: str = "hinge"  # one of objectives.md
    options: Options = {}  # of this loss

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, given: Any) -> Any:
        if isinstance(given, str):
            return {"name": given}
        if isinstance(given, dict | LossConfig):
            return given
        raise ValueError(f"{given!r} found; a name or a mapping with the keys name and options accepted")

    @model_serializer(mode="wrap")
    def _shortest(self, dump: SerializerFunctionWrapHandler) -> Any:
        return dump(self) if self.options else self.name


class TopKConfig(Section):
    """Which share of its samples, the best ones, the generator is trained on: from all, times `decay` every step."""

    fraction: Rate  # at the end
    decay: Rate = 0.9999  # of the share, every step


class ObjectiveConfig(Section):
    """The adversarial loss; how the stages' losses are averaged; what is added to them."""

    loss: LossConfig = LossConfig()
    # λ: uniform; geometric, each half of the one before; learned as a softmax; or one number a stage, scaled to sum 1
    stage_weights: Literal["uniform", "geometric", "learned"] | list[Annotated[float, Field(ge=0)]] = "uniform"
    generator_stages: Literal["all", "first"] = "all"  # which scores the generator is trained on
    top_k: TopKConfig | None = None
    regularizers: dict[str, RegularizerConfig] = {}


class AugmentationConfig(Section):
    """What happens to images, real and fake, before the discriminator sees them."""

    # of color, translation, cutout, ada_geometry and ada_color
    operations: Annotated[list[AugmentationName], Field(min_length=1)]
    # of the probability with which an operation is applied, by its name; 1 where none is given
    shares: dict[AugmentationName, Annotated[float, Field(gt=0, le=1)]] = {}
    probability: Annotated[float, Field(ge=0, le=1)] | None = None  # null: 1, or 0 at the start of an adaptive one
    target: Annotated[float, Field(gt=-1, lt=1)] | None = None  # of the reals' mean sign; null: a fixed probability
    images_to_full: Positive = 500_000  # real images from probability 0 to 1, when adaptive

    @model_validator(mode="after")
    def _shares_are_of_operations(self) -> "AugmentationConfig":
        if others := [name for name in self.shares if name not in self.operations]:
            raise ValueError(f"shares: {others[0]!r} found, which is none of operations: {', '.join(self.operations)}")
        return self


class OptimizerConfig(Section):
    """Adam, one for each player."""

    generator_lr: Rate = 2e-4  # learning rate
    discriminator_lr: Rate = 2e-4  # learning rate
    # of the first and the second moment
    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)] = [0.0, 0.9]
    epsilon: Rate = 1e-8  # added to the root of the second moment
    # linear: to 0 from the first step; half_linear: from half way
    schedule: Literal["constant", "linear", "half_linear"] = "linear"


class TrainingConfig(Section):
    """The loop."""

    steps: Positive  # of the generator; a run that goes on may have more, and its decay of learning rates follows
    batch_size: Annotated[int, Field(ge=2)] = 64  # of all processes together
    accumulation: Positive = 1  # micro-batches that each process splits its share of a batch into, to save memory
    sync_batch_norm: bool = True  # with several processes: normalise over the batch of all of them
    discriminator_steps: Positive = 1  # per generator step
    shared_latents: bool = False  # the generator is given the latents of the discriminator's step: fakes are made once
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 where the hardware computes it
    channels_last: bool = True  # layout of feature maps
    recoveries: NonNegative = 0  # how often to go back to the newest checkpoint, with new random numbers, after a NaN
    init_from: str | None = None  # run, step and digest of the weights that training began with; --init-from writes it
    compile: bool = False  # both players and their power iterations by torch.compile, which takes a minute at the start
    # each player's update as one CUDA graph, the optimiser's step included; off CUDA as usual
    cuda_graphs: bool = False

    @model_validator(mode="after")
    def _micro_batches_are_equal(self) -> "TrainingConfig":
        if self.batch_size % self.accumulation:
            raise ValueError(f"accumulation {self.accumulation} does not divide batch_size {self.batch_size}")
        return self

    @model_validator(mode="after")
    def _graphs_are_of_one_batch(self) -> "TrainingConfig":
        if self.cuda_graphs and self.accumulation > 1:
            raise ValueError(f"accumulation: {self.accumulation} found; with cuda_graphs 1 is accepted")
        if self.cuda_graphs and self.shared_latents:
            raise ValueError("shared_latents: true found; with cuda_graphs false is accepted")
        return self

    @model_validator(mode="after")
    def _shared_latents_are_of_one_step(self) -> "TrainingConfig":
        for name in ("accumulation", "discriminator_steps"):
            if self.shared_latents and getattr(self, name) > 1:
                raise ValueError(f"{name}: {getattr(self, name)} found; with shared_latents 1 is accepted")
        return self


class EmaConfig(Section):
    """Exponential moving average of the generator, which samples and scores are taken from."""

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.999  # what stays of the average in a step
    # real images after which half of a weight is left in the average; instead of decay
    half_life: Annotated[float, Field(ge=0)] | None = None
    warm_up: bool = True  # decay_t = min(decay, (1 + t)/(10 + t))


class MotionConfig(Section):
    """How a setting moves: from its value in the config to another, where it stays."""

    to: float | list[float]  # where it ends
    images: Positive  # real images that it takes
    shape: Literal["cosine", "linear"] = "cosine"  # half a cosine, or a straight line


MOVABLE = (
    "optimizer.generator_lr", "optimizer.discriminator_lr", "optimizer.betas", "ema.decay", "ema.half_life",
    "augmentation.probability", "objective.regularizers.NAME.weight",
)  # fmt: skip
_RATES = MOVABLE[:2]  # which a captured graph reads where they lie


class LoggingConfig(Section):
    """Intervals in steps."""

    scalars_every: Positive = 50  # losses and diagnostics; the only steps that wait for the device
    samples_every: Positive = 500  # grids of the average generator
    sample_count: Annotated[int, Field(ge=1, le=400)] = 64  # images in a grid


class CheckpointConfig(Section):
    """Saving."""

    every: Positive = 1000  # steps
    keep: Positive = 2  # of the newest; older ones go once a new one is whole


class EvaluationConfig(Section):
    """Scoring of the average generator."""

    every: NonNegative = 0  # steps, but the last, which is at_end's; 0: only at the end
    # names of the table of metrics (docs/evaluation.md)
    metrics: Annotated[list[str], Field(min_length=1)] = ["fid"]
    extractor: str = "efficientnet_lite0"  # needs no download; inception for published numbers
    weights: str | None = None  # file of the extractor's weights, where it takes one
    weights_sha256: str | None = None  # of a file that is not the official one: at least 8 digits
    # extractor: in its own way; antialiased: bicubic as clean-fid does
    resize: Literal["extractor", "antialiased"] = "extractor"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # of the extractor's arithmetic
    compile: bool = False  # the extractor, where that leaves its features alone
    bootstrap: NonNegative = 0  # resamplings for 95 % intervals; 0: none
    samples: Annotated[int, Field(ge=2)] = 5000  # generated images
    seed: NonNegative = 0  # of the latents; not the run's, so that runs of different seeds can be compared
    label_sampling: Literal["uniform", "reference"] = "uniform"  # reference: as often as the reference has them
    reference: str = "auto"  # the split to measure against; auto: the test split where there is one
    reference_path: str | None = None  # file or folder to measure against, for sources that read one
    reference_samples: Annotated[int, Field(ge=2)] | None = None  # null: all
    batch_size: Positive = 50  # images at a time
    at_end: bool = True  # score the finished run
    best: str | None = None  # which of the metrics decides what is kept as checkpoints/best.pt; null: nothing is

    _home = field_validator("weights", "reference_path")(from_home)

    @model_validator(mode="after")
    def _best_is_measured(self) -> "EvaluationConfig":
        if self.best is not None and self.best not in self.metrics:
            raise ValueError(f"best {self.best!r} is not among the metrics; accepted: {', '.join(self.metrics)}")
        if self.best is not None and not (self.every or self.at_end):
            raise ValueError(
                f"best {self.best!r} found, and every: 0 with at_end: false, which never score; accepted: null"
            )
        return self


class Config(Section):
    """Everything a run depends on, device aside."""

    data: DataConfig
    conditional: bool = False  # whether both players are given the labels
    generator: GeneratorConfig
    discriminator: DiscriminatorConfig
    objective: ObjectiveConfig = ObjectiveConfig()
    augmentation: AugmentationConfig | None = None
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig
    ema: EmaConfig = EmaConfig()
    schedules: dict[str, MotionConfig] = {}  # settings that move while training goes on, by their keys
    logging: LoggingConfig = LoggingConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0  # all random numbers of training follow from it

    @model_validator(mode="after")
    def _stage_weights_are_usable(self) -> "Config":
        weights = self.objective.stage_weights
        if isinstance(weights, list) and sum(weights) <= 0:
            raise ValueError("objective.stage_weights: at least one must be positive")
        if isinstance(weights, list) and self.objective.generator_stages == "first" and weights[0] == 0:
            raise ValueError("objective.stage_weights: 0 found first; with generator_stages: first, more accepted")
        return self

    @model_validator(mode="after")
    def _packs_are_judged_alone(self) -> "Config":
        packing = self.discriminator.packing
        if packing > 1 and self.conditional:
            raise ValueError(f"discriminator.packing: {packing} found; with conditional: true 1 is accepted")
        if packing > 1 and self.objective.regularizers:
            named = ", ".join(self.objective.regularizers)
            raise ValueError(f"discriminator.packing: {packing} found; with the regularizers {named} 1 is accepted")
        return self

    @model_validator(mode="after")
    def _what_moves_can(self) -> "Config":
        for key, section in self.schedules.items():
            where, start = f"schedules.{key}", self.value(key)
            if start is None:
                raise ValueError(f"{where}: no number that training reads is there; accepted: {', '.join(MOVABLE)}")
            if self.training.cuda_graphs and key not in _RATES:
                raise ValueError(f"{where}: found; with training.cuda_graphs {', '.join(_RATES)} are accepted")
            if key == "augmentation.probability" and self.augmentation and self.augmentation.target is not None:
                raise ValueError(f"{where}: found; with augmentation.target none is accepted, for that moves it")
            if key == "ema.decay" and self.ema.half_life is not None:
                raise ValueError(f"{where}: found; with ema.half_life none is accepted")
            try:  # the end has to be a value that the key takes
                self.with_value(key, section.to)
            except ValidationError as error:
                message = error.errors(include_url=False)[0]["msg"]
                raise ValueError(f"{where}.to: {section.to} found; {message}") from error
        return self

    def value(self, key: str) -> Any:
        """What stands at a movable key such as `optimizer.betas`; None where nothing does, or nothing movable."""
        parts = key.split(".")
        name = "NAME" if parts[:2] == ["objective", "regularizers"] and len(parts) == 4 else None
        if ".".join(name if name and index == 2 else part for index, part in enumerate(parts)) not in MOVABLE:
            return None
        found: Any = self
        for part in parts:
            found = found.get(part) if isinstance(found, dict) else getattr(found, part)
            if found is None:
                return None
        return found

    def with_value(self, key: str, value: Any) -> "Config":
        """A config without schedules that has `value` at a movable key.

        Raises:
            ValidationError: the key takes no such value.
        """
        tree = self.model_dump() | {"schedules": {}}
        *path, last = key.split(".")
        place = tree
        for part in path:
            place = place[part]
        place[last] = value
        return Config.model_validate(tree)

    def to_yaml(self) -> str:
        """The resolved config, every default written out."""
        return dump_yaml(self.model_dump())
