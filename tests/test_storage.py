"""Storage that runs out for real: a file size limit set by the system, and a file system of a few hundred kilobytes."""

import errno
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gan.errors import StorageError
from gan.files import atomic_folder, atomic_path, sweep
from gan.training.checkpoint import checkpoint_paths, read_checkpoint
from tests import DEFAULT, ROOT
from tests.test_training import TINY, run

pytestmark = pytest.mark.slow
OPTIONS = ["checkpoint.every=1", "checkpoint.keep=50", "training.steps=12", "logging.sample_count=1"]
IN_SMALL_MOUNT = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]


def command(out: Path, data: Path) -> list[str]:
    flags = [part for setting in [*TINY, *OPTIONS, f"data.root={data}"] for part in ("--set", setting)]
    return [sys.executable, str(ROOT / "train.py"), str(DEFAULT), *flags, "--device", "cpu", "--out", str(out)]


def errors_of(process: "subprocess.CompletedProcess[str]") -> list[str]:
    """Lines on standard error other than progress."""
    return [line for line in process.stderr.replace("\r", "\n").splitlines() if line.startswith(("train.py", "Trace"))]


def assert_it_goes_on(out: Path, tmp_path: Path) -> None:
    """What a failed run left is whole, and leads where an undisturbed run leads."""
    left = checkpoint_paths(out / "checkpoints")
    assert 0 < len(left) < 12 and all(read_checkpoint(path) for path in left)
    assert not list(out.rglob("*.tmp"))
    ends = []
    for directory in (out, tmp_path / "undisturbed"):
        run(directory, tmp_path / "data", *OPTIONS)
        ends.append(read_checkpoint(checkpoint_paths(directory / "checkpoints")[-1])["generator"])
    for name, value in ends[1].items():
        assert torch.equal(ends[0][name], value), name


def test_a_small_file_system_keeps_the_last_checkpoint_and_the_run_goes_on(tmp_path: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    small, kept = tmp_path / "small", tmp_path / "kept"
    small.mkdir()
    mount = f"mount -t tmpfs -o size=900k none {small}"
    if subprocess.run([*IN_SMALL_MOUNT, mount], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    script = f'{mount} && "$@"; status=$?; cp -r {small}/run {kept}; exit $status'
    process = subprocess.run(
        [*IN_SMALL_MOUNT, script, "sh", *command(small / "run", tmp_path / "data")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 4, process.stderr
    (told,) = errors_of(process)
    assert "No space left on device" in told
    assert_it_goes_on(kept, tmp_path)


WRITERS = {
    "png": ["gan.sample", "--count", "4000"],
    "npz": ["gan.sample", "--format", "npz", "--count", "4000"],
    "safetensors": ["gan.export", "--format", "safetensors"],
    "torchscript": ["gan.export", "--format", "torchscript"],
    "onnx": ["gan.export", "--format", "onnx"],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    run(folder / "run", folder / "data", "training.steps=1", "checkpoint.every=1")
    return folder / "run"


@pytest.mark.parametrize("writer", WRITERS)
def test_a_disk_that_is_full_is_one_line_with_status_4_and_nothing_half_written(
    trained: Path, tmp_path: Path, writer: str
) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    small = tmp_path / "small"
    small.mkdir()
    mount = f"mount -t tmpfs -o size=16k none {small}"
    if subprocess.run([*IN_SMALL_MOUNT, mount], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    module, *options = WRITERS[writer]
    script = f'{mount} && "$@"; status=$?; find {small} -name "*.tmp"; exit $status'
    program = [sys.executable, "-m", module, str(trained), *options, "--device", "cpu"]
    program = program[:-2] if module == "gan.export" else program
    process = subprocess.run(
        [*IN_SMALL_MOUNT, script, "sh", *program, "--out", str(small / "written")],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert process.returncode == 4, process.stderr
    assert process.stderr.count("No space left on device") == 1 and "Traceback" not in process.stderr
    assert not process.stdout  # no file with a temporary name


WRITE = """
import sys, time
from gan.files import atomic_folder, atomic_path
with (atomic_path if sys.argv[2] == "file" else atomic_folder)(sys.argv[1]) as temporary:
    (temporary if sys.argv[2] == "file" else temporary / "part").write_text("half")
    print(temporary, flush=True)
    time.sleep(100)
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_writer_left_is_swept_by_the_next_and_a_living_ones_is_not(tmp_path: Path, kind: str) -> None:
    def begin() -> tuple["subprocess.Popen[str]", Path]:
        arguments = [sys.executable, "-c", WRITE, str(tmp_path / "it[1]"), kind]
        writer = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert writer.stdout is not None
        return writer, Path(writer.stdout.readline().strip())

    killed, left = begin()
    killed.kill()
    killed.wait()
    assert left.exists()
    living, held = begin()
    assert not left.exists() and held.exists()
    with (atomic_path if kind == "file" else atomic_folder)(tmp_path / "it[1]") as temporary:
        (temporary if kind == "file" else temporary / "part").write_text("whole")
    assert held.exists()
    living.kill()
    living.wait()
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["it[1]"]


def test_a_limit_on_file_sizes_is_named_with_status_4(tmp_path: Path) -> None:
    run(tmp_path / "whole", tmp_path / "data", *OPTIONS, "training.steps=1")
    (whole,) = checkpoint_paths(tmp_path / "whole" / "checkpoints")
    limit = whole.stat().st_size - 1000

    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    out = tmp_path / "limited"
    process = subprocess.run(
        command(out, tmp_path / "data"), capture_output=True, text=True, check=False, preexec_fn=lower
    )
    assert process.returncode == 4
    (line,) = errors_of(process)
    assert line == f"train.py: cannot write {out}/checkpoints/step_00000001.pt: File too large"
    assert not list((out / "checkpoints").iterdir())


@pytest.mark.parametrize("script", ["fault_injection.py --quick --task export", "power_cut.py --task export"])
def test_no_failing_call_and_no_power_cut_loses_anything(script: str) -> None:
    """Of one command; without options the scripts try all."""
    name, *options = script.split()
    program = [sys.executable, str(ROOT / "benchmarks" / name), *options]
    process = subprocess.run(program, capture_output=True, text=True, check=False, cwd=ROOT)
    assert process.returncode == 0, process.stdout + process.stderr
    assert re.search(r" [1-9]\d* survived, 0 lost", process.stdout), process.stdout


def test_a_file_that_cannot_be_held_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("gan.files.os.open", refuse)
    with pytest.raises(StorageError), atomic_path(tmp_path / "it.json"):
        raise AssertionError("nothing was to be written")
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())
