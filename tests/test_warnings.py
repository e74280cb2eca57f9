"""Every command under `-W error`: no warning, of our own modules or because of how they use others'."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests import DEFAULT, ROOT
from tests.test_training import TINY

SETTINGS = [*TINY, "training.steps=2", "evaluation.at_end=true", "evaluation.samples=50", "evaluation.reference=test"]


@pytest.mark.slow
def test_no_command_warns(tmp_path: Path) -> None:
    flags = [part for setting in [*SETTINGS, f"data.root={tmp_path}/data"] for part in ("--set", setting)]
    run = str(tmp_path / "run")
    commands = [
        ["train.py", str(DEFAULT), *flags, "--device", "cpu", "--out", run],
        ["evaluate.py", "checkpoint", run, "--device", "cpu", "--raw"],
        ["evaluate.py", "modes", run, "--device", "cpu"],
        ["evaluate.py", "compare", run],
        ["compare.py", "configs/experiments/smoke.yaml", "--report-only", "--out", str(tmp_path / "comparison")],
    ]
    for command in commands:
        process = subprocess.run(
            [sys.executable, "-W", "error", *command], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert process.returncode == 0, process.stderr
        assert "Warning" not in process.stderr, process.stderr
