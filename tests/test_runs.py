"""`gan runs`: what there is, without touching it."""

import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

from gan.commands.image_sets import run_of
from gan.commands.launch import _warn_of_busy_cores
from gan.commands.runs import table_of_runs
from gan.config import load_config
from gan.files import locked
from gan.processes import gan_command
from gan.training.run_directory import RunDirectory
from tests import DEFAULT
from tests.test_package import call


def make_run(path: Path, newest: int) -> None:
    (path / "checkpoints").mkdir(parents=True)
    (path / "config.yaml").write_text(load_config(DEFAULT, ["training.steps=20"]).to_yaml())
    (path / "metrics.jsonl").write_text('{"step": 10, "evaluation/fid": 41.5, "evaluation/seconds": 1.0}\n')
    (path / "checkpoints" / f"step_{newest:08d}.pt").touch()


def test_a_checkpoint_belongs_to_its_run_wherever_it_is_named_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "run", 20)
    monkeypatch.chdir(tmp_path / "run" / "checkpoints")
    file = "step_00000020.pt"
    for named in (file, f"../checkpoints/{file}", str(tmp_path / "run" / "checkpoints" / file)):
        assert RunDirectory.of(Path(named)).path == tmp_path / "run"
        assert run_of(named) == (tmp_path / "run", Path(named))
    assert RunDirectory.of(Path("..")).path == Path("..")


def test_runs_are_finished_stopped_training_or_damaged(tmp_path: Path) -> None:
    for name, newest in (("done", 20), ("half way", 10), ("busy", 10), ("broken", 10)):
        make_run(tmp_path / name, newest)
    (tmp_path / "broken" / "metrics.jsonl").write_text("{")
    with locked(tmp_path / "busy" / ".lock"):
        before = sorted(tmp_path.rglob("*"))
        text = table_of_runs(tmp_path)
        assert sorted(tmp_path.rglob("*")) == before
    rows = {Path(line.split("  ")[0]).name: line for line in text.splitlines() if line.startswith(str(tmp_path))}
    assert rows["done"].endswith("finished") and "10 of 20" in rows["done"] and "fid 41.500" in rows["done"]
    assert rows["half way"].endswith("stopped")
    assert rows["busy"].endswith("training now")
    (damaged,) = [line for line in text.splitlines() if line.startswith("damaged")]
    assert "broken" in damaged
    (again,) = [line for line in text.splitlines() if line.startswith("to go on")]
    assert again.endswith(f"--out '{tmp_path / 'half way'}'")


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    result = call("runs", tmp_path)
    assert result.exit_code == 2
    assert "no runs" in result.stderr


def test_the_command_to_go_on_is_one_that_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/gan", "runs"])
    assert gan_command() == "gan"
    monkeypatch.setattr(sys, "argv", ["/somewhere/gan/__main__.py", "runs"])
    for folder, name in ((tmp_path, "python"), (tmp_path / "other", ".venv/bin/python")):
        monkeypatch.setattr(shutil, "which", lambda _, folder=folder: str(folder / ".venv" / "bin" / "python"))
        monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
        monkeypatch.chdir(tmp_path)
        assert gan_command() == f"{name} -m gan"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert gan_command() == f"{tmp_path}/.venv/bin/python -m gan"


@pytest.mark.parametrize(("load", "threads", "said"), [(9.0, 2, True), (9.0, 1, False), (0.5, 2, False)])
def test_threads_on_busy_cores_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], load: float, threads: int, said: bool
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    _warn_of_busy_cores(torch.device("cpu"))
    assert ("OMP_NUM_THREADS=1" in capsys.readouterr().err) == said
