"""Experiments: the classifier's cascade against a loop, statistics against scipy, reports that rerunning keeps."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy import stats
from torch import Tensor, nn

from gan.data.image_store import ImageStore
from gan.experiments import classification
from gan.experiments.classification import Sets, measure
from gan.experiments.statistics import estimate, paired_difference
from gan.models.classifier import CascadingClassifier
from gan.models.heads.cascade import cascade_scores
from tests import ROOT
from train import main

F, K, B = 40, 5, 7
EXPERIMENT = ROOT / "configs" / "experiments" / "cifar10_classifier.yaml"
TINY = [
    "data={source: digits, resolution: 32, root: %s}", "backbone.width=4", "training.epochs=1", "seeds=[0, 1]",
    "arms={linear: {removal: none}, span: {stages: 2}}",
]  # fmt: skip


def make(stages: int, removal: str, classes: int = K) -> tuple[CascadingClassifier, Tensor]:
    torch.manual_seed(stages)
    head = CascadingClassifier(F, classes, stages, removal).double()
    torch.nn.init.normal_(head.bias)
    return head, torch.randn(B, F, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("stages", [1, 2, 4, 8])
def test_a_stage_sees_nothing_of_the_span_of_the_one_before(stages: int) -> None:
    head, features = make(stages, "span")
    left, logits = features, []
    for table in head.weight:  # (K, F)
        logits.append(left @ table.T)
        basis, _ = torch.linalg.qr(table.T)
        left = left - left @ basis @ basis.T
    expected = torch.stack(logits, 1) + head.bias
    torch.testing.assert_close(head(features), expected, rtol=1e-9, atol=1e-9)
    ours, theirs = (
        torch.autograd.grad(out.pow(3).sum(), [features, *head.parameters()]) for out in (head(features), expected)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("removal", ["class", "none"])
def test_every_class_has_a_cascade_of_its_own(removal: str) -> None:
    head, features = make(4, removal)
    rejection = "sequential" if removal == "class" else "none"
    expected = torch.stack([cascade_scores(features, head.weight[:, k], rejection) for k in range(K)], dim=2)
    torch.testing.assert_close(head(features), expected + head.bias, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("removal", ["class", "span"])
def test_with_one_class_both_are_cascading_rejection(removal: str) -> None:
    head, features = make(6, removal, classes=1)
    expected = cascade_scores(features, head.weight[:, 0]) + head.bias.T
    torch.testing.assert_close(head(features)[:, :, 0], expected, rtol=1e-9, atol=1e-9)


def test_more_spans_than_features_are_refused() -> None:
    with pytest.raises(ValueError, match="stages: 9 found, 1 to 8 accepted"):
        CascadingClassifier(F, K, 9, "span")


def test_intervals_are_scipys() -> None:
    values = np.random.default_rng(0).normal(3, 2, 9)
    found = estimate(list(values))
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)
    assert found.deviation == pytest.approx(values.std(ddof=1), rel=1e-12)
    other = values + np.random.default_rng(1).normal(0.5, 1, 9)
    low, high = stats.ttest_rel(other, values).confidence_interval(0.95)
    difference = paired_difference(list(values), list(other))
    assert (difference.low, difference.high) == pytest.approx((low, high), rel=1e-12)


def test_intervals_cover_as_often_as_they_say() -> None:
    random = np.random.default_rng(2)
    found = [estimate(list(random.normal(1, 3, 5))) for _ in range(4000)]
    assert 0.93 <= np.mean([one.low <= 1 <= one.high for one in found]) <= 0.97


def test_one_value_has_no_interval() -> None:
    assert estimate([2.0]).low == -math.inf
    with pytest.raises(ValueError, match="no values"):
        estimate([])


class Normalised(nn.Module):
    """One stage that reads a class off each channel, behind batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.norm(images).mean((2, 3)).unsqueeze(1)
        return logits


def test_accuracy_does_not_depend_on_the_other_images_of_the_set() -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3), np.uint8)
    store = ImageStore(images, np.arange(12) % 3, tuple("abc"), "hash", "npz", "train")
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
    right = (pixels.mean((2, 3)).argmax(1).numpy() == store.labels).mean()  # running statistics are 0 and 1
    network = Normalised()
    assert measure(network, Sets(store, store), torch.device("cpu"))["test_accuracy"] == pytest.approx(100 * right)
    assert network.norm.num_batches_tracked == 0


class Looked(nn.Module):
    """A network of two stages whose logits `(N, 2, classes)` are given: an image's grey is its row."""

    def __init__(self, logits: np.ndarray) -> None:
        super().__init__()
        self.logits = torch.from_numpy(logits)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits[((images[:, 0, 0, 0] + 1) * 127.5).round().long()]


