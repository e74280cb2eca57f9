"""Hostile and broken input: read or refused in one line with status 2; nothing is executed, nothing written."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from benchmarks.fuzz import READERS, fuzz
from benchmarks.fuzz_configs import VALID
from train import main


def test_ten_thousand_cases_for_all_readers() -> None:
    assert sum(share for _, share in READERS.values()) >= 10_000


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_every_case_is_read_or_refused(reader: str) -> None:
    read, refused = fuzz(reader, READERS[reader][1], seed=1)
    assert read and refused  # neither harmless nor hopeless


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n"
DEEP = "data: " + "[" * 20_000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "aliases are not accepted"),
        ("data: !!python/object/apply:os.system ['touch executed']", "tags are not accepted"),
        (DEEP, "not valid YAML"),
        ("seed: 1\nseed: 2", "key 'seed' appears twice"),
        ("- a list", "list found, a mapping of sections accepted"),
        ("\x00", "not valid YAML"),
        ("", "NoneType found"),
        (yaml.safe_dump({**VALID, "seed": True}), "seed: True found"),
        (yaml.safe_dump({**VALID, "seed": 1.5}), "seed: 1.5 found"),
        (yaml.safe_dump({**VALID, "sede": 1}), "did you mean 'seed'"),
        (yaml.safe_dump({**VALID, "training": {"steps": float("inf")}}), "training.steps"),
    ],
)
def test_a_hostile_config_is_one_line_with_status_2(
    text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(text)
    result = CliRunner().invoke(main, ["config.yaml", "--out", "run"])
    assert result.exit_code == 2
    assert words in result.output and len(result.output.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (np.array([{}], dtype=object), None, "Object arrays"),
        (np.zeros((4, 8, 8, 3)), None, "found float64"),
        (np.zeros((0, 8, 8, 3), np.uint8), None, "at least one image"),
        (np.zeros((4, 8, 8, 3), np.uint8), np.array([0, 1, 2, -1]), "found -1 to 2"),
        (np.zeros((4, 8, 8, 3), np.uint8), np.array([0, 1, 2, 10**9]), "found 0 to 1000000000"),
        (np.zeros((4, 8, 8, 3), np.uint8), np.array([0, 1]), "found shape (2,)"),
        (np.zeros((4, 8, 8, 3), np.uint8), np.array([0.0, 1, 2, 3]), "found float64"),
    ],
)
def test_a_wrong_archive_is_one_line_with_status_2(
    images: np.ndarray, labels: np.ndarray | None, words: str, tmp_path: Path
) -> None:
    arrays = {"images": images} if labels is None else {"images": images, "labels": labels}
    np.savez(tmp_path / "set.npz", **arrays)
    settings = ["data.source=npz", f"data.path={tmp_path / 'set.npz'}", f"data.root={tmp_path / 'data'}"]
    flags = [part for setting in settings for part in ("--set", setting)]
    result = CliRunner().invoke(main, [*flags, "--out", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert words in result.output and len(result.output.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()
