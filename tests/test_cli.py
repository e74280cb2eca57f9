"""The commands as a user types them."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import compare
import evaluate
import gan.sample
import train
from gan.commands import launch
from gan.commands.image_sets import open_set
from gan.config import load_config
from gan.data import __main__ as prepare
from gan.training.checkpoint import read_checkpoint
from tests import DEFAULT, ROOT
from tests.test_training import TINY, lines, same


def call(command: object, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def settings(data: Path, *overrides: str) -> list[str]:
    scored = ["evaluation.at_end=true", "evaluation.samples=6", "evaluation.reference_samples=8"]
    return [part for value in (*TINY, *scored, f"data.root={data}", *overrides) for part in ("--set", value)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A run of six steps, conditional, scored in the middle and at its end."""
    out = tmp_path_factory.mktemp("runs") / "run"
    options = settings(data, "conditional=true", "evaluation.every=3")
    result = call(train.main, DEFAULT, *options, "--seed", 1, "--device", "cpu", "--out", out)
    assert result.exit_code == 0, result.output
    for shown in ("FD (efficientnet_lite0)", str(out), "samples_00000006.png", "tensorboard --logdir"):
        assert shown in result.stdout
    return out


def saved_result(run: Path) -> dict:
    (path,) = (run / "evaluations").glob("step_00000006_ema_*.json")
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    ("command", "arguments", "told"),
    [
        (train.main, ["--seed", "abc"], "'abc' is not a valid integer range; accepted: a number from 0 to 2147483647"),
        (train.main, ["--seed", -1], "-1 is not in the range 0<=x<=2147483647."),
        (train.main, ["--stes", 3], "No such option '--stes'."),
        (
            evaluate.main,
            ["chekpoint"],
            "no such command 'chekpoint'; did you mean 'checkpoint'? accepted: check",
        ),
        (evaluate.main, ["checkpoint"], "Missing argument 'RUN'."),
        (evaluate.main, ["checkpoint", "x", "--best", "--step", 3], "--best and --step exclude each other"),
        (
            evaluate.main,
            ["images", "a", "b", "--dtype", "float3"],
            "'--dtype': no 'float3'; did you mean 'float32'? accepted: bfloat16, float16, float32",
        ),
        (
            evaluate.main,
            ["images", "digit", "digits"],
            "digit: neither a folder, an .npz file, a run nor a data set; did you mean 'digits'?",
        ),
        (evaluate.main, ["images", "digits:tst", "digits"], "digits has no split 'tst'; did you mean 'test'?"),
        (compare.main, ["x", "--jobs", 0], "0 is not in the range x>=1."),
        (compare.main, [], "Missing argument 'EXPERIMENT...'."),
        (compare.main, ["x", "--task", 0, "--jobs", 4], "--jobs: given, but --task makes one run"),
        (compare.main, ["x", "--task", 0, "--device", "cpu,cuda"], "--device: cpu,cuda found; one accepted"),
        (prepare.main, ["prepare", "--out", "x"], "SOURCE and --resolution are needed, unless there is --verify"),
    ],
)
def test_a_wrong_command_line_is_one_line(command: click.Command, arguments: list[object], told: str) -> None:
    result = call(command, *arguments)
    assert result.exit_code == 2 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert told in line


@pytest.mark.parametrize("delay", [0.4, 0.8, 1.6])
@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_ctrl_c_is_heard_at_any_moment_of_the_start(script: str, delay: float, tmp_path: Path, data: Path) -> None:
    arguments = ["checkpoint", tmp_path] if script == "evaluate.py" else [DEFAULT, *settings(data), "--out", tmp_path]
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors and "Aborted" not in errors
    finished = process.returncode == 2 and script == "evaluate.py"  # there was no run, before the signal came
    assert finished or process.returncode in (-signal.SIGINT, 130), (process.returncode, errors)


