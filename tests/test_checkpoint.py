"""Checkpoints: whole or refused, never of another run, never executed; what stops a run loses nothing."""

import copy
import errno
import itertools
import math
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gan.errors import NonFiniteError, StorageError, UserError
from gan.training.checkpoint import FORMAT, Checkpoints, digest, read_checkpoint, write_checkpoint
from gan.training.latents import Latents
from gan.training.noise import Noise
from gan.training.state import load_optimizer
from tests import DEFAULT, ROOT
from tests.test_games import make_trainer
from tests.test_training import TINY, data, diverge, lines, run, same  # noqa: F401
from train import main

STATE = {
    "step": 7,
    "weights": {"a": torch.arange(600.0).view(20, 30), "b": torch.ones(5, dtype=torch.bfloat16)},
    "order": [1, 2.5, None, "name", (True, torch.tensor(3))],
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "step_00000007.pt"
    write_checkpoint(path, STATE)
    return path


def test_what_is_read_is_what_was_saved(saved: Path) -> None:
    state = read_checkpoint(saved)
    assert state.pop("format") == FORMAT
    assert same(state, STATE)


def test_the_digest_sees_every_difference() -> None:
    variants = [
        STATE,
        {**STATE, "step": 8},
        {**STATE, "step": 7.0},
        {**STATE, "order": STATE["order"][:-1]},
        {**STATE, "weights": {"a": STATE["weights"]["a"], "c": STATE["weights"]["b"]}},
        {**STATE, "weights": {**STATE["weights"], "a": STATE["weights"]["a"].view(30, 20)}},
        {**STATE, "weights": {**STATE["weights"], "b": torch.ones(5, dtype=torch.float16)}},
    ]
    assert len({digest(variant) for variant in variants}) == len(variants)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_harmless(saved: Path, tmp_path: Path, place: float, bit: int) -> None:
    content = bytearray(saved.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    damaged = tmp_path / "step_00000007.pt"
    damaged.write_bytes(content)
    try:
        state = read_checkpoint(damaged)
    except UserError as error:
        assert str(damaged) in str(error) and "\n" not in str(error)
    else:  # padding, or a date
        state.pop("format")
        assert same(state, STATE)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused(saved: Path, tmp_path: Path, share: float) -> None:
    content = saved.read_bytes()
    damaged = tmp_path / "step_00000007.pt"
    damaged.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError):
        read_checkpoint(damaged)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch executed",)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_code_in_a_file_is_refused_and_never_runs(save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save({"step": 1, "state": Bomb()}, tmp_path / "step_00000001.pt")
    with pytest.raises(UserError, match="damaged, or not a checkpoint"):
        read_checkpoint(tmp_path / "step_00000001.pt")
    assert not (tmp_path / "executed").exists()


def nested(depth: int, width: int) -> object:
    value: object = []
    for _ in range(depth):
        value = [value] * width
    return value


HOSTILE = {
    "expanded": torch.zeros(1).expand(10**12),
    "sparse": torch.sparse_coo_tensor([[0]], [1.0], (10**9,), check_invariants=True),
    "meta": torch.empty(10**9, device="meta"),
    "complex": torch.zeros(2, dtype=torch.complex64),
    "deep": nested(200, 1),
    "endless to walk": nested(30, 2),
    "bytes": b"bytes",
    "a set": {1, 2},
    "a tuple for a key": {(1, 2): 3},
    "a number that takes long to print": 10**5000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_no_state_holds_is_one_line_at_once(tmp_path: Path, name: str) -> None:
    path = tmp_path / "step_00000001.pt"
    torch.save({"format": FORMAT, "step": 1, "state": HOSTILE[name]}, path)
    start = time.perf_counter()
    with pytest.raises(UserError, match="damaged, or not a checkpoint") as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value) and time.perf_counter() - start < 10


def test_a_list_that_holds_itself_is_refused(tmp_path: Path) -> None:
    endless: list[object] = []
    endless.append(endless)
    torch.save({"format": FORMAT, "step": 1, "state": endless}, tmp_path / "step_00000001.pt")
    with pytest.raises(UserError, match="levels deep"):
        read_checkpoint(tmp_path / "step_00000001.pt")


def test_an_archive_that_unpacks_to_more_than_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "step_00000001.pt"
    torch.save({"format": FORMAT, "step": 1, "state": torch.zeros(10**6)}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for record in plain.infolist():
            packed.writestr(record.filename, plain.read(record))
    assert path.stat().st_size < 10**5
    with pytest.raises(UserError, match="a compressed record"):
        read_checkpoint(path)


@pytest.mark.parametrize("step", ["1", 1.0, None, True, -1, [1]])
def test_a_step_is_a_count(tmp_path: Path, step: object) -> None:
    write_checkpoint(tmp_path / "best.pt", {"step": step})
    with pytest.raises(UserError, match="a number of steps accepted"):
        read_checkpoint(tmp_path / "best.pt")


def test_the_name_of_a_file_is_not_the_truth(tmp_path: Path) -> None:
    path = Checkpoints(tmp_path, keep=1).save(7, STATE)
    path.rename(tmp_path / "step_00000099.pt")
    with pytest.raises(UserError, match=r"it is of step 7; rename it to step_00000007\.pt"):
        read_checkpoint(tmp_path / "step_00000099.pt")


def entries(state: dict[str, Any], place: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in state.items():
        yield (*place, name)
        if isinstance(value, dict):
            yield from entries(value, (*place, name))


def test_a_state_made_by_hand_goes_on_or_is_one_line(tmp_path: Path, data: Path) -> None:  # noqa: F811
    """Entries of a real state in turn are replaced by what does not belong there; digest and format are right."""
    run(tmp_path, data)
    path = tmp_path / "checkpoints" / "step_00000006.pt"
    whole = read_checkpoint(path)
    chance = random.Random(0)
    refused = 0
    places = list(entries({name: value for name, value in whole.items() if name not in ("format", "run", "step")}))
    for place in chance.sample(places, 40):
        state = copy.deepcopy(whole)
        del state["format"]
        section = state
        for name in place[:-1]:
            section = section[name]
        section[place[-1]] = chance.choice(["text", None, [], math.nan, -1, torch.zeros(7), {}, {"a": 1}])
        write_checkpoint(path, state)
        try:
            run(tmp_path, data, "training.steps=7")
            (tmp_path / "checkpoints" / "step_00000007.pt").unlink()
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 20


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, data: Path) -> None:  # noqa: F811
    run(tmp_path / "a", data)
    run(tmp_path / "b", data, "optimizer.betas=[0.5, 0.9]")
    newest = "checkpoints/step_00000006.pt"
    shutil.copy(tmp_path / "b" / newest, tmp_path / "a" / newest)
    with pytest.raises(UserError, match="saved by a run of another config"):
        run(tmp_path / "a", data)


def test_that_an_older_checkpoint_is_gone_is_brought_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(
        "gan.training.checkpoint.sync_directory",
        lambda folder: seen.append(sorted(path.name for path in folder.iterdir())),
    )
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step in (1, 2):
        checkpoints.save(step, STATE)
    assert seen == [["step_00000002.pt"]]


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(7, STATE)

    def fill(value: object, file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", fill)
    with pytest.raises(StorageError, match="No space left on device") as error:
        checkpoints.save(8, STATE)
    assert error.value.exit_status == 4
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000007.pt"]
    assert read_checkpoint(tmp_path / "step_00000007.pt")["step"] == 7


def test_recovery_goes_on_from_the_newest_checkpoint_with_other_numbers(
    tmp_path: Path,
    data: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(tmp_path / "plain", data)
    diverge(monkeypatch, 9)  # in the fifth generator step; the checkpoint is of the third
    run(tmp_path / "recovered", data, "training.recoveries=1")
    output = capsys.readouterr()
    assert "going on from step 3 with other random numbers, recovery 1 of 1" in output.err
    assert "1 recoveries from non-finite values" in output.out
    plain, recovered = (lines(tmp_path / name) for name in ("plain", "recovered"))
    assert [line["step"] for line in recovered] == [2, 4, 6]
    assert recovered[0] == plain[0] and recovered[2] != plain[2]
    state = read_checkpoint(tmp_path / "recovered" / "checkpoints" / "step_00000006.pt")
    assert state["recoveries"] == 1


def test_every_recovery_goes_on_with_numbers_of_its_own(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, 1)
    state = copy.deepcopy(trainer.state_dict())
    seen = []
    for recoveries in range(3):
        if recoveries:
            trainer.recover(copy.deepcopy(state))
        noise, latents = trainer.parts["noise"], trainer.parts["latents"]
        assert isinstance(noise, Noise) and isinstance(latents, Latents)
        assert (trainer.recoveries, noise.upcoming("generator")) == (recoveries, 0)
        drawn = [latents.next(player, 4)[0] for player in ("discriminator", "generator")]
        drawn += [torch.rand(4, generator=noise.generator("discriminator", 0, 0)), torch.tensor(noise.seed)]
        seen.append(drawn)
    for one, other in itertools.combinations(seen, 2):
        assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_recoveries_run_out(
    tmp_path: Path,
    data: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    diverge(monkeypatch, 9, 15)  # and again in the second step after the return
    with pytest.raises(NonFiniteError):
        run(tmp_path, data, "training.recoveries=1")
    assert capsys.readouterr().err.count("recovery 1 of 1") == 1
    assert read_checkpoint(tmp_path / "checkpoints" / "step_00000003.pt")["step"] == 3


def test_the_command_reports_a_full_disk_with_its_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", fill)
    overrides = [part for override in [*TINY, f"data.root={tmp_path}"] for part in ("--set", override)]
    result = CliRunner().invoke(main, [*overrides, "--out", str(tmp_path / "run"), "--device", "cpu"])
    assert result.exit_code == 4
    assert "No space left on device" in result.output and "Traceback" not in result.output


@pytest.mark.slow
def test_a_killed_process_loses_nothing(tmp_path: Path, data: Path) -> None:  # noqa: F811
    overrides = [part for override in [*TINY, f"data.root={data}", "training.steps=60"] for part in ("--set", override)]
    run(tmp_path / "whole", data, "training.steps=60")
    program = [sys.executable, str(ROOT / "train.py"), str(DEFAULT)]
    command = [*program, *overrides, "--out", str(tmp_path / "killed"), "--device", "cpu"]
    delay = random.Random(0)
    for _ in range(2):
        known = set((tmp_path / "killed").glob("checkpoints/step_*.pt"))
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not set((tmp_path / "killed").glob("checkpoints/step_*.pt")) - known:
            time.sleep(0.01)
        time.sleep(delay.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0
    states = [read_checkpoint(tmp_path / name / "checkpoints" / "step_00000060.pt") for name in ("whole", "killed")]
    for state in states:
        state.pop("elapsed")
    assert same(*states)
    assert lines(tmp_path / "whole") == lines(tmp_path / "killed")


def test_a_setting_that_an_optimisers_state_lacks_is_its_own() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([parameter], 1e-3, (0.5, 0.999))
    parameter.grad = torch.ones(3)
    optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    del state["param_groups"][0]["betas"]
    load_optimizer(optimizer, state)
    assert optimizer.param_groups[0]["betas"] == (0.5, 0.999)
    optimizer.step()


@pytest.mark.parametrize("value", [torch.empty(0), [0.5, 0.999], (0.5, 0.9), None])
def test_settings_of_another_optimiser_are_refused_whatever_they_are(value: object) -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([parameter], 1e-3, (0.5, 0.999))
    parameter.grad = torch.ones(3)
    optimizer.step()
    state = optimizer.state_dict()
    load_optimizer(optimizer, copy.deepcopy(state))
    state["param_groups"][0]["betas"] = value
    with pytest.raises(ValueError, match="another optimiser"):
        load_optimizer(optimizer, state)
    state["param_groups"][0] |= {"betas": (0.5, 0.999), "lr": torch.empty(0)}
    with pytest.raises((RuntimeError, ValueError)):
        load_optimizer(optimizer, state)
    state["param_groups"][0] |= {"lr": 1e-3}
    for moments in ({"exp_avg": "none"}, {"step": torch.empty(0)}, {"exp_avg_sq": torch.ones(2)}):
        wrong = {0: {**state["state"][0], **moments}}
        with pytest.raises((ValueError, AttributeError)):
            load_optimizer(optimizer, {**state, "state": wrong})
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"]) == (1e-3, (0.5, 0.999))  # as it was
    assert optimizer.state[parameter]["step"].item() == 1 and optimizer.state[parameter]["exp_avg"].shape == (3,)
