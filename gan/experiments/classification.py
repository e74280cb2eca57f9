"""Does rejection help a classifier? Arms that differ in the last layer, each trained with every seed, and a report."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from gan.allocator import keep_freed_memory
from gan.build import build_backbone, prepare_images
from gan.config import BackboneConfig, DataConfig, Positive, Rate, Section, check
from gan.data.loader import Loader, to_float
from gan.data.sources import source_info
from gan.data.store import ImageStore
from gan.errors import NonFiniteError, UserError
from gan.experiments.comparison import require_different, require_file_names
from gan.experiments.page import table, with_interval
from gan.experiments.statistics import paired_difference
from gan.files import write_text
from gan.models.blocks.spectral_norm import update_spectral_norms
from gan.models.classifier import CascadingClassifier
from gan.progress import passing
from gan.scoring.reference_images import reference_images
from gan.seeds import derive_seed, seeded

TRAIN_SAMPLE = 10_000  # training images, at even distances, on which training accuracy is measured
COLUMNS = {"test_accuracy": "test accuracy %", "accuracy_gap": "train − test %", "test_loss": "test loss"}


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

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        require_different(self.seeds)
        require_file_names(self.arms)
        return self


@dataclass(frozen=True)
class Sets:
    """Training and test images, with labels."""

    train: ImageStore
    test: ImageStore


def run_classifier(config: ClassifierConfig, device: torch.device, out: Path) -> str:
    """Train every arm with every seed unless its result lies in `out` already; returns the report.

    Raises:
        UserError: the images have no labels, an arm cannot be built, or `out` holds results of another config.
        NonFiniteError: training diverged.
    """
    keep_freed_memory()
    sets = _labelled_sets(config)
    if sets.train.num_images < config.training.batch_size:
        found, most = config.training.batch_size, sets.train.num_images
        raise UserError(f"training.batch_size: {found} found; at most the {most} training images accepted")
    for name, arm in config.arms.items():  # a mistake in the last arm is found before the first is trained
        build_classifier(config, name, arm, config.seeds[0], sets.train)
    for seed in config.seeds:
        for name, arm in config.arms.items():
            path = out / "results" / f"{name}_seed{seed}.json"
            settings = _settings(config, arm, seed)
            if not _is_done(path, settings):
                result = train_classifier(config, name, seed, sets, device)
                write_text(path, json.dumps({"settings": settings, **result}, indent=2) + "\n")
    return write_report(out, list(config.arms), config.seeds)


def _labelled_sets(config: ClassifierConfig) -> Sets:
    sets = Sets(prepare_images(config.data), reference_images(config.data, path=config.test_path))
    if sets.train.content_hash == sets.test.content_hash:
        raise UserError("test_path: null found, and no test images beside data.path; a file or folder accepted")
    for key, store in {"data": sets.train, "test_path": sets.test}.items():
        if not store.has_labels:
            raise UserError(f"{key}: images without labels found; labelled ones accepted")
    if sets.train.class_names != sets.test.class_names:
        raise UserError("test_path: its classes are not those of data")
    return sets


def _settings(config: ClassifierConfig, arm: Arm, seed: int) -> dict[str, Any]:
    return {**config.model_dump(exclude={"arms", "seeds"}), "arm": arm.model_dump(), "seed": seed}


def _is_done(path: Path, settings: dict[str, Any]) -> bool:
    """Whether a result of these settings is there."""
    try:
        tree = dict(json.loads(path.read_text(encoding="utf-8"))["settings"])
        arm, seed = tree.pop("arm"), tree.pop("seed")
        ran = check(ClassifierConfig, {**tree, "arms": {"ran": arm}, "seeds": [seed]})
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError, UserError) as error:
        raise UserError(f"{path}: not a result of this experiment; remove it") from error
    saved = _settings(ran, ran.arms["ran"], seed)  # a key that the schema has gained since then is at its default
    changed = sorted(key for key in settings.keys() | saved.keys() if settings.get(key) != saved.get(key))
    if changed:
        raise UserError(f"{path}: a result of another config ({', '.join(changed)} differ); choose another --out")
    return True


def build_classifier(config: ClassifierConfig, name: str, arm: Arm, seed: int, train: ImageStore) -> nn.Sequential:
    """Backbone and last layer; the backbone's initial weights do not depend on the arm."""
    backbone = build_backbone("backbone", config.backbone, seed, train.resolution, train.channels)
    with seeded(seed, "head"):
        try:
            head = CascadingClassifier(backbone.out_features, train.num_classes, arm.stages, arm.removal)
        except ValueError as error:
            raise UserError(f"arms.{name}.{error}") from error
    return nn.Sequential(backbone, head)


