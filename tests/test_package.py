"""The package: what is installed, and the command `gan` from any folder."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from gan.commands import listing
from gan.commands.line.list import KINDS
from gan.commands.main import COMMANDS, main
from gan.config import config_names, find_config, load_tree
from gan.data.store import prepare
from gan.errors import UserError
from tests import ROOT

HEAVY = {"torch", "numpy", "pydantic", "yaml", "torchvision", "sklearn", "scipy", "tensorboard", "PIL"}
GROUPS = {"evaluate": ("checkpoint", "images", "compare", "neighbours", "modes")}


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what git knows, as `pip install git+…` would."""
    pytest.importorskip("setuptools")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("gan", "configs", "pyproject.toml", "setup.py", "README.md", "LICENSE"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(out), str(source)], check=True, timeout=120)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's files alone, as they lie in site-packages."""
    folder = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run_installed(installed: Path, where: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = f"import sys; sys.path.insert(0, {str(installed)!r}); {arguments[0]}"
    command = [sys.executable, "-P", "-c", program, *arguments[1:]]
    return subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=300)


def test_every_module_and_config_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    kinds = ("*.py", "*.safetensors")
    code = {path.relative_to(ROOT).as_posix() for kind in kinds for path in (ROOT / "gan").rglob(kind)}
    configs = {f"gan/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").rglob("*.yaml")}
    metadata = {name for name in names if ".dist-info/" in name}
    assert names - metadata == code | configs | {"gan/py.typed"}


def test_the_metadata_has_the_command_and_what_it_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (points,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert "gan = gan.commands.main:main" in archive.read(points).decode()
        (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        needs = message_from_bytes(archive.read(metadata)).get_all("Requires-Dist")
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    for need in needs:
        name, lowest = re.match(r"([\w.-]+)>=([\d.]+)", need).groups()
        if "extra ==" in need and name not in pinned:
            continue  # gdown and lmdb, which nothing else needs
        assert version(lowest) <= version(pinned[name]), need
    tools = {"ruff", "mypy", "types-PyYAML", "types-tqdm", "onnxruntime", "pytest", "pytest-xdist", "hypothesis"}
    assert {re.match(r"[\w.-]+", need)[0] for need in needs} - {"gdown", "lmdb"} == pinned.keys() - tools


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:3])


