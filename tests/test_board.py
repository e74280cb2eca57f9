"""What TensorBoard is given, read back by TensorBoard's own reader."""

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard import SummaryWriter

from gan.config import load_config
from gan.metrics.protocol import Protocol, ReferenceIdentity
from gan.metrics.results import Result, score_tags
from gan.metrics.table import METRICS
from gan.models.heads import HEADS
from gan.training.board import charts, hyperparameters
from gan.training.event_files import SETTINGS, event_files
from gan.training.tracking import Tracker
from tests import DEFAULT
from tests.test_training import lines, run

SCORED = ["evaluation.at_end=true", "evaluation.samples=6", "evaluation.reference_samples=8", "conditional=true"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A conditional run of six steps, scored at its end."""
    out = tmp_path_factory.mktemp("runs") / "quick"
    run(out, data, *SCORED)
    return out


def read(directory: Path) -> EventAccumulator:
    board = EventAccumulator(str(directory), size_guidance={"images": 0, "scalars": 0, "tensors": 0})
    board.Reload()
    return board


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    board = read(directory)
    return {tag: [(event.step, event.value) for event in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


def everything(directory: Path) -> list[tuple[int, str]]:
    """Steps and tags of all that the files hold, in the order of a reader that purges nothing."""
    events = [event for path in event_files(directory) for event in EventFileLoader(str(path)).Load()]
    return [(event.step, value.tag) for event in events for value in event.summary.value]


def plugin(directory: Path, tag: str) -> HParamsPluginData:
    content = read(directory).SummaryMetadata(f"_hparams_/{tag}").plugin_data.content
    return HParamsPluginData.FromString(content)


def test_tensorboard_has_every_number_of_the_log(finished: Path) -> None:
    shown, found = scalars(finished), {}
    for line in map(json.loads, (finished / "metrics.jsonl").read_text().splitlines()):
        for name, value in line.items():
            found.setdefault(name, []).append((line["step"], value))
    found.pop("step")
    tag = "evaluation/FD (efficientnet_lite0, 6 vs 8 all)"
    found[tag] = found.pop("evaluation/frechet_distance")
    assert shown.keys() == found.keys()
    for name, points in found.items():
        assert shown[name] == [(step, pytest.approx(value, rel=1e-6)) for step, value in points]


def test_a_run_is_one_folder_without_another_in_it(finished: Path) -> None:
    assert {path.parent for path in finished.parent.rglob("*tfevents*")} == {finished}
    assert event_files(finished)[0].name == SETTINGS


def test_settings_are_flat_and_say_nothing_of_the_machine(finished: Path, data: Path) -> None:
    found = dict(plugin(finished, "session_start_info").session_start_info.hparams)
    expected = {
        "seed": 0, "training.batch_size": 8, "training.steps": 6, "generator.name": "dcgan", "data.source": "digits",
        "discriminator.head.name": "cascading_rejection", "conditional": "true", "optimizer.betas": "[0.5, 0.999]",
    }  # fmt: skip
    plain = {name: getattr(value, value.WhichOneof("kind")) for name, value in found.items()}
    assert expected.items() <= {**plain, "optimizer.betas": expected["optimizer.betas"]}.items()
    assert json.loads(plain["optimizer.betas"]) == load_config(DEFAULT, []).optimizer.betas
    assert not [name for name in plain if name.startswith(("logging", "checkpoint", "evaluation"))]
    assert str(data) not in str(plain)
    assert plugin(finished, "session_end_info").session_end_info.status == 1  # STATUS_SUCCESS


def test_settings_follow_a_run_that_is_lengthened(finished: Path, data: Path, tmp_path: Path) -> None:
    longer = tmp_path / "quick"
    shutil.copytree(finished, longer)
    run(longer, data, *SCORED, "training.steps=8")
    hparams = plugin(longer, "session_start_info").session_start_info.hparams
    assert hparams["training.steps"].number_value == 8
    tags = [tag for _, tag in everything(longer)]
    assert tags.count("_hparams_/session_start_info") == tags.count("_hparams_/session_end_info") == 1
    assert tags.count("custom_scalars__config__") == tags.count("config/text_summary") == 1
    (score,) = [points for tag, points in scalars(longer).items() if "FD (" in tag]
    assert [step for step, _ in score] == [6, 8]


@pytest.mark.parametrize("kept", [3, 6])
def test_a_killed_run_goes_on_with_nothing_missing_and_nothing_twice(
    finished: Path, data: Path, tmp_path: Path, kept: int
) -> None:
    killed = tmp_path / "quick"
    shutil.copytree(finished, killed)
    for path in (killed / "checkpoints").iterdir():
        if int(path.stem.removeprefix("step_")) > kept:
            path.unlink()
    if kept == 6:  # as if killed while it was scored
        shutil.rmtree(killed / "evaluations")
        text = (killed / "metrics.jsonl").read_text()
        (killed / "metrics.jsonl").write_text("".join(text.splitlines(keepends=True)[:-1]))
        path = event_files(killed)[-1]
        path.write_bytes(path.read_bytes()[:-150])  # in the middle of an event
        assert not [tag for step, tag in everything(killed) if "FD (" in tag or step > 6]
    with event_files(killed)[-1].open("ab") as file:
        file.write(b"\x09\x00\x00")  # the beginning of an event
    run(killed, data, *SCORED)
    assert everything(killed) == everything(finished)
    timings = ("speed/", "evaluation/seconds")
    boards = [
        {tag: points for tag, points in scalars(path).items() if not tag.startswith(timings)}
        for path in (finished, killed)
    ]
    assert boards[0] == boards[1]
    assert lines(killed) == lines(finished)
    run(killed, data, *SCORED, "training.steps=8")
    (score,) = [points for tag, points in scalars(killed).items() if "FD (" in tag]
    assert [step for step, _ in score] == [6, 8]


def test_events_after_the_step_are_gone_whatever_the_intervals(tmp_path: Path) -> None:
    def points() -> list[tuple[int, float]]:
        return scalars(tmp_path)["loss"]

    tracker = Tracker(tmp_path, -1)
    for step in (10, 20, 30, 40):
        tracker.scalars(step, {"loss": step / 10})
    tracker.close()
    tracker = Tracker(tmp_path, 20)
    tracker.scalars(35, {"loss": 9.0})
    assert points() == [(10, 1.0), (20, 2.0), (35, 9.0)]  # what is written is there at once
    tracker.rewind(20)
    tracker.scalars(25, {"loss": 8.0})
    tracker.rewind(10)
    tracker.close()
    assert points() == [(10, 1.0)]
    assert everything(tmp_path) == [(10, "loss")]
    assert len(event_files(tmp_path)) == 3  # settings, the first start, and the last, which showed nothing yet
    Tracker(tmp_path, -1).close()
    assert everything(tmp_path) == [] and len(event_files(tmp_path)) == 2


def test_clocks_that_disagree_do_not_put_events_out_of_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for start, now in enumerate((2000.0, 2000.5, 1000.0)):
        monkeypatch.setattr("gan.training.event_files.time.time", lambda now=now: now)
        tracker = Tracker(tmp_path, 10 * start - 1)
        tracker.scalars(10 * start, {"loss": float(start)})
        tracker.close()
    assert [step for step, _ in everything(tmp_path)] == [0, 10, 20]
    assert scalars(tmp_path)["loss"] == [(0, 0.0), (10, 1.0), (20, 2.0)]


def test_an_earlier_run_whose_events_lay_in_a_folder_goes_on(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path / "tensorboard"), purge_step=0) as board:
        for step in (0, 10, 20):
            board.add_scalar("loss", step, step)
    foreign = tmp_path / "events.out.tfevents.1.host"
    foreign.touch()
    tracker = Tracker(tmp_path, 10)
    tracker.scalars(20, {"loss": 5.0})
    tracker.close()
    assert scalars(tmp_path) == {"loss": [(0, 0.0), (10, 10.0), (20, 5.0)]}
    assert not (tmp_path / "tensorboard").exists() and foreign.exists()


@pytest.mark.parametrize("name", HEADS)
def test_the_stages_of_one_quantity_share_a_chart(name: str) -> None:
    needed = {"labels": None, "num_classes": 4} if HEADS[name].labels == "required" else {}
    head = HEADS[name](in_features=8, **{key: value for key, value in needed.items() if value})
    assert ("stages" in charts(head)) == (head.stages > 1)


def test_a_chart_has_the_lines_that_it_is_named_after(finished: Path) -> None:
    (event,) = read(finished).Tensors("custom_scalars__config__")
    layout = Layout.FromString(event.tensor_proto.string_val[0])
    shown = list(scalars(finished))
    lines_of = {
        f"{category.title}/{chart.title}": [tag for tag in shown if re.match(chart.multiline.tag[0], tag)]
        for category in layout.category
        for chart in category.chart
    }
    assert all(lines_of.values())
    assert lines_of["stages/auc"] == [f"stages/auc/stage_{stage}" for stage in (1, 2, 3)]
    assert lines_of["players/learning rate"] == ["learning_rate/generator", "learning_rate/discriminator"]
    assert set(lines_of["likeness of stages/mean absolute likeness"]) == {
        "stages/score_correlation", "stages/correlation_within_real", "stages/correlation_within_fake",
        "stages/weight_cosine",
    }  # fmt: skip
    staged = {tag for tag in shown if "/stage_" in tag}
    assert staged == {tag for name, tags in lines_of.items() for tag in tags if name.startswith("stages/")}


def protocol(**changes: object) -> Protocol:
    reference = ReferenceIdentity("cifar10", "test", "0" * 64, 10000, (3, 32, 32))
    values = {
        "extractor": "inception", "extractor_weights": "0", "layer": "2048", "logits_layer": None, "resize": "",
        "dtype": "float32", "reference": reference, "generated_count": 50000, "seed": 0, "weights": "ema",
        "batch_norm": "running", "label_sampling": "none", "inception_splits": 10, "kernel_subsets": 1,
        "kernel_subset_size": 1, "kernel_reference_count": 1, "metric_seed": 0, "precision_neighbours": 3,
        "coverage_neighbours": 5, "neighbour_count": 1, "neighbour_reference_count": 1, "infinity_points": 15,
    }  # fmt: skip
    return Protocol(**{**values, **changes})


def test_the_tag_of_a_score_says_how_it_was_measured() -> None:
    keys = ("frechet_distance", "inception_score_mean", "inception_score_std", "precision", "recall", "mode_count")
    metrics = dict.fromkeys(keys, 1.0)
    official = list(score_tags(Result(metrics, protocol(), 1.0, 1.0)).values())
    how = "inception, 50000 vs 10000 test"
    assert official == [
        f"FID ({how})", f"IS ({how})", f"IS deviation ({how})", f"precision ({how})", f"recall ({how})",
        f"modes ({how})",
    ]  # fmt: skip
    other = score_tags(
        Result(metrics, protocol(extractor="efficientnet_lite0", dtype="bfloat16", generated_count=5000), 1.0, 1.0)
    )
    assert other["frechet_distance"] == "FD (efficientnet_lite0, bfloat16, 5000 vs 10000 test)"
    assert other["inception_score_std"].startswith("class score deviation (efficientnet_lite0, bfloat16,")


@pytest.mark.parametrize("extractor", ["inception", "efficientnet_lite0"])
def test_every_number_of_every_metric_has_a_tag_of_its_own(extractor: str) -> None:
    keys = [key for metric in METRICS.values() for key in metric.keys]
    tags = score_tags(Result(dict.fromkeys(keys, 1.0), protocol(extractor=extractor), 1.0, 1.0))
    assert list(tags) == keys and len(set(tags.values())) == len(keys)


def test_hyperparameters_leave_out_what_is_null() -> None:
    found = hyperparameters({"data": {"path": "/x", "classes": None}, "ema": {"warm_up": True}, "seed": 3})
    assert found == {"ema.warm_up": "true", "seed": 3}


def test_sample_grids_have_a_named_class_a_row(finished: Path) -> None:
    board = read(finished)
    assert [event.step for event in board.Images("samples")] == [0, 3, 6]
    (last,) = [event for event in board.Images("samples") if event.step == 6]
    file = np.asarray(Image.open(finished / "samples" / "samples_00000006.png"))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(last.encoded_image_string)).convert("L")), file)
    assert file.shape[0] == 4 * 33 - 1  # four images are of classes 0, 2, 5, 7
    assert all(file[33 * row : 33 * row + 32, :-32].min() < 100 for row in range(4))
    real = np.asarray(Image.open(finished / "samples" / "real_00000000.png"))
    assert real.shape == file.shape and np.array_equal(real[:, :-32], file[:, :-32])


def test_unconditional_grids_are_as_plain_as_ever(tmp_path: Path, data: Path) -> None:
    run(tmp_path, data, "conditional=false", "training.steps=2", "logging.sample_count=5")
    grid = torch.from_numpy(np.array(Image.open(tmp_path / "samples" / "samples_00000002.png")))
    assert grid.shape == (2 * 33 - 1, 3 * 33 - 1)
    assert (grid[33:, 66:] == 255).all() and (grid[32] == 255).all()