def test_a_run_leaves_everything_in_its_directory(run: Path) -> None:
    events = {path.name for path in run.glob("events.out.tfevents.*.gan")}
    assert len(events) == 2  # what is true of the run as a whole, and one for its start
    assert {path.name for path in run.iterdir()} - events == {
        ".lock", "config.yaml", "metrics.jsonl", "evaluations", "samples", "checkpoints",
    }  # fmt: skip
    scored = [line for line in lines(run) if "evaluation/frechet_distance" in line]
    assert [line["step"] for line in scored] == [0, 3, 6]
    logged = {"loss/discriminator", "loss/generator", "scores/margin/stage_3", "gradient_norm/generator"}
    assert logged <= lines(run)[1].keys()
    assert [path.name for path in sorted((run / "samples").iterdir())] == [
        "real_00000000.png", "samples_00000000.png", "samples_00000003.png", "samples_00000006.png",
    ]  # fmt: skip


def test_scoring_again_gives_the_same_number_and_protocol(run: Path) -> None:
    before = saved_result(run)
    again = call(evaluate.main, "checkpoint", run, "--device", "cpu", "--json")
    assert again.exit_code == 0, again.output
    after = json.loads(again.stdout)
    assert after["metrics"] == before["metrics"]
    assert after["protocol"] == before["protocol"]
    assert after["protocol"]["generated_count"] == 6
    assert after["protocol"]["label_sampling"] == "uniform"
    other = call(evaluate.main, "checkpoint", run, "--device", "cpu", "--json", "--raw", "--step", 3, "--samples", 5)
    assert json.loads(other.stdout)["protocol"]["weights"] == "raw"
    assert json.loads(other.stdout)["metrics"] != before["metrics"]


def test_scoring_during_training_changes_nothing_in_it(run: Path, data: Path, tmp_path: Path) -> None:
    options = settings(data, "conditional=true", "evaluation.at_end=false")
    assert call(train.main, DEFAULT, *options, "--seed", 1, "--device", "cpu", "--out", tmp_path / "off").exit_code == 0
    states = [read_checkpoint(path / "checkpoints" / "step_00000006.pt") for path in (run, tmp_path / "off")]
    for state in states:
        state.pop("elapsed")
    assert same(*states)


def test_a_run_that_is_done_is_scored_again_only_if_it_was_not(run: Path, data: Path) -> None:
    options = settings(data, "conditional=true", "evaluation.every=3")
    before = (run / "metrics.jsonl").read_text(), saved_result(run)
    result = call(train.main, DEFAULT, *options, "--seed", 1, "--device", "cpu", "--out", run)
    assert result.exit_code == 0, result.output
    assert "FD (efficientnet_lite0)" in result.stdout
    assert before == ((run / "metrics.jsonl").read_text(), saved_result(run))


def test_a_result_that_was_kept_and_not_logged_is_logged_once(run: Path, data: Path, tmp_path: Path) -> None:
    killed = shutil.copytree(run, tmp_path / "killed")  # between the two
    log = killed / "metrics.jsonl"
    whole = lines(run)
    *before, last = log.read_text().splitlines(keepends=True)
    assert '"evaluation/frechet_distance"' in last
    log.write_text("".join(before))
    options = settings(data, "conditional=true", "evaluation.every=3")
    for _ in range(2):
        result = call(train.main, DEFAULT, *options, "--seed", 1, "--device", "cpu", "--out", killed)
        assert result.exit_code == 0, result.output
        assert lines(killed) == whole


def one_line(result: Result, command: str) -> str:
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.split(": ")[0].split()[0] == command
    return line


