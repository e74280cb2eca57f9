"""Hostile and broken input: read or refused in one line with status 2; nothing is executed, nothing written."""

import io
import json
import os
import re
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

import gan
from benchmarks.fuzz import READERS, fuzz
from benchmarks.fuzz_configs import VALID
from benchmarks.fuzz_files import write_export
from gan.commands.line import prepare as prepare_command
from gan.config import parse_yaml
from gan.data import preparation
from gan.data.store import prepare
from gan.errors import UserError
from tests import DEFAULT, ROOT
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


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(touched) (w) file closefile\nshowpage\n%%EOF\n"


def image_bytes(size: tuple[int, int], fmt: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("L", size, 7).save(buffer, fmt)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (EPS, "no image that Pillow knows"),
        (image_bytes((8, 8), "PCX"), "no image that Pillow knows"),
        (image_bytes((1, 4000)), "sides up to 1:100 accepted"),
        (image_bytes((9000, 9000)), "9000×9000 pixels found, up to 80,000,000 accepted"),
    ],
    ids=["EPS", "PCX", "narrow", "large"],
)
def test_an_image_that_asks_for_a_program_or_for_too_much_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, words: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a program was run")

    monkeypatch.setattr(subprocess, "check_call", refuse)  # what Pillow runs Ghostscript by
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(content)
    with warnings.catch_warnings(), pytest.raises(UserError, match=words):
        warnings.simplefilter("error")
        prepare("image_folder", split="train", resolution=8, path=str(tmp_path / "images"), root=str(tmp_path / "data"))


def test_what_pillow_would_warn_of_is_one_line_too(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(image_bytes((10_000, 10_000)))  # above the 89 million pixels that Pillow warns of
    read = (
        f"from gan.data.image_folder import read_rgb; read_rgb(__import__('pathlib').Path({str(tmp_path)!r}, 'a.png'))"
    )
    process = subprocess.run([sys.executable, "-c", read], capture_output=True, text=True, check=False, cwd=ROOT)
    assert "Warning" not in process.stderr and "10000×10000 pixels found" in process.stderr.splitlines()[-1]


def test_a_pipe_is_no_image_and_nobody_waits_for_it(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    os.mkfifo(tmp_path / "images" / "a.png")
    with pytest.raises(UserError, match="not a regular file"):
        prepare("image_folder", split="train", resolution=8, path=str(tmp_path / "images"), root=str(tmp_path / "data"))
    with pytest.raises(UserError, match="not a regular file"):
        preparation.prepare_directory(str(tmp_path / "images"), tmp_path / "prepared", resolution=8)


@pytest.mark.parametrize("width", [10**30, 10**9, 3 * 10**6])
def test_a_width_that_no_machine_has_room_for_is_one_line(tmp_path: Path, width: int) -> None:
    arguments = [str(DEFAULT), "--set", f"generator.width={width}", "--out", str(tmp_path / "run"), "--device", "cpu"]
    found = CliRunner().invoke(main, arguments)
    assert found.exit_code == 2, found.output
    assert f"generator.width={width}: needs " in found.output and len(found.output.splitlines()) == 1
    fitting = int(re.findall(r"at most about (\d+) would fit", found.output)[0])
    assert 100 < fitting < width / 100
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_classes": 10**12}, "10 class_names found for 1000000000000 classes"),
        ({"class_names": ["a"]}, "1 class_names found for 10 classes"),
        ({"num_classes": 2, "class_names": ["a", "b"]}, "damaged, or not of the config beside it"),
        ({"channels": 10**12}, "damaged, or not of the config beside it"),
        ({"latent_dim": 10**12}, "config.yaml beside it is of another generator"),
    ],
)
def test_a_description_that_does_not_fit_its_weights_is_one_line(
    changes: dict[str, object], words: str, tmp_path: Path
) -> None:
    write_export(tmp_path)
    assert gan.load(tmp_path, device="cpu").sample(1).shape == (1, 1, 32, 32)
    description = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(description | changes))
    with pytest.raises(UserError, match=words):
        gan.load(tmp_path, device="cpu")


def test_a_config_of_endless_blocks_beside_weights_is_one_line(tmp_path: Path) -> None:
    write_export(tmp_path)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    damaged = "damaged, or not of the config beside it"
    for generator, words in (
        ({"name": "r3gan", "options": {"blocks": 10**9}}, "generator.options.blocks: 1000000000 found, up to 1000"),
        ({"name": "r3gan", "options": {"blocks": 1000}}, damaged),
        ({"width": 10**9}, damaged),
    ):
        changed = config | {"generator": config["generator"] | generator}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(changed))
        description = json.loads((tmp_path / "config.json").read_text())
        description["architecture"] = changed["generator"]["name"]
        (tmp_path / "config.json").write_text(json.dumps(description))
        with pytest.raises(UserError, match=words):
            gan.load(tmp_path, device="cpu")


def test_what_a_terminal_would_obey_is_shown_as_its_escape(tmp_path: Path) -> None:
    source = tmp_path / "it.zip"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("train/a/\x1b[2J\u202e.png", b"no image")
        archive.writestr("train/a/b.png", image_bytes((8, 8)))
    arguments = [str(source), "--resolution", "8", "--processes", "1", "--out", str(tmp_path / "out")]
    for options in ([], ["--skip-corrupt"]):
        found = CliRunner().invoke(prepare_command.main, [*arguments, *options])
        lines = found.output.replace("\r", "\n").split("\n")
        assert "\\x1b[2J\\u202e.png" in found.output and all(map(str.isprintable, lines))


def test_a_number_of_more_digits_than_anything_has_is_one_line() -> None:
    for text in ("9" * 50_000, "0x" + "f" * 50_000):
        with pytest.raises(UserError, match="digits found, up to 1000 accepted"):
            parse_yaml(f"seed: {text}", "config")


def test_an_empty_path_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(main, [str(DEFAULT), "--out", ""])
    assert found.exit_code == 2 and "'' found, a path accepted" in found.output
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_reader_that_has_read_enough_is_no_error() -> None:
    script = f"{sys.executable} {ROOT / 'train.py'} --dry-run | head -n 1; echo ${{PIPESTATUS[0]}}"
    found = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not found.stderr
    assert found.stdout.splitlines()[-1] in ("0", "141")