def test_an_installed_package_finds_its_configs_and_itself_from_any_folder(installed: Path, tmp_path: Path) -> None:
    start = "from gan.commands.main import main; main()"
    (tmp_path / "elsewhere").mkdir()
    dry = run_installed(
        installed, tmp_path / "elsewhere", start, "train", "digits/dcgan_cr", "--dry-run", "--device", "cpu"
    )
    assert dry.returncode == 0, dry.stderr
    assert "name: cascading_rejection" in dry.stdout
    where = run_installed(installed, tmp_path, "import gan.config; print(gan.config.config_folder())")
    assert where.stdout.strip() == str(installed / "gan" / "configs")
    assert not any((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("name", ["digits/dcgan_cr", "digits/dcgan_cr.yaml", "configs/digits/dcgan_cr.yaml"])
def test_a_packaged_config_is_found_by_its_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_tree(find_config(name)) == load_tree(ROOT / "configs" / "digits" / "dcgan_cr.yaml")


def test_a_file_comes_before_a_packaged_config_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs" / "digits").mkdir(parents=True)
    (tmp_path / "configs" / "digits" / "dcgan_cr.yaml").write_text("seed: 7\n")
    assert load_tree(find_config("configs/digits/dcgan_cr.yaml")) == {"seed": 7}


def test_a_config_that_is_nearly_named_is_suggested() -> None:
    with pytest.raises(UserError, match="did you mean 'digits/dcgan_cr'"):
        find_config("digits/dcgan-cr")
    assert len(config_names()) == len(list((ROOT / "configs").rglob("*.yaml")))


@pytest.mark.parametrize(
    "arguments",
    [[], *([name] for name in COMMANDS), *([group, name] for group, names in GROUPS.items() for name in names)],
    ids=" ".join,
)
def test_no_help_waits_for_a_library(arguments: list[str]) -> None:
    program = f"""
import sys
from gan.commands.main import main
try:
    main({[*arguments, "--help"]!r}, prog_name="gan")
except SystemExit as end:
    assert end.code == 0
print(sorted({HEAVY!r} & {{*sys.modules}}), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == "[]"
    assert done.stdout.startswith("Usage: " + " ".join(["gan", *arguments]))


def test_preparing_shows_its_help_without_torch() -> None:
    program = f"""
import runpy, sys
sys.argv = ["gan.data", "--help"]
try:
    runpy.run_module("gan.data", run_name="__main__")
except SystemExit as end:
    assert end.code == 0
print(sorted({HEAVY!r} & {{*sys.modules}}), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == "[]"
    assert done.stdout.startswith("Usage: python -m gan.data")


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "compare.py"])
def test_the_scripts_are_the_commands(script: str) -> None:
    shown = subprocess.run([sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    name = script.removesuffix(".py")
    assert (
        shown.stdout.replace(script, f"gan {name}").split()
        == call(name, "--help").output.replace("main", "gan", 1).split()
    )


def test_without_an_environment_one_line_says_what_makes_it() -> None:
    command = [sys.executable, "-S", "train.py", "--help"]  # without site-packages
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "click is not installed" in line and "make environment" in line


def test_shells_complete_commands_and_configs() -> None:
    def completed(words: str, number: int) -> list[str]:
        environment = {"_GAN_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(number)}
        shown = CliRunner().invoke(main, [], prog_name="gan", env=environment, complete_var="_GAN_COMPLETE")
        return [line.partition(",")[2] for line in shown.output.splitlines()]

    assert completed("gan tr", 1) == ["train"]
    assert "digits/dcgan_cr" in completed("gan train dig", 2)
    assert completed("gan list los", 2) == ["losses"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_name_is_listed_with_a_meaning(kind: str) -> None:
    result = call("list", kind)
    assert result.exit_code == 0, result.output
    entries = [line for line in result.stdout.splitlines() if not line.startswith(" ")]
    assert len(entries) >= 2
    for entry in entries:
        name, meaning = entry.split(": ", 1)
        assert name and len(meaning) > 10, entry


def test_kinds_and_options_are_those_of_the_code() -> None:
    assert set(KINDS) == listing.KINDS.keys()
    heads = call("list", "heads").stdout
    assert "stages=3, rejection=sequential, spectral_norm=true" in heads
    assert "did you mean 'heads'" in call("list", "hedas").stderr


@pytest.mark.slow
def test_the_head_works_in_the_loop_of_the_page(installed: Path, tmp_path: Path) -> None:
    """As the page has it, from the installed package: after 200 steps the fakes are near the circle of the reals."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "head_elsewhere.md").read_text(), re.DOTALL)
    loop = code[code.index("for step") :]
    assert len(loop.rstrip().splitlines()) <= 10
    check = """
assert head(backbone(real)).shape == (64, 3)
import gan, pathlib
assert pathlib.Path(gan.__file__).parents[1] == pathlib.Path(sys.argv[1])
print(generator(torch.randn(500, 16)).norm(dim=1).mean().item())
"""
    done = run_installed(installed, tmp_path, f"import torch; torch.manual_seed(0)\n{code}{check}", str(installed))
    assert done.returncode == 0, done.stderr
    assert 0.5 < float(done.stdout) < 1.5
    assert not any(tmp_path.iterdir())


def test_a_data_set_becomes_one_file(tmp_path: Path) -> None:
    out = tmp_path / "digits.npz"
    options = ["--split", "test", "--cache", tmp_path / "cache"]
    result = call("prepare", "digits", "--out", out, *options, "--resolution", 16)
    assert result.exit_code == 0, result.output
    with np.load(out) as archive:
        assert archive["images"].shape == (360, 16, 16, 1) and archive["labels"].shape == (360,)
        assert archive["class_names"].tolist() == [str(digit) for digit in range(10)]
    source, copy = (prepare(*name, resolution=16, root=tmp_path / "cache", **rest) for name, rest in (
        (("digits",), {"split": "test"}), (("npz",), {"path": out})
    ))  # fmt: skip
    assert source.content_hash == copy.content_hash and source.class_names == copy.class_names
    again = call("prepare", "digits", "--out", out, *options)
    assert again.exit_code == 2 and "is there already" in again.stderr
    wrong = call("prepare", "cifar11", "--out", tmp_path / "x.npz", *options)
    assert wrong.exit_code == 2 and "did you mean 'cifar10'" in wrong.stderr
    assert "celeba has none of its own" in call("prepare", "celeba", "--out", tmp_path / "x.npz", *options).stderr
    assert not (tmp_path / "x.npz").exists()


def test_the_pins_and_the_project_agree_on_python() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["requires-python"] == ">=3.11"
    assert project["tool"]["ruff"]["target-version"] == "py311"
