"""`gan runs`: what there is, without touching it."""

from pathlib import Path

from gan.commands.runs import table_of_runs
from gan.config import load_config
from gan.files import locked
from tests import DEFAULT
from tests.test_package import call


def make_run(path: Path, newest: int) -> None:
    (path / "checkpoints").mkdir(parents=True)
    (path / "config.yaml").write_text(load_config(DEFAULT, ["training.steps=20"]).to_yaml())
    (path / "metrics.jsonl").write_text('{"step": 10, "evaluation/fid": 41.5, "evaluation/seconds": 1.0}\n')
    (path / "checkpoints" / f"step_{newest:08d}.pt").touch()


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
