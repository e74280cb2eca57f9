"""Runs and their data travel: images are known by their content, and reading a run writes nowhere else."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import gan
from gan.commands.image_sets import user_cache
from gan.commands.main import main
from gan.config import load_config
from gan.errors import UserError
from gan.export import main as export
from gan.sampling.open import cache_of, open_checkpoint
from gan.training.checkpoint import read_checkpoint, write_checkpoint
from gan.training.run_directory import RunDirectory, run_identity
from tests import DEFAULT
from tests.test_training import TINY, run, same


def write_images(path: Path, seed: int = 0) -> Path:
    """24 images of three classes."""
    random = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, images=random.integers(0, 256, (24, 32, 32, 3), dtype=np.uint8), labels=np.arange(24) % 3)
    return path


def settings(images: Path, *overrides: str) -> list[str]:
    return ["data.source=npz", f"data.path={images}", "conditional=true", *overrides]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images.npz, their prepared copy in data/, and a run of three steps on them."""
    home = tmp_path_factory.mktemp("home")
    run(home / "run", home / "data", *settings(write_images(home / "images.npz"), "training.steps=3"))
    return home


@pytest.fixture
def home(begun: Path, tmp_path: Path) -> Path:
    """A copy of it, at another place."""
    shutil.copytree(begun, tmp_path / "home")
    return tmp_path / "home"


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def final(out: Path) -> dict:
    state = read_checkpoint(out / "checkpoints" / "step_00000006.pt")
    state.pop("elapsed")
    return state


def test_a_run_goes_on_when_its_data_moved(begun: Path, home: Path, tmp_path: Path) -> None:
    moved = tmp_path / "new" / "renamed.npz"
    moved.parent.mkdir()
    (home / "images.npz").rename(moved)
    shutil.rmtree(home / "data")
    assert run(home / "run", tmp_path / "new" / "data", *settings(moved))
    assert load_config(home / "run" / "config.yaml").data.path == str(moved)
    shutil.copytree(begun / "run", tmp_path / "unmoved")
    assert run(tmp_path / "unmoved", begun / "data", *settings(begun / "images.npz"))
    assert same(final(home / "run"), final(tmp_path / "unmoved"))


def test_a_run_goes_on_with_the_same_folder_elsewhere(tmp_path: Path) -> None:
    from PIL import Image

    random = np.random.default_rng(0)
    for number in range(12):
        folder = tmp_path / "a" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    source = ["data.source=image_folder"]
    run(tmp_path / "run", tmp_path / "data", *source, f"data.path={tmp_path / 'a'}", "training.steps=3")
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copy)  # with other times
    assert run(tmp_path / "run", tmp_path / "data", *source, f"data.path={tmp_path / 'b'}")
    (tmp_path / "b" / "class0" / "0.png").unlink()
    with pytest.raises(UserError, match="on other images"):
        run(tmp_path / "run", tmp_path / "data", *source, f"data.path={tmp_path / 'b'}", "training.steps=9")


def test_other_images_under_the_same_name_are_refused_in_one_line(home: Path) -> None:
    write_images(home / "images.npz", seed=1)
    before = files(home / "run")
    config = (home / "run" / "config.yaml").read_bytes()
    overrides = [*TINY, f"data.root={home / 'data'}", *settings(home / "images.npz")]
    flags = [part for override in overrides for part in ("--set", override)]
    result = CliRunner().invoke(main, ["train", str(DEFAULT), *flags, "--device", "cpu", "--out", str(home / "run")])
    assert result.exit_code == 2 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert "on other images" in line and str(home / "images.npz") in line and "choose another directory" in line
    assert files(home / "run") == before and (home / "run" / "config.yaml").read_bytes() == config


def test_other_labels_are_other_data(home: Path) -> None:
    images = np.load(home / "images.npz")["images"]
    np.savez(home / "images.npz", images=images, labels=(np.arange(24) + 1) % 3)
    with pytest.raises(UserError, match="on other images"):
        run(home / "run", home / "data", *settings(home / "images.npz"))


def as_it_was_before(out: Path) -> None:
    """Checkpoints as they were when they did not say which images they are of."""
    config = load_config(out / "config.yaml")
    for path in (out / "checkpoints").iterdir():
        state = read_checkpoint(path)
        for name in ("images", "format"):
            del state[name]
        state["run"] = run_identity(config.model_dump(exclude_defaults=True), places=True)
        write_checkpoint(path, state)


