"""Averages, logs, checkpoints, resuming and stopping."""

import errno
import json
import os
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scipy import stats
from torch import nn

from gan.build import prepare_images
from gan.commands import launch as launching
from gan.commands.launch import launch
from gan.config import load_config
from gan.errors import BusyError, NonFiniteError, StorageError, UserError
from gan.scoring.scorer import Scorer
from gan.training.checkpoint import Checkpoints, checkpoint_paths, read_checkpoint
from gan.training.diagnostics import Observation
from gan.training.ema import ExponentialMovingAverage
from gan.training.latents import Latents
from gan.training.schedule import Clock, Schedule
from gan.training.steps import discriminator_step, generator_step
from gan.training.tracking import ELAPSED, LOG, TRAINING, Averages, Tracker, read_log
from gan.training.trainer import Trainer
from tests import DEFAULT

CPU = torch.device("cpu")
TINY = [
    "generator.name=dcgan", "generator.width=4", "discriminator.backbone.name=dcgan", "discriminator.backbone.width=4",
    "generator.latent_dim=8", "training.batch_size=8", "training.discriminator_steps=2", "training.steps=6",
    "logging.scalars_every=2", "logging.samples_every=3", "logging.sample_count=4", "checkpoint.every=3",
    "evaluation.at_end=false", "data.flip=true",
]  # fmt: skip


def run(out: Path, data: Path, *overrides: str) -> bool:
    return launch(load_config(DEFAULT, [*TINY, f"data.root={data}", *overrides]), CPU, out, "the command")


def lines(out: Path) -> list[dict[str, float]]:
    """What was logged, without the timings, which no two runs share."""
    logged = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    timings = ("speed/", "evaluation/seconds")
    return [{name: value for name, value in line.items() if not name.startswith(timings)} for line in logged]


def same(first: object, second: object) -> bool:
    if isinstance(first, dict):
        return (
            isinstance(second, dict) and first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
        )
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