def test_a_typo_is_one_line_and_writes_nothing(tmp_path: Path) -> None:
    config = ROOT / "configs" / "cifar10" / "sngan_cr.yaml"
    line = one_line(call(train.main, config, "--set", "generator.widht=64", "--out", tmp_path / "run"), "train")
    assert "generator.widht" in line
    assert "generator.width" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.source=npz"], "data.path"),
        (["data.source=npz", "data.path=absent.npz"], "absent.npz"),
        (["evaluation.extractor=inceptoin"], "did you mean 'inception'"),
        (["evaluation.reference=validation"], "validation"),
        (["evaluation.reference_path=somewhere.npz"], "evaluation.reference_path"),
        (["training.precision=half"], "training.precision"),
    ],
)
def test_what_cannot_be_had_is_said_before_anything_is_written(
    tmp_path: Path, data: Path, overrides: list[str], words: str
) -> None:
    result = call(train.main, DEFAULT, *settings(data, *overrides), "--device", "cpu", "--out", tmp_path / "run")
    assert words in one_line(result, "train")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["objective.loss=hing"], "did you mean 'hinge'"),
        (["evaluation.extractor=inceptoin"], "did you mean 'inception'"),
        (["data.path=somewhere"], "data.path: the source digits does not take it"),
        (["objective.regularizers.r3.weight=1"], "r3: no such regulariser"),
        (["objective.stage_weights=unifrm"], "objective.stage_weights: 'unifrm' found"),
        (["discriminator.head.name=multidimensional"], "--set discriminator.head.options={} leaves out"),
        (["data.source=stacked_mnist", "data.flip=true"], "data.flip: true found; stacked_mnist takes false"),
    ],
)
def test_a_dry_run_refuses_the_names_that_a_run_refuses(overrides: list[str], words: str) -> None:
    flags = [part for override in overrides for part in ("--set", override)]
    line = one_line(call(train.main, DEFAULT, *flags, "--dry-run", "--device", "cpu"), "train")
    assert words in line


def test_a_flip_that_is_refused_is_said_before_anything_is_written(tmp_path: Path, data: Path) -> None:
    np.savez(tmp_path / "train.npz", images=np.zeros((20, 28, 28), np.uint8), labels=np.arange(20) % 10)
    source = ["data.source=stacked_mnist", f"data.path={tmp_path / 'train.npz'}", "evaluation.at_end=false"]
    result = call(train.main, DEFAULT, *settings(data, *source), "--device", "cpu", "--out", tmp_path / "run")
    assert "data.flip: true found" in one_line(result, "train")
    assert not (tmp_path / "run").exists()