def test_checkpoints_that_name_no_images_go_on_as_before(home: Path, begun: Path, tmp_path: Path) -> None:
    as_it_was_before(home / "run")
    assert "images" not in read_checkpoint(home / "run" / "checkpoints" / "step_00000003.pt")
    (home / "images.npz").rename(tmp_path / "moved.npz")
    assert run(home / "run", home / "data", *settings(tmp_path / "moved.npz"))
    state = final(home / "run")
    assert state["images"]["num_classes"] == 3  # from here on it is known


def test_a_checkpoint_without_its_config_still_knows_whose_it_is(home: Path) -> None:
    (home / "run" / "config.yaml").unlink()
    with pytest.raises(UserError, match="saved by a run of another config"):
        run(home / "run", home / "data", *settings(home / "images.npz", "seed=3"))
    assert run(home / "run", home / "data", *settings(home / "images.npz"))


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_loading_needs_no_data_and_writes_nothing(home: Path, elsewhere: Path) -> None:
    shutil.rmtree(home / "data")
    (home / "images.npz").unlink()
    before = files(home)
    generator = gan.load("../home/run")
    assert generator.sample(4).shape == (4, 3, 32, 32)
    assert (generator.num_classes, generator.class_names) == (3, ("0", "1", "2"))
    out = elsewhere.parent / "exported"
    arguments = ["../home/run", "--format", "safetensors", "--out", str(out)]
    exported = CliRunner().invoke(export, arguments)
    assert exported.exit_code == 0, exported.output
    assert gan.load(out).class_names == ("0", "1", "2")
    assert files(home) == before and files(elsewhere) == set()


def test_what_a_checkpoint_says_of_its_images_is_checked(home: Path) -> None:
    path = home / "run" / "checkpoints" / "step_00000003.pt"
    state = read_checkpoint(path)
    del state["format"]
    write_checkpoint(path, {**state, "images": {**state["images"], "channels": "many"}})
    with pytest.raises(UserError, match="channels"):
        gan.load(home / "run")


def evaluate(*arguments: object) -> Result:
    options = ["--metrics", "fid", "--samples", "8", "--device", "cpu", "--json"]
    result = CliRunner().invoke(main, ["evaluate", "checkpoint", *map(str, arguments), *options])
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.slow
def test_scoring_from_elsewhere_writes_into_the_run_or_the_cache_alone(home: Path, elsewhere: Path) -> None:
    shutil.rmtree(home / "data")  # as a run is found that was shared; its data are there
    file = home / "run" / "config.yaml"
    config = load_config(file, [f"data.path={home / 'images.npz'}", "data.root=/nowhere"])
    file.write_text(config.to_yaml())
    first = evaluate("../home/run")
    assert {path.name for path in home.iterdir()} == {"images.npz", "run"}
    assert any((home / "run" / "data").glob("npz-all-*/meta.json"))
    cache = elsewhere.parent / "cache"
    second = evaluate("../home/run", "--cache", cache)
    assert json.loads(first.stdout)["metrics"] == json.loads(second.stdout)["metrics"]
    assert any(cache.glob("npz-all-*/meta.json")) and files(elsewhere) == set()


def test_a_config_does_not_decide_where_a_run_is_scored(home: Path, tmp_path: Path) -> None:
    run_directory = RunDirectory(home / "run")
    config = load_config(home / "run" / "config.yaml", [f"data.root={tmp_path}"])
    assert cache_of(run_directory, config) == home / "data"  # beside the run, from training
    shutil.rmtree(home / "data")
    assert cache_of(run_directory, config) == home / "run" / "data"
    assert cache_of(run_directory, config, Path("mine")) == Path("mine")
    opened = open_checkpoint(home / "run", cache=Path("mine"), device="cpu")
    assert opened.config.data.root == "mine"
    assert torch.equal(opened.sample(2), gan.load(home / "run").sample(2))


def test_sets_of_images_are_prepared_in_the_users_cache(
    tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert user_cache() == tmp_path / "caches" / "gan"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_cache() == tmp_path / ".cache" / "gan"
    Path("outputs/data").mkdir(parents=True)
    assert user_cache() == Path("outputs/data")
