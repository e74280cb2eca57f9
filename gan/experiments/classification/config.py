"""The schema of a classification experiment: arms that differ in the last layer, each trained with every seed."""

from typing import Annotated, Literal

from pydantic import Field

from gan.config import BackboneConfig, DataConfig, Positive, Rate, Section


class ClassifierTraining(Section):
    """AdamW with the rate falling to 0 along a cosine."""

    epochs: Positive
    batch_size: Annotated[int, Field(ge=2)] = 128
    lr: Rate = 1e-3
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0


class Arm(Section):
    """A last layer, as `CascadingClassifier` takes it."""

    stages: Positive = 1
    removal: Literal["class", "span", "none"] = "span"


class ClassifierConfig(Section):
    """Everything the experiment depends on; the first arm is what the others are compared with."""

    task: Literal["classification"]
    data: DataConfig
    test_path: str | None = None  # file or folder of test images; null: beside data.path, or the source's test split
    backbone: BackboneConfig
    training: ClassifierTraining
    arms: Annotated[dict[str, Arm], Field(min_length=1)]
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]