def test_measures_are_those_of_the_mean_probability_and_of_each_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classification, "TRAIN_SAMPLE", 6)
    random = np.random.default_rng(5)
    logits, labels = random.normal(0, 2, (24, 2, 3)), random.integers(3, size=24)

    def store(rows: range) -> ImageStore:
        images = np.broadcast_to(np.array(rows)[:, None, None, None], (12, 4, 4, 3)).astype(np.uint8)
        return ImageStore(images, labels[rows.start : rows.stop], tuple("abc"), "hash", "made", "made")

    found = classification.measure(
        Looked(logits), classification.Sets(store(range(12)), store(range(12, 24))), torch.device("cpu")
    )
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)

    def accuracy_and_loss(rows: list[int]) -> tuple[float, float]:
        mean = probabilities[rows].mean(axis=1)
        losses = [-math.log(mean[place, labels[row]]) for place, row in enumerate(rows)]
        return 100 * float((mean.argmax(axis=1) == labels[rows]).mean()), float(np.mean(losses))

    train, test = accuracy_and_loss([*range(0, 12, 2)]), accuracy_and_loss([*range(12, 24)])
    stages = [100 * (logits[12:, stage].argmax(axis=1) == labels[12:]).mean() for stage in (0, 1)]
    assert stages[0] != stages[1] and train[0] != test[0]
    assert found.pop("stage_test_accuracy") == pytest.approx(stages)
    assert found == pytest.approx(
        {
            "test_accuracy": test[0],
            "train_accuracy": train[0],
            "accuracy_gap": train[0] - test[0],
            "test_loss": test[1],
            "loss_gap": test[1] - train[1],
        }
    )


def test_the_loss_is_the_mean_over_images_and_stages() -> None:
    logits, labels = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0)).double(), [0, 2, 1, 1, 0]
    losses = [
        -math.log(math.exp(logits[row, stage, label]) / sum(math.exp(value) for value in logits[row, stage]))
        for row, label in enumerate(labels)
        for stage in range(2)
    ]
    found = classification.mean_cross_entropy(logits, torch.tensor(labels))
    assert found.item() == pytest.approx(np.mean(losses))


def test_the_report_has_the_arm_less_the_first_one_seed_by_seed(tmp_path: Path) -> None:
    measured = {"base": [(50.0, 9.0, 1.5), (60.0, 8.0, 1.4), (70.0, 5.0, 1.1)],
                "cascade": [(53.0, 6.0, 1.7), (62.0, 6.5, 1.5), (75.0, 2.0, 1.3)]}  # fmt: skip
    for arm, runs in measured.items():
        for seed, (accuracy, gap, loss) in enumerate(runs):
            result = {"test_accuracy": accuracy, "accuracy_gap": gap, "test_loss": loss, "stage_test_accuracy": [1.0]}
            (tmp_path / "results").mkdir(exist_ok=True)
            (tmp_path / "results" / f"{arm}_seed{seed}.json").write_text(json.dumps(result))
    text = classification.write_report(tmp_path, [*measured], [0, 1, 2]).partition("Paired difference from base")[2]
    row = next(line for line in text.splitlines() if line.startswith("| cascade |"))
    for cell, values in zip(row.split("|")[2:5], np.subtract(measured["cascade"], measured["base"]).T, strict=True):
        low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert cell.strip() == f"{values.mean():+.3g} [{low:+.3g}, {high:+.3g}]"


def run(*overrides: str, out: Path) -> tuple[int, str]:
    arguments = [part for override in overrides for part in ("--set", override)]
    result = CliRunner().invoke(main, [str(EXPERIMENT), *arguments, "--out", str(out), "--device", "cpu"])
    return result.exit_code, result.output


def test_finished_arms_are_kept_and_a_lost_one_is_trained_to_the_same_numbers(tmp_path: Path) -> None:
    settings = [TINY[0] % tmp_path, *TINY[1:]]
    status, _ = run(*settings, out=tmp_path / "out")
    assert status == 0
    report = (tmp_path / "out" / "report.md").read_text()
    results = sorted((tmp_path / "out" / "results").iterdir())
    assert [path.stem for path in results] == ["linear_seed0", "linear_seed1", "span_seed0", "span_seed1"]
    measured = json.loads(results[2].read_text())
    assert len(measured["stage_test_accuracy"]) == 2 and 0 <= measured["test_accuracy"] <= 100
    kept = {path.name: path.stat().st_mtime_ns for path in results[:3]}
    results[3].unlink()
    assert run(*settings, out=tmp_path / "out")[0] == 0
    assert {path.name: path.stat().st_mtime_ns for path in results[:3]} == kept
    assert (tmp_path / "out" / "report.md").read_text() == report


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epoch=3", "training.epoch: unknown key; did you mean 'training.epochs'?"),
        ("arms.linear.stage=2", "arms.linear.stage: unknown key"),
        ("arms.span.stages=40", "arms.span.stages: 40 found, 1 to 25 accepted"),
        ("arms={}", "arms: {} found"),
        ("seeds=[]", "seeds: [] found"),
        ("seeds=[0, 0]", "seeds: one appears twice"),
        ("arms={../linear: {}}", "arms.../linear: letters, digits, '_' and '-' accepted"),
        ("training.batch_size=2000", "training.batch_size: 2000 found; at most the 1437 training images accepted"),
        ("backbone.name=vgg", "backbone.name: no 'vgg'"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(override: str, message: str, tmp_path: Path) -> None:
    status, output = run(TINY[0] % tmp_path, *TINY[1:], override, out=tmp_path / "out")
    assert status == 2
    assert message in output and "Traceback" not in output
    assert not (tmp_path / "out").exists()


def test_results_of_another_config_are_not_mixed_in(tmp_path: Path) -> None:
    settings = [TINY[0] % tmp_path, *TINY[1:]]
    assert run(*settings, "seeds=[0]", out=tmp_path / "out")[0] == 0
    status, output = run(*settings, "training.lr=0.01", out=tmp_path / "out")
    assert status == 2 and "a result of another config (training differ)" in output