def train_classifier(
    config: ClassifierConfig, name: str, seed: int, sets: Sets, device: torch.device
) -> dict[str, float | list[float]]:
    """Train one arm with one seed; arms of one seed share batches and the backbone's start. Returns its measures."""
    training = config.training
    network = build_classifier(config, name, config.arms[name], seed, sets.train).to(device)
    network = network.to(memory_format=torch.channels_last)
    flip = source_info(config.data.source).flip_sensible if config.data.flip is None else config.data.flip
    loader = Loader(
        sets.train, training.batch_size, device, flip=flip, seed=derive_seed(seed, "data"), channels_last=True
    )
    steps = training.epochs * (sets.train.num_images // training.batch_size)
    optimizer = torch.optim.AdamW(network.parameters(), training.lr, weight_decay=training.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in passing(range(steps), f"{name}, seed {seed}", "steps"):
        images, labels = loader.next_batch()
        assert labels is not None
        update_spectral_norms(network)
        loss = mean_cross_entropy(network(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0 and not torch.isfinite(loss):
            raise NonFiniteError(f"arm {name}, seed {seed}: the loss became {loss.item()} by step {step}")
    found = measure(network, sets, device)
    if not math.isfinite(float(found["test_loss"])):  # type: ignore[arg-type]
        raise NonFiniteError(f"arm {name}, seed {seed}: the loss was not finite by step {steps}")
    return found


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """A cross-entropy for each stage's logits `(B, N, K)`, then their mean over stages and samples."""
    return F.cross_entropy(logits.transpose(1, 2), labels.unsqueeze(1).expand(-1, logits.shape[1]))


def measure(network: nn.Module, sets: Sets, device: torch.device) -> dict[str, float | list[float]]:
    """Accuracy, in per cent, and cross-entropy of the stages' mean probability; their gaps; accuracy of each stage."""
    network.eval()
    train = _accuracies(network, sets.train, device, TRAIN_SAMPLE)
    test = _accuracies(network, sets.test, device, None)
    return {
        "test_accuracy": test[0],
        "train_accuracy": train[0],
        "accuracy_gap": train[0] - test[0],
        "test_loss": test[1],
        "loss_gap": test[1] - train[1],
        "stage_test_accuracy": test[2],
    }


@torch.inference_mode()
def _accuracies(
    network: nn.Module, store: ImageStore, device: torch.device, count: int | None
) -> tuple[float, float, list[float]]:
    count = min(count or store.num_images, store.num_images)
    chosen = torch.arange(count) * store.num_images // count
    right, loss, stages_right = 0, 0.0, torch.zeros(1, device=device)
    for indices in chosen.split(500):
        images = to_float(torch.from_numpy(store.images[indices.numpy()]).to(device).permute(0, 3, 1, 2))
        assert store.labels is not None
        labels = torch.from_numpy(store.labels[indices.numpy()]).to(device)
        logits = network(images.contiguous(memory_format=torch.channels_last))  # (B, N, K)
        mean = logits.softmax(-1).mean(1)
        right += int((mean.argmax(-1) == labels).sum())
        loss += float(F.nll_loss(mean.clamp_min(1e-12).log(), labels, reduction="sum"))
        stages_right = stages_right + (logits.argmax(-1) == labels.unsqueeze(1)).sum(0)
    return 100 * right / count, loss / count, (100 * stages_right / count).tolist()


def write_report(out: Path, arms: Sequence[str], seeds: Sequence[int]) -> str:
    """Write report.md and report.json to `out`; returns the text."""
    results = {arm: [_read(out / "results" / f"{arm}_seed{seed}.json") for seed in seeds] for arm in arms}
    text = "\n".join([*_means(results), "", *_differences(results), "", *_stages(results), ""])
    write_text(out / "report.md", text)
    write_text(out / "report.json", json.dumps(results, indent=2) + "\n")
    return f"{text}\nreport         {out / 'report.md'}"


def _read(path: Path) -> dict[str, Any]:
    saved: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {name: value for name, value in saved.items() if name != "settings"}


def _means(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    seeds = len(next(iter(results.values())))
    rows = [[arm, *(with_interval([run[name] for run in runs]) for name in COLUMNS)] for arm, runs in results.items()]
    return [f"Mean ± half a 95 % t interval, {seeds} seeds:", "", *table(["arm", *COLUMNS.values()], rows)]


def _differences(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    base, *others = results
    rows = []
    for arm in others:
        cells = []
        for name in COLUMNS:
            pair = ([run[name] for run in results[base]], [run[name] for run in results[arm]])
            difference = paired_difference(*pair)
            cells.append(f"{difference.mean:+.3g} [{difference.low:+.3g}, {difference.high:+.3g}]")
        rows.append([arm, *cells])
    title = f"Paired difference from {base}, seed by seed, 95 % t interval:"
    return [title, "", *table(["arm", *COLUMNS.values()], rows)] if others else []


def _stages(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    rows = []
    for arm, runs in results.items():
        columns = zip(*(run["stage_test_accuracy"] for run in runs), strict=True)
        rows.append([arm, ", ".join(f"{sum(column) / len(column):.2f}" for column in columns)])
    return ["Test accuracy of each stage alone, %:", "", *table(["arm", "stages, from the first"], rows)]