def diverge(monkeypatch: pytest.MonkeyPatch, *at: int, stage: int = 1) -> None:
    """The `at`-th discriminator steps give an infinite score of a stage."""
    taken = 0

    def diverging(*arguments: object) -> tuple[dict[str, torch.Tensor], Observation]:
        nonlocal taken
        taken += 1
        values, seen = discriminator_step(*arguments)
        if taken in at:
            values["scores/real"][stage - 1] = torch.inf
        return values, seen

    monkeypatch.setattr(launching, "discriminator_step", diverging)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["conditional=true", "objective.stage_weights=learned"],
        ["conditional=true", "discriminator.head.name=projection", "discriminator.head.options={}"],
        [
            "objective.regularizers={r1: {weight: 1, interval: 2}, lecam: {weight: 0.1}, contrastive: {weight: 0.1}, "
            "balanced_consistency: {weight: 1}, latent_consistency: {weight: 1}, gradient_penalty: {weight: 1}}",
            "objective.top_k={fraction: 0.5, decay: 0.9}",
            "augmentation={operations: [color, translation, cutout], target: 0.6, images_to_full: 500}",
        ],
        pytest.param(
            [
                "evaluation.every=2",
                "evaluation.at_end=true",
                "evaluation.best=fid",
                "evaluation.samples=20",
                "evaluation.reference=test",
            ],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path, data: Path, overrides: list[str]) -> None:
    run(tmp_path / "whole", data, *overrides)
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")  # as if killed after step 6, before its checkpoint
    (tmp_path / "killed" / "checkpoints" / "step_00000006.pt").unlink()
    run(tmp_path / "killed", data, *overrides)
    states = [read_checkpoint(tmp_path / name / "checkpoints" / "step_00000006.pt") for name in ("whole", "killed")]
    for state in states:
        state.pop("elapsed")
    assert same(*states)
    assert lines(tmp_path / "whole") == lines(tmp_path / "killed")
    assert [line["step"] for line in lines(tmp_path / "whole") if "loss/generator" in line] == [2, 4, 6]
    samples = [sorted((tmp_path / name / "samples").iterdir()) for name in ("whole", "killed")]
    for first, second in zip(*samples, strict=True):
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("shared", [False, True])
def test_a_generators_step_is_given_the_discriminators_latents_only_where_they_are_shared(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    given: dict[str, list[tuple[Any, ...]]] = {"discriminator": [], "generator": []}

    def discriminates(game: Any, *batch: Any) -> object:
        given["discriminator"].append(batch)
        return discriminator_step(game, *batch)

    def generates(game: Any, *batch: Any) -> object:
        given["generator"].append(batch)
        return generator_step(game, *batch)

    monkeypatch.setattr(launching, "discriminator_step", discriminates)
    monkeypatch.setattr(launching, "generator_step", generates)
    settings = ("conditional=true", "training.discriminator_steps=1", "training.steps=2")
    run(tmp_path, data, *settings, f"training.shared_latents={shared}".lower())
    assert len(given["discriminator"]) == len(given["generator"]) == 2
    for (images, labels, *theirs), (*ours, seen, seen_labels) in zip(*given.values(), strict=True):
        assert torch.equal(seen, images) and torch.equal(seen_labels, labels)
        assert torch.equal(theirs[0], ours[0]) == torch.equal(theirs[1], ours[1]) == shared
    assert not torch.equal(given["generator"][0][0], given["generator"][1][0])


def test_both_players_rates_fall_to_0_over_the_second_half_of_a_half_linear_run(tmp_path: Path, data: Path) -> None:
    rates = {"generator": 1e-3, "discriminator": 3e-4}
    settings = [f"optimizer.{player}_lr={rate}" for player, rate in rates.items()]
    run(tmp_path, data, *settings, "optimizer.schedule=half_linear", "logging.scalars_every=1")
    logged = lines(tmp_path)
    assert [line["step"] for line in logged] == [1, 2, 3, 4, 5, 6]
    for player, rate in rates.items():
        factors = [line[f"learning_rate/{player}"] / rate for line in logged]
        assert factors == pytest.approx([1, 1, 1, 1, 2 / 3, 1 / 3])


def test_a_finished_run_is_left_as_it_is(tmp_path: Path, data: Path) -> None:
    run(tmp_path, data)
    before = (tmp_path / "checkpoints" / "step_00000006.pt").read_bytes(), lines(tmp_path)
    run(tmp_path, data)
    assert before == ((tmp_path / "checkpoints" / "step_00000006.pt").read_bytes(), lines(tmp_path))


def test_another_config_is_refused_with_the_keys_that_differ(tmp_path: Path, data: Path) -> None:
    run(tmp_path, data)
    saved = (tmp_path / "config.yaml").read_text()
    with pytest.raises(UserError, match=r"generator\.width was 4, now 8"):
        run(tmp_path, data, "generator.width=8")
    assert (tmp_path / "config.yaml").read_text() == saved
    run(tmp_path, data, "training.steps=8")  # longer is allowed
    assert lines(tmp_path)[-1]["step"] == 8


def test_what_a_killed_process_left_half_written_is_removed_by_the_next(tmp_path: Path, data: Path) -> None:
    run(tmp_path, data)
    litter = [tmp_path / place for place in (".config.yaml.7.tmp", "samples/.s.png.7.tmp", "checkpoints/.c.pt.7.tmp")]
    for path in litter:
        path.write_bytes(b"half")
    run(tmp_path, data, "training.steps=8")
    assert not any(path.exists() for path in litter)
    assert sorted(path.name for path in tmp_path.rglob(".*")) == [".lock"]


def test_a_run_whose_config_was_removed_goes_on_by_its_checkpoints_identity(tmp_path: Path, data: Path) -> None:
    run(tmp_path, data)
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"saved by a run of another config; choose another directory$"):
        run(tmp_path, data, "generator.width=6", "training.steps=8")
    run(tmp_path, data, "training.steps=8")
    assert lines(tmp_path)[-1]["step"] == 8


def test_fewer_steps_than_were_taken_are_refused(tmp_path: Path, data: Path) -> None:
    run(tmp_path, data)
    with pytest.raises(UserError, match=r"training.steps: 4 found, but .* is at step 6 already; accepted: 6"):
        run(tmp_path, data, "training.steps=4")