def test_a_config_that_no_run_has_written_is_not_replaced(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [*TINY, f"data.root={data}", "training.precision=float32"]
    resolved = load_config(DEFAULT, overrides).to_yaml()
    own = tmp_path / "own" / "config.yaml"
    own.parent.mkdir()
    own.write_text(f"# mine\n{resolved}")  # which parses to the very config of the run
    refused = one_line(call(train.main, own, "--device", "cpu", "--out", own.parent), "train")
    assert f"--out {own.parent}: config.yaml there is of no run" in refused
    assert own.read_text() == f"# mine\n{resolved}" and [*own.parent.iterdir()] == [own]

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    command = (DEFAULT, *[part for one in overrides for part in ("--set", one)], "--device", "cpu")
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(launch, "Tracker", killed)
        assert call(train.main, *command, "--out", out).exit_code == 130
    assert (out / "config.yaml").read_text() == resolved and not (out / "metrics.jsonl").exists()
    for _ in range(2):
        result = call(train.main, *command, "--out", out)
        assert result.exit_code == 0, result.output
        assert lines(out)[-1]["step"] == 6
        shutil.rmtree(out / "checkpoints")  # as if it had been killed before its first one, but after it had a log


def test_runs_and_comparisons_are_told_apart(tmp_path: Path) -> None:
    experiment = ROOT / "configs" / "experiments" / "smoke.yaml"
    assert "gan compare" in one_line(call(train.main, experiment, "--out", tmp_path / "run"), "train")
    assert "gan train" in one_line(call(compare.main, DEFAULT, "--out", tmp_path / "run"), "compare")
    assert not (tmp_path / "run").exists()


def test_a_damaged_checkpoint_is_named_with_the_one_before_it(run: Path, data: Path, tmp_path: Path) -> None:
    broken = tmp_path / "run"
    shutil.copytree(run, broken)
    paths = sorted((broken / "checkpoints").glob("step_*.pt"))
    paths[-1].write_bytes(b"x")
    options = settings(data, "conditional=true", "evaluation.every=3")
    result = call(train.main, DEFAULT, *options, "--seed", 1, "--device", "cpu", "--out", broken)
    line = one_line(result, "train")
    assert paths[-1].name in line
    assert (f"goes on from {paths[-2].name}" if len(paths) > 1 else "no earlier one") in line


def test_an_interrupt_outside_of_training_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gan.commands.launch.launch", interrupted)
    result = call(train.main, DEFAULT, "--device", "cpu", "--out", tmp_path / "run")
    assert result.exit_code == 130
    assert "train: interrupted" in result.output


def test_unknown_devices_are_refused(tmp_path: Path) -> None:
    for device in ("gpu", "meta"):  # meta is a device of torch's, without memory
        line = one_line(call(train.main, DEFAULT, "--device", device, "--out", tmp_path / "run"), "train")
        assert "--device" in line


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (OSError(28, "No space left on device", "metrics.jsonl"), 4, "metrics.jsonl: No space left on device"),
        (RuntimeError("CUDA out of memory. Tried to allocate 20 GiB"), 2, "training.batch_size"),
    ],
)
def test_a_full_disk_and_a_full_device_are_one_line(
    monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, words: str
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(launch, "launch", fail)
    result = call(train.main, DEFAULT, "--device", "cpu")
    assert result.exit_code == status
    (line,) = result.stderr.splitlines()
    assert words in line


def test_images_are_scored_against_images_as_a_generator_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for name in ("first", "second"):
        np.savez(tmp_path / f"{name}.npz", images=random.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8))
    result = call(evaluate.main, "images", "first.npz", "second.npz", "--limit", 5, "--reference-limit", 6, "--json")
    assert result.exit_code == 0, result.output
    protocol = json.loads(result.stdout)["protocol"]
    assert (protocol["generated_count"], protocol["reference"]["count"], protocol["weights"]) == (5, 6, "images")
    same = call(evaluate.main, "images", "second.npz", "second.npz", "--json")
    assert json.loads(same.stdout)["metrics"]["frechet_distance"] == pytest.approx(0, abs=1e-3)
    assert "neither a folder" in one_line(call(evaluate.main, "images", "third", "second.npz"), "evaluate")


def write_classes(folder: Path, *names: str) -> Path:
    """Two images of 32×32 in each class."""
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for image in range(2):
            Image.new("RGB", (32, 32), (20 * number, 100 * image, 0)).save(folder / name / f"{image}.png")
    return folder


def test_a_folder_is_a_prepared_one_where_it_has_the_images(tmp_path: Path) -> None:
    folder, out = write_classes(tmp_path / "folder", "a", "b"), tmp_path / "prepared"
    prepared = call(prepare.main, "prepare", folder, "--out", out, "--resolution", 64, "--processes", 1)
    assert prepared.exit_code == 0, prepared.output
    (folder / "meta.json").write_text("{}")
    for path, resolution in ((folder, 32), (out, 64)):
        found = open_set(str(path), resolution, None, torch.device("cpu"), False, tmp_path / "cache")
        assert found.images.shape == (4, resolution, resolution, 3) and found.class_names == ("a", "b")
    line = one_line(call(evaluate.main, "images", folder, out, "--cache", tmp_path / "cache"), "evaluate")
    assert f"--resolution: 32 found, but {out} was prepared otherwise; accepted: 64" in line


