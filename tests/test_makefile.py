"""What make does to environments: it makes its own, brings it up to date in place, and touches no other."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

PYTHON = """#!/bin/sh
echo "$0 $*" >> {log}
if [ "$1 $2" = "-m venv" ]; then
    mkdir -p "$3/bin"
    cp "$0" "$3/bin/python"
    cp "$0" "$3/bin/pip"
fi
"""  # in place of Python: it notes how it is called, and makes an environment of itself


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout with a Makefile and a Python that installs nothing."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(ROOT / name, folder / name)
    stub = tmp_path / "python"
    stub.write_text(PYTHON.format(log=tmp_path / "calls"))
    stub.chmod(0o755)
    return folder


def make(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", f"PYTHON={tree.parent / 'python'}", *arguments]
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=60)


def calls(tree: Path) -> list[str]:
    log = tree.parent / "calls"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return [line.partition(" ")[2] for line in lines]


def snapshot(folder: Path) -> dict[str, float]:
    return {str(path.relative_to(folder)): path.lstat().st_mtime_ns for path in folder.rglob("*")}


def test_make_alone_prints_what_there_is_and_does_nothing(tree: Path) -> None:
    done = make(tree)
    assert done.returncode == 0
    named = [line.split()[1] for line in done.stdout.splitlines()]
    assert named == ["help", "environment", "train", "test", "check", "bench", "compare", "board"]
    assert calls(tree) == [] and not (tree / ".venv").exists()


def test_an_environment_is_made_once_and_updated_in_place(tree: Path) -> None:
    assert make(tree, "environment").returncode == 0
    assert [call.split(" -")[0] for call in calls(tree)][1:] == ["-m venv .venv", "-m pip install"]
    (tree / ".venv" / "mine").write_text("kept")
    assert make(tree, "environment").returncode == 0 and calls(tree) == []
    later = (tree / ".venv" / "ready").stat().st_mtime + 10
    os.utime(tree / "requirements.txt", (later, later))
    assert make(tree, "environment").returncode == 0
    (call,) = calls(tree)[1:]
    assert call.startswith("-m pip install") and (tree / ".venv" / "mine").read_text() == "kept"


def test_an_interrupted_install_goes_on(tree: Path) -> None:
    make(tree, "environment")
    (tree / ".venv" / "ready").unlink()
    (tree / ".venv" / "bin" / "pip").unlink()
    calls(tree)
    assert make(tree, "environment").returncode == 0
    assert any(call == "-m venv .venv" for call in calls(tree))


@pytest.mark.parametrize("ready", [True, False])
@pytest.mark.parametrize("goal", ["test", "train", "environment"])
def test_an_environment_behind_a_link_is_refused_in_one_line(tree: Path, goal: str, ready: bool) -> None:
    other = tree.parent / "other"
    (other / "bin").mkdir(parents=True)
    (other / "bin" / "python").write_text("")
    if ready:
        (other / "ready").touch()
    (tree / ".venv").symlink_to(other)
    before = snapshot(other)
    done = make(tree, goal)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert ".venv is a symbolic link" in line
    assert snapshot(other) == before and calls(tree) == []


def test_an_environment_that_make_did_not_make_is_refused_in_one_line(tree: Path) -> None:
    (tree / ".venv" / "bin").mkdir(parents=True)
    before = snapshot(tree / ".venv")
    done = make(tree, "check")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and "was not made by make" in line
    assert snapshot(tree / ".venv") == before and calls(tree) == []