def test_a_run_outlives_a_key_that_the_schema_gains(tmp_path: Path, data: Path) -> None:
    run(tmp_path, data)
    config = tmp_path / "config.yaml"
    text = config.read_text()
    assert "  epsilon: 1.0e-08\n" in text
    config.write_text(text.replace("  epsilon: 1.0e-08\n", ""))  # as if begun before there was one
    run(tmp_path, data, "training.steps=8")
    assert lines(tmp_path)[-1]["step"] == 8
    config.write_text(text.replace("epsilon", "epsilom"))
    with pytest.raises(
        UserError, match=rf"{config}: optimizer\.epsilom: unknown key; did you mean 'optimizer\.epsilon'"
    ):
        run(tmp_path, data, "training.steps=9")


def test_a_signal_stops_saves_and_the_same_command_goes_on(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop_once_it_has_logged() -> None:
        metrics = tmp_path / "metrics.jsonl"
        while not (metrics.exists() and metrics.stat().st_size):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_once_it_has_logged, daemon=True).start()
    endless = ("training.steps=100000", "checkpoint.every=100000", "logging.samples_every=100000")
    assert not run(tmp_path, data, *endless)
    (path,) = checkpoint_paths(tmp_path / "checkpoints")
    stopped = read_checkpoint(path)["step"]
    assert 0 < stopped < 100000
    assert f"stopped and saved at step {stopped}; to go on: the command" in capsys.readouterr().err