def test_classes_to_prepare_may_be_many_names_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"a_class_with_a_long_name_{number}" for number in range(12)]
    folder, chosen = write_classes(tmp_path / "folder", *names), ",".join(names[1:])
    assert len(chosen) > 255  # which no file can be called

    def prepared(out: str, classes: object) -> Result:
        options = ("--resolution", 8, "--processes", 1, "--out", tmp_path / out, "--classes", classes)
        return call(prepare.main, "prepare", folder, *options)

    result = prepared("out", chosen)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out" / "meta.json").read_text())["class_names"] == sorted(names[1:])
    listed = tmp_path / "names.txt"
    listed.write_text("\n".join(names))
    read = Path.read_text

    def forbidden(path: Path, *arguments: str, **options: str) -> str:
        if path == listed:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", forbidden)
    line = one_line(prepared("other", listed), "main")
    assert f"--classes: {listed}: Permission denied; accepted: a file with a name on each line" in line


def test_dry_run_prints_config_and_costs_and_writes_nothing(tmp_path: Path) -> None:
    config = ROOT / "configs" / "cifar10" / "sngan_cr.yaml"
    result = call(train.main, config, "--dry-run", "--device", "cpu", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "4,276,739" in result.stdout  # the published generator
    assert "name: cascading_rejection" in result.stdout
    assert "GFLOP a step" in result.stdout
    assert not (tmp_path / "run").exists()


def test_a_dry_run_counts_the_images_of_packs_singly() -> None:
    def costs(packing: int) -> float:
        flags = ["--set", "conditional=false", "--set", f"discriminator.packing={packing}"]
        result = call(train.main, DEFAULT, *flags, "--dry-run", "--device", "cpu")
        assert result.exit_code == 0, result.output
        return float(re.search(r"([\d.]+) GFLOP a step", result.stdout)[1])

    # D passes a fourth of as many maps; its first layer alone has as many multiplications.
    assert costs(4) < costs(2) < costs(1)


def test_memory_of_a_dry_run_is_that_of_one_part_of_the_batch() -> None:
    def memory(*settings: str) -> int:
        flags = [part for setting in settings for part in ("--set", setting)]
        text = call(train.main, DEFAULT, *flags, "--dry-run", "--device", "cpu").stdout
        return int(re.search(r"memory +([\d,]+) MiB", text)[1].replace(",", ""))

    whole, quarters = memory("training.batch_size=64"), memory("training.batch_size=64", "training.accumulation=4")
    assert quarters == pytest.approx(memory("training.batch_size=16"), abs=1)
    assert quarters < whole / 2


def test_evaluating_what_is_no_run_is_one_line(tmp_path: Path, run: Path) -> None:
    assert "no run here" in one_line(call(evaluate.main, "checkpoint", tmp_path), "evaluate")
    missing = call(evaluate.main, "checkpoint", run, "--step", 5)
    assert "accepted: 3, 6" in one_line(missing, "evaluate")
    unknown = call(evaluate.main, "checkpoint", run, "--metrics", "fdi")
    assert "evaluation.metrics" in one_line(unknown, "evaluate")
    shutil.copytree(run, tmp_path / "copy")
    (tmp_path / "copy" / "checkpoints" / "step_00000006.pt").write_bytes(b"damaged")
    assert "damaged" in one_line(call(evaluate.main, "checkpoint", tmp_path / "copy"), "evaluate")


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path, run: Path) -> None:
    shutil.copytree(run, tmp_path / "copy")
    text = (run / "config.yaml").read_text()
    (tmp_path / "copy" / "config.yaml").write_text(text.replace("latent_dim: 8", "latent_dim: 9"))
    line = one_line(call(evaluate.main, "checkpoint", tmp_path / "copy", "--device", "cpu"), "evaluate")
    assert "not of a run of this config" in line


def test_global_random_state_is_not_left_seeded(run: Path, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    drawn = ("--count", 4, "--seed", 3, "--out", tmp_path / "samples", "--device", "cpu")
    for command, *arguments in (
        (gan.sample.main, run, *drawn), (train.main, DEFAULT, "--dry-run", "--device", "cpu"),
    ):  # fmt: skip
        result = call(command, *arguments)
        assert result.exit_code == 0, result.output
        assert torch.equal(state, torch.get_rng_state())