def test_timings_are_of_the_steps_that_were_timed(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, play, save = [0.0], Trainer._play_generator, Checkpoints.save

    def ten_seconds(trainer: Trainer) -> None:
        play(trainer)
        now[0] += 10

    def a_minute(checkpoints: Checkpoints, step: int, state: Mapping[str, Any]) -> Path:
        now[0] += 60
        if step == 6:
            signal.raise_signal(signal.SIGTERM)
        return save(checkpoints, step, state)

    monkeypatch.setattr("gan.training.schedule.time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(Trainer, "_play_generator", ten_seconds)
    monkeypatch.setattr(Checkpoints, "save", a_minute)
    often = ("logging.scalars_every=4", "checkpoint.every=3", "training.steps=12")
    assert not run(tmp_path, data, *often)
    assert run(tmp_path, data, *often)
    found = [line for line in read_log(tmp_path / LOG) if TRAINING in line]
    assert [(line["step"], line[TRAINING], line[ELAPSED]) for line in found] == [
        (4, 10, 40), (8, 10, 80), (12, 10, 120),
    ]  # fmt: skip


@pytest.mark.slow
def test_a_compiled_run_logs_what_a_plain_one_does(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # no kernels are written
    settings = ("training.precision=float32", "discriminator.head.options.rejection=orthogonal")
    for name, compiled in (("compiled", "true"), ("plain", "false")):
        run(tmp_path / name, data, *settings, f"training.compile={compiled}")
    compiled, plain = lines(tmp_path / "compiled"), lines(tmp_path / "plain")
    assert len(compiled) == len(plain) == 3
    for one, other in zip(compiled, plain, strict=True):
        assert one.keys() == other.keys() and any(name.startswith("stages/gradient_share") for name in one)
        assert one["loss/discriminator"] == pytest.approx(other["loss/discriminator"], rel=1e-3)


@pytest.mark.slow
def test_a_compiled_step_of_many_passes_is_within_the_compilers_limit(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    penalty = "{weight: 0.1, options: {method: finite_difference}}"
    settings = ("generator.name=r3gan", "generator.width=16", "discriminator.backbone.name=r3gan",
                "discriminator.backbone.width=16", "objective.loss=relativistic", "training.compile=true",
                f"objective.regularizers={{r1: {penalty}, r2: {penalty}, latent_consistency: {{weight: 0.1}}}}",
                "training.steps=2")  # fmt: skip
    assert run(tmp_path, data, *settings)


SCORED = ["evaluation.every=2", "evaluation.at_end=true", "evaluation.samples=20", "evaluation.reference=test"]


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """An undisturbed run with evaluations."""
    out = tmp_path_factory.mktemp("scored")
    run(out, data, *SCORED)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("interrupted", [1, 2, 4])  # before the first step, in between, after the last
def test_a_signal_during_an_evaluation_leaves_it_to_the_next_start(
    interrupted: int,
    tmp_path: Path,
    data: Path,
    scored: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    score, calls = Scorer.score, []

    def slow(*arguments: object, **named: object) -> object:
        calls.append(1)
        if len(calls) == interrupted:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        return score(*arguments, **named)

    monkeypatch.setattr(Scorer, "score", slow)
    start = time.monotonic()
    assert not run(tmp_path, data, *SCORED)
    assert time.monotonic() - start < 50
    assert f"stopped and saved at step {2 * (interrupted - 1)}; to go on: the command" in capsys.readouterr().err
    run(tmp_path, data, *SCORED)
    assert lines(tmp_path) == lines(scored)
    ends = [read_checkpoint(out / "checkpoints" / "step_00000006.pt") for out in (tmp_path, scored)]
    for state in ends:
        state.pop("elapsed")
    assert same(*ends)


def test_non_finite_values_stop_training_with_the_step_the_term_and_the_stage(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diverge(monkeypatch, 5, stage=2)  # in the third generator step, of two discriminator steps each
    with pytest.raises(NonFiniteError, match=r"scores/real of stage 2 became inf .* up to 3; the state is in") as error:
        run(tmp_path, data)  # found before the checkpoint of step 3 is made, and not with the line of step 4
    assert error.value.exit_status == 3
    assert read_checkpoint(tmp_path / "checkpoints" / "non_finite_00000003.pt")["step"] == 3
    assert [line["step"] for line in lines(tmp_path)] == [2]


def test_ema_follows_its_recursion_and_warms_up() -> None:
    torch.manual_seed(0)
    network = nn.BatchNorm1d(3).double()
    ema = ExponentialMovingAverage(network, decay=0.9)
    expected = network.weight.detach().clone()
    for step in range(1, 200):
        with torch.no_grad():
            network.weight.add_(torch.randn(3, dtype=torch.float64))
        network.num_batches_tracked += 1
        ema.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * network.weight.detach()
    torch.testing.assert_close(ema.average.weight, expected)
    assert ema.average.num_batches_tracked == 199
    assert not ema.average.weight.requires_grad


@pytest.mark.parametrize("warm_up", [False, True])
def test_an_average_is_of_running_statistics_too_and_judges_by_them(warm_up: bool) -> None:
    torch.manual_seed(0)
    network = nn.BatchNorm1d(3).double()
    ema = ExponentialMovingAverage(network, decay=0.9, warm_up=warm_up)
    expected = {name: value.clone() for name, value in network.state_dict().items()}
    for step in range(1, 20):
        network(2 + 3 * torch.randn(8, 3, dtype=torch.float64))
        with torch.no_grad():
            network.bias.add_(torch.randn(3, dtype=torch.float64))
        ema.update(step)
        decay = min(0.9, (1 + step) / (10 + step)) if warm_up else 0.9
        for name in ("weight", "bias", "running_mean", "running_var"):
            expected[name] = decay * expected[name] + (1 - decay) * network.state_dict()[name]
        expected["num_batches_tracked"] += 1
        torch.testing.assert_close(dict(ema.average.state_dict()), expected)
    points = torch.randn(1, 3, dtype=torch.float64)
    normalised = (points - expected["running_mean"]) / (expected["running_var"] + network.eps).sqrt()
    torch.testing.assert_close(ema.average(points), normalised * expected["weight"] + expected["bias"])
    assert network.training


def test_learning_rates_follow_the_schedule() -> None:
    def factors(name: str) -> list[float]:
        schedule = Schedule(10, 1, name, 1, 1, 1, 0)
        return [round(schedule.learning_rate_factor(step), 9) for step in (0, 4, 5, 6, 9)]

    assert factors("constant") == [1, 1, 1, 1, 1]
    assert factors("linear") == [1, 0.6, 0.5, 0.4, 0.1]
    assert factors("half_linear") == [1, 1, 1, 0.8, 0.2]


def test_the_clock_leaves_pauses_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 10.0, 13.0, 20.0, 21.0])  # start; a pause from 10 to 13; a log at 20; a lap at 21
    monkeypatch.setattr("gan.training.schedule.time.perf_counter", lambda: next(now))
    clock = Clock(CPU)
    assert clock.pause(lambda: None) == 3
    assert clock.since_log() == 17
    assert clock.lap() == 18


def test_averages_are_means_over_the_window_per_stage() -> None:
    averages = Averages(2)
    for value in (1.0, 2.0, 6.0):
        averages.add({"loss": torch.tensor(value), "scores": torch.tensor([value, -value])})
    averages.add({"loss": torch.tensor(3.0)})
    assert averages.take() == {"loss": [3.0], "scores": [3.0, -3.0]}
    averages.add({"loss": torch.tensor(5.0)})
    state = averages.state_dict()
    assert averages.take() == {"loss": [5.0]}
    averages.load_state_dict(state)
    assert averages.take() == {"loss": [5.0]}
    averages.add({"loss": torch.tensor(1.0, device="meta")})  # as on a GPU, where one value acts once a window
    averages.load_state_dict({"sums": {**state["sums"], "r1": torch.tensor(2.0)}, "counts": {"loss": 1, "r1": 1}})
    averages.add({"loss": torch.tensor(1.0, device="meta")})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "torch.cat", lambda parts: torch.zeros(len(parts)) if len({p.device for p in parts}) == 1 else None
        )
        assert averages.take() == {"loss": [0.0], "r1": [0.0]}
    for wrong in (torch.empty(0), torch.ones(3), torch.ones(1, 2), torch.tensor(1)):
        with pytest.raises(ValueError, match="sums that no step has reported"):
            averages.load_state_dict({"sums": {"loss": wrong}, "counts": {"loss": 1}})


def test_the_log_has_no_gaps_and_no_repeats_after_a_resume(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, -1)
    for step in (10, 20, 30):
        tracker.scalars(step, {"loss": step / 10})
    tracker.close()
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'\xff\x00\n{"step": 40, "lo')  # blocks that never reached the disk, and a line cut short by a kill
    tracker = Tracker(tmp_path, 20)
    tracker.scalars(30, {"loss": 3.0})
    tracker.close()
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 30]


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, {"value": torch.tensor(step)})
    assert [path.name for path in checkpoints.paths()] == ["step_00000002.pt", "step_00000003.pt"]
    assert read_checkpoint(checkpoints.paths()[-1])["value"] == 3
    assert not list(tmp_path.glob(".*"))


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch executed",)


LOG_DAMAGE = {
    "cut": (lambda log: log[: len(log) // 2], 2),
    "emptied": (lambda log: "", 3),
    "scribbled": (lambda log: log.replace('"step": 2', '"step": "2"'), 1),
}


@pytest.mark.parametrize("damage", LOG_DAMAGE)
def test_lines_that_a_log_lacks_are_counted_when_a_run_goes_on(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    run(tmp_path, data)
    log = tmp_path / LOG
    change, missing = LOG_DAMAGE[damage]
    log.write_text(change(log.read_text()))
    capsys.readouterr()
    run(tmp_path, data, "training.steps=8")
    assert f"metrics.jsonl: {missing} of 3 lines up to step 6 are missing or damaged" in capsys.readouterr().err
    assert [line["step"] for line in lines(tmp_path)][-1] == 8


def test_a_whole_log_is_not_spoken_of(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, data)
    run(tmp_path, data, "training.steps=8")
    assert LOG not in capsys.readouterr().err


@pytest.mark.parametrize("line", ["{", "[]", '{"step": "1"}', '{"step": 1, "loss": "low"}', '{"loss": 1}', "\x00"])
def test_a_damaged_log_is_one_line(tmp_path: Path, line: str) -> None:
    (tmp_path / LOG).write_text('{"step": 1, "loss": 2.0}\n' + line + "\n")
    with pytest.raises(UserError, match="line 2: damaged"):
        read_log(tmp_path / LOG)


@pytest.mark.parametrize("content", ["truncated", "empty", "text", "malicious", "other format", "a list"])
def test_what_is_no_checkpoint_is_refused_and_never_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Checkpoints(tmp_path, 1).save(1, {"value": torch.zeros(1000)})
    if content == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    elif content in ("empty", "text"):
        path.write_text("" if content == "empty" else "step: 1")
    else:
        torch.save({"malicious": Malicious(), "other format": {"format": 0}, "a list": [1]}[content], path)
    with pytest.raises(UserError, match=r"checkpoint .*step_00000001\.pt: (damaged|format)"):
        read_checkpoint(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["file", "file/run"])
def test_a_file_that_is_in_the_way_is_named(name: str, tmp_path: Path, data: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match=rf"--out {tmp_path / name}: a file is in the way; choose a directory"):
        run(tmp_path / name, data)
    assert (tmp_path / "file").read_text() == "kept"


def test_a_directory_that_cannot_be_written_is_named(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(path: object, flags: int, mode: int = 0o777) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    prepare_images(load_config(DEFAULT, [*TINY, f"data.root={data}"]).data)
    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(StorageError, match=rf"cannot write (to )?{tmp_path / 'run'}.*: Read-only file system") as error:
        run(tmp_path / "run", data)
    assert error.value.exit_status == 4


def test_weights_that_became_nan_end_in_the_line_and_the_status_of_divergence(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in what the stages' likeness makes of NaN: LAPACK finds no eigenvalues of it."""
    taken = 0

    def diverging(game: Any, *arguments: object) -> tuple[dict[str, torch.Tensor], Observation]:
        nonlocal taken
        taken += 1
        if taken == 7:
            next(game.discriminator.parameters()).data.fill_(torch.nan)
        return discriminator_step(game, *arguments)

    monkeypatch.setattr(launching, "discriminator_step", diverging)
    with warnings.catch_warnings(), pytest.raises(NonFiniteError, match="up to 4; the state is in"):
        warnings.simplefilter("error")
        run(tmp_path, data, "checkpoint.every=2")
    assert (tmp_path / "checkpoints" / "non_finite_00000004.pt").exists()
    assert [path.stem for path in checkpoint_paths(tmp_path / "checkpoints")] == ["step_00000002"]


def test_no_checkpoint_is_made_of_what_is_not_finite(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recovery and the next start would go back to it, and lines of the log are rarer than checkpoints here."""
    diverge(monkeypatch, 9)  # in the fifth step
    assert run(tmp_path, data, "training.steps=8", "logging.scalars_every=8", "training.recoveries=1")
    assert [line["step"] for line in lines(tmp_path)] == [8]


def test_a_run_that_is_lengthened_keeps_the_best_of_its_ends(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score, order = Scorer.score, iter([100.0, 100.0, 90.0, 50.0, 70.0, 70.0])
    monkeypatch.setattr(
        Scorer,
        "score",
        lambda *arguments, **named: replace(score(*arguments, **named), metrics={"frechet_distance": next(order)}),
    )
    settings = [*SCORED, "evaluation.best=fid"]
    run(tmp_path, data, *settings)
    assert read_checkpoint(tmp_path / "checkpoints" / "best.pt")["step"] == 6
    run(tmp_path, data, *settings, "training.steps=8")
    assert read_checkpoint(tmp_path / "checkpoints" / "best.pt")["step"] == 6


def test_results_of_steps_that_are_taken_anew_are_not_kept(tmp_path: Path, data: Path) -> None:
    run(tmp_path / "a", data, *SCORED)
    shutil.rmtree(tmp_path / "a" / "checkpoints")
    for name in ("a", "b"):
        run(tmp_path / name, data, *SCORED, "seed=1")
    one, other = (
        json.loads(next((tmp_path / name / "evaluations").glob("step_00000006*")).read_text())["metrics"]
        for name in ("a", "b")
    )
    assert one == other


def test_a_signal_in_the_last_step_leaves_the_scores_to_the_next_start(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, calls = Checkpoints.save, []

    def signalled(self: Checkpoints, step: int, state: Mapping[str, Any]) -> Path:
        if step == 6:
            signal.raise_signal(signal.SIGTERM)
        return save(self, step, state)

    def scored(*arguments: object, **named: object) -> object:
        calls.append(1)
        return score(*arguments, **named)

    score = Scorer.score
    settings = ["evaluation.at_end=true", "evaluation.samples=20", "evaluation.reference=test"]
    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", signalled)
        patched.setattr(Scorer, "score", scored)
        assert not run(tmp_path, data, *settings)
    assert not calls
    assert run(tmp_path, data, *settings)
    assert lines(tmp_path)[-1]["step"] == 6 and "evaluation/frechet_distance" in lines(tmp_path)[-1]


def test_a_directory_in_which_another_process_trained_meanwhile_is_left_alone(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, data, "training.steps=3")
    settings, nested = launching.board_settings, []

    def meanwhile(*arguments: object) -> object:
        if not nested:
            nested.append(1)
            run(tmp_path, data)
        return settings(*arguments)

    monkeypatch.setattr(launching, "board_settings", meanwhile)
    with pytest.raises(BusyError, match="another process has trained in it meanwhile"):
        run(tmp_path, data)
    logged = lines(tmp_path)
    assert [line["step"] for line in logged] == [2, 3, 4, 6]
    assert run(tmp_path, data) and lines(tmp_path) == logged


def test_a_generator_that_hears_the_first_stage_alone_has_its_gradient_from_there(tmp_path: Path, data: Path) -> None:
    run(tmp_path, data, "objective.generator_stages=first")
    for line in lines(tmp_path):
        assert [line[f"stages/gradient_share/stage_{stage}"] for stage in (1, 2, 3)] == [1, 0, 0]


def test_a_number_that_is_written_otherwise_does_not_lock_a_run_out(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """-1 equals -1.0 and is another text to the identity that checkpoints carry."""
    loss = "objective.loss={{name: least_squares, options: {{fake_target: {}}}}}"
    run(tmp_path, data, loss.format(-1), "training.steps=3")
    with pytest.raises(UserError, match=r"fake_target was -1, now -1\.0"):
        run(tmp_path, data, loss.format(-1.0))
    assert run(tmp_path, data, loss.format(-1))


def test_latents_are_independent_and_normal_and_labels_are_uniform_over_the_classes() -> None:
    latents, labels = Latents(0, CPU, 8, 10).next("discriminator", 5000)
    assert labels is not None
    assert latents.shape == (5000, 8) and labels.shape == (5000,)
    assert stats.kstest(latents.flatten().numpy(), "norm").pvalue > 1e-3
    assert (latents.T.corrcoef() - torch.eye(8)).abs().max() < 5 / 5000**0.5
    counts = torch.bincount(labels, minlength=10)
    assert len(counts) == 10 and (counts - 500).abs().max() < 5 * (5000 * 0.1 * 0.9) ** 0.5


def test_each_players_latents_follow_from_the_seed_whatever_the_other_draws() -> None:
    def drawn(seed: int, *players: str) -> list[tuple[tuple[float, ...], tuple[int, ...]]]:
        latents = Latents(seed, CPU, 4, 1000)
        batches = [latents.next(player, 8) for player in players]
        return [(tuple(z.flatten().tolist()), tuple(y.tolist())) for z, y in batches if y is not None]

    d, g = "discriminator", "generator"
    first, other = drawn(0, d, g, d, g), drawn(1, d, g, d, g)
    for part in range(2):  # latents, labels
        assert len({batch[part] for batch in first + other}) == 8
    assert drawn(0, d, g, d, g) == first
    assert drawn(0, d, d) == first[::2] and drawn(0, g, g) == first[1::2]


def test_latents_of_another_kind_of_device_are_refused() -> None:
    latents = Latents(0, CPU, 4, None)
    with pytest.raises(ValueError, match="another kind of device"):
        latents.load_state_dict({player: torch.zeros(16, dtype=torch.uint8) for player in latents.state_dict()})


def test_nested_lines_of_a_log_are_damaged_lines(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text('{"step": 1}\n' + "[" * 100_000 + "\n")
    with pytest.raises(UserError, match="line 2: damaged"):
        read_log(tmp_path / LOG)
    Tracker(tmp_path, 1).close()
    assert (tmp_path / LOG).read_text() == '{"step": 1}\n'
